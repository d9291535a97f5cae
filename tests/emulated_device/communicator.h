// A group of ranks that talk over shared memory: what collectives.cc calls of communicator.cc.
#pragma once

#include "device.h"

namespace emulated {

enum class Kind : uint32_t { kAllReduce = 1, kBroadcast, kReduce, kAllGather, kReduceScatter, kAllToAll, kMessage };
constexpr size_t kNoRoot = ~size_t{0};

struct Type {
  const char* name;
  size_t size;
};
Type type_of(C_DataType type);

// What a rank calls: the same on all ranks, but for the sizes of an all_to_all.
struct Signature {
  Kind kind;
  C_DataType type;
  C_CCLReduceOp operation;
  size_t count;  // of values
  size_t root;
  bool operator==(const Signature& other) const;
  std::string text() const;
};

struct Shared;
struct Place;
struct Box;

struct Communicator {
  size_t ranks, rank, number;
  Shared* shared;
  uint64_t calls = 0;
  Place& place(size_t of);
  Place& mine() { return place(rank); }
  Box& box(size_t from, size_t to);
  // "rank 1" of the job
  std::string who(size_t of);
  std::string text();
};
// Waits for the other ranks. `name` is the group's own on this machine; its memory vanishes when the
// last process that has it ends.
Communicator* form_communicator(const std::string& name, size_t ranks, size_t rank);

using Parts = std::vector<std::vector<char>>;  // by source

// All ranks' parts for this one. `sizes[r]` bytes of `sent`, one after another, go to rank r; with
// `to_all` there is one size, of what goes to all. Ends the process where the ranks' signatures
// differ. False where the process ends.
bool exchange(Communicator& c, const Signature& signature, const std::vector<const char*>& sent, const std::vector<size_t>& sizes,
              bool to_all, Parts& received);

struct Message {
  Communicator* communicator;
  bool is_sent;
  size_t peer;
  void* data;
  Signature signature;
  size_t size() const { return signature.count * type_of(signature.type).size; }
  std::string text() const;
};
// All side by side; those in one direction between two ranks in their order. A send ends when its
// receiver has the message.
void transfer(const std::vector<Message>& messages);

}  // namespace emulated
