// Collectives between the processes of one machine, over shared memory. As NCCL's, an operation runs
// in its stream's order, a collective starts when all ranks have come to it, and a send ends when
// its receiver has the message. Unlike NCCL's, all ranks compare what they call, each lags a little
// behind the computation, and one that waits too long says what every rank waits for.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <sstream>

#include "device.h"
#include "paddle/phi/common/bfloat16.h"
#include "paddle/phi/common/float16.h"

namespace emulated {
namespace {

using Clock_ = std::chrono::steady_clock;

constexpr size_t kIdSize = 16;
constexpr size_t kChunk = 1 << 16;
constexpr size_t kMostRanks = 16;
constexpr size_t kNoRoot = ~size_t{0};

enum class Kind : uint32_t { kAllReduce = 1, kBroadcast, kReduce, kAllGather, kReduceScatter, kAllToAll, kMessage };
const char* name_of(Kind kind) {
  static const char* names[] = {"nothing", "all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "all_to_all", "message"};
  return names[static_cast<uint32_t>(kind)];
}

struct Type {
  const char* name;
  size_t size;
};
Type type_of(C_DataType type) {
  switch (type) {
    case BOOL: return {"bool", 1};
    case UINT8: return {"uint8", 1};
    case INT8: return {"int8", 1};
    case INT16: return {"int16", 2};
    case FLOAT16: return {"float16", 2};
    case BFLOAT16: return {"bfloat16", 2};
    case INT32: return {"int32", 4};
    case FLOAT32: return {"float32", 4};
    case INT64: return {"int64", 8};
    case FLOAT64: return {"float64", 8};
    default: fail("a collective of data type %d is not known", static_cast<int>(type));
  }
}

// What a rank calls: the same on all ranks, but for `sizes`.
struct Signature {
  Kind kind;
  C_DataType type;
  C_CCLReduceOp operation;
  size_t count;  // of values
  size_t root;
  bool operator==(const Signature& other) const {
    return kind == other.kind && type == other.type && operation == other.operation && count == other.count && root == other.root;
  }
  std::string text() const {
    static const char* operations[] = {"sum", "average", "maximum", "minimum", "product"};
    bool reduces = kind == Kind::kAllReduce || kind == Kind::kReduce || kind == Kind::kReduceScatter;
    std::ostringstream said;
    said << name_of(kind);
    if (kind != Kind::kAllToAll) said << " of " << count << " " << type_of(type).name;
    if (reduces) said << " (" << operations[operation] << ")";
    if (root != kNoRoot) said << " at root " << root;
    return said.str();
  }
};

// ---- What processes share: for each communicator a place of every rank, and a box for every pair.

struct Place {
  std::atomic<int64_t> process;  // the rank in the job
  std::atomic<uint64_t> called;  // collectives that this rank has come to
  std::atomic<uint64_t> filled, emptied;  // chunks, in all its life
  Signature signature;           // of the latest call
  size_t sizes[kMostRanks];      // bytes for each rank: what `data` holds, one after another
  char waits_for[512];           // what the whole process waits for, once it has waited for long
  char data[kChunk];
};
struct Box {
  std::atomic<uint32_t> is_full;
  Signature signature;
  size_t size;  // of what is in the box
  char data[kChunk];
};
struct Shared {
  std::atomic<uint32_t> attached;
  Place places[kMostRanks];
  Box boxes[1];  // [from][to]
};

struct Communicator {
  size_t ranks, rank, number;
  Shared* shared;
  size_t bytes;
  uint64_t calls = 0;
  Place& place(size_t of) { return shared->places[of]; }
  Place& mine() { return shared->places[rank]; }
  Box& box(size_t from, size_t to) { return shared->boxes[from * ranks + to]; }
  // "rank 1" of the job
  std::string who(size_t of) { return "rank " + std::to_string(place(of).process); }
  std::string text() {
    std::string members;
    for (size_t i = 0; i < ranks; ++i) members += (i ? "," : "") + std::to_string(place(i).process);
    return "group of ranks " + members + ", communicator " + std::to_string(number);
  }
};

std::mutex& mutex = *new std::mutex;
auto& communicators = *new std::set<Communicator*>;
auto& waits = *new std::map<const void*, std::string>;  // by whoever waits

// ---- Waiting. A process that waits for long tells all whom it shares memory with; one that gives
// up reads what the others have told.

void tell_waits() {
  std::string all;
  for (auto& [who, what] : waits) all += (all.empty() ? "" : "; ") + what;
  for (auto communicator : communicators) {
    Place& place = communicator->mine();
    strncpy(place.waits_for, all.c_str(), sizeof place.waits_for - 1);
  }
}

std::string all_waits() {
  std::map<int64_t, std::string> said;
  for (auto communicator : communicators)
    for (size_t i = 0; i < communicator->ranks; ++i) {
      Place& place = communicator->place(i);
      std::string what(place.waits_for, strnlen(place.waits_for, sizeof place.waits_for));
      said[place.process] = what.empty() ? "waits for nothing" : "waits for " + what;
    }
  std::string lines;
  for (auto& [rank, what] : said) lines += "\n  rank " + std::to_string(rank) + " " + what;
  return lines;
}

class Patience {
 public:
  // `what` says what is waited for.
  explicit Patience(std::function<std::string()> what) : what(std::move(what)), begin(Clock_::now()) {}
  ~Patience() {
    if (!has_told) return;
    std::lock_guard<std::mutex> lock(mutex);
    waits.erase(this);
    tell_waits();
  }
  // A short pause; false where the process ends and waits for nobody any more.
  bool pause() {
    if (is_ending()) return false;
    static const int64_t limit = setting("EMULATED_DEVICE_TIMEOUT_S", 120);
    auto waited = Clock_::now() - begin;
    usleep(waited < std::chrono::milliseconds(2) ? 20 : 300);
    if (!has_told && waited > std::chrono::seconds(1)) {
      std::lock_guard<std::mutex> lock(mutex);
      waits[this] = what();
      has_told = true;
      tell_waits();
    }
    if (waited > std::chrono::seconds(limit)) {
      std::string lines;
      {
        std::lock_guard<std::mutex> lock(mutex);
        lines = all_waits();
      }
      fprintf(stderr, "\nemulated device of rank %ld: no progress for %ld s:%s\n", rank_of_process(), limit, lines.c_str());
      fflush(stderr);
      sleep(1);  // others have waited as long and say it, too
      fail("gave up waiting for %s", what().c_str());
    }
    return true;
  }

 private:
  std::function<std::string()> what;
  Clock_::time_point begin;
  bool has_told = false;
};

// Until the predicate holds of every rank. False where the process ends.
template <typename Predicate>
bool wait_for_all(Communicator& c, const Signature& signature, Predicate holds) {
  auto is_there = [&](size_t i) { return holds(c.place(i)); };
  Patience patience([&] {
    std::string missing;
    for (size_t i = 0; i < c.ranks; ++i)
      if (!is_there(i)) missing += (missing.empty() ? "" : ", ") + c.who(i);
    return (missing.empty() ? "nobody" : missing) + " in call " + std::to_string(c.calls) + ", " + signature.text() + " (" + c.text() + ")";
  });
  for (size_t i = 0; i < c.ranks; ++i)
    while (!is_there(i))
      if (!patience.pause()) return false;
  return true;
}

// ---- Collectives: every rank shows what it calls and its bytes, and takes what it needs.

using Parts = std::vector<std::vector<char>>;  // by source

// All ranks' parts for this one. `sizes[r]` bytes of `sent`, one after another, go to rank r; with
// `to_all` there is one size, of what goes to all. False where the process ends.
bool exchange(Communicator& c, const Signature& signature, const std::vector<const char*>& sent, const std::vector<size_t>& sizes,
              bool to_all, Parts& received) {
  Place& mine = c.mine();
  ++c.calls;
  mine.signature = signature;
  std::copy(sizes.begin(), sizes.end(), mine.sizes);
  mine.called.store(c.calls, std::memory_order_release);
  if (!wait_for_all(c, signature, [&](Place& place) { return place.called.load(std::memory_order_acquire) >= c.calls; })) return false;
  for (size_t i = 0; i < c.ranks; ++i)
    if (!(c.place(i).signature == signature) && c.place(i).called == c.calls)
      fail("the ranks of a group call different collectives: %s calls %s, and %s calls %s, each as call %lu of the %s", c.who(c.rank).c_str(),
           signature.text().c_str(), c.who(i).c_str(), c.place(i).signature.text().c_str(), c.calls, c.text().c_str());

  std::vector<char> outgoing;
  for (size_t i = 0; i < sizes.size(); ++i) outgoing.insert(outgoing.end(), sent[i], sent[i] + sizes[i]);
  std::vector<std::vector<char>> whole(c.ranks);
  std::vector<std::vector<size_t>> layouts(c.ranks);
  size_t longest = 0;
  for (size_t i = 0; i < c.ranks; ++i) {
    layouts[i].assign(c.place(i).sizes, c.place(i).sizes + (to_all ? 1 : c.ranks));
    size_t total = 0;
    for (size_t size : layouts[i]) total += size;
    whole[i].resize(total);
    longest = std::max(longest, total);
  }
  // Also without bytes: nobody may change a place before all have read it.
  uint64_t chunks = std::max<uint64_t>(1, (longest + kChunk - 1) / kChunk), before = mine.filled;
  for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
    size_t at = chunk * kChunk;
    if (at < outgoing.size()) memcpy(mine.data, outgoing.data() + at, std::min(kChunk, outgoing.size() - at));
    uint64_t number = before + chunk + 1;
    mine.filled.store(number, std::memory_order_release);
    if (!wait_for_all(c, signature, [&](Place& place) { return place.filled.load(std::memory_order_acquire) >= number; })) return false;
    for (size_t i = 0; i < c.ranks; ++i)
      if (at < whole[i].size()) memcpy(whole[i].data() + at, c.place(i).data, std::min(kChunk, whole[i].size() - at));
    mine.emptied.store(number, std::memory_order_release);
    if (!wait_for_all(c, signature, [&](Place& place) { return place.emptied.load(std::memory_order_acquire) >= number; })) return false;
  }
  received.clear();
  for (size_t i = 0; i < c.ranks; ++i) {
    if (to_all) {
      received.push_back(std::move(whole[i]));
      continue;
    }
    size_t begin = 0;
    for (size_t rank = 0; rank < c.rank; ++rank) begin += layouts[i][rank];
    received.emplace_back(whole[i].begin() + begin, whole[i].begin() + begin + layouts[i][c.rank]);
  }
  return true;
}

// The sum of the ranks' values in their order, so that all have the same; 16-bit types in float32.
template <typename T, typename Sum>
void reduce_as(const Parts& parts, size_t count, C_CCLReduceOp operation, char* out) {
  for (size_t i = 0; i < count; ++i) {
    auto of_rank = [&](size_t rank) { return static_cast<Sum>(reinterpret_cast<const T*>(parts[rank].data())[i]); };
    Sum total = of_rank(0);
    for (size_t rank = 1; rank < parts.size(); ++rank) {
      Sum value = of_rank(rank);
      switch (operation) {
        case MAX: total = std::max(total, value); break;
        case MIN: total = std::min(total, value); break;
        case PRODUCT: total = total * value; break;
        default: total = total + value;
      }
    }
    if (operation == AVG) total = total / static_cast<Sum>(parts.size());
    reinterpret_cast<T*>(out)[i] = static_cast<T>(total);
  }
}
void reduce_parts(const Parts& parts, const Signature& signature, char* out) {
  auto [kind, type, operation, count, root] = signature;
  switch (type) {
    case FLOAT32: return reduce_as<float, float>(parts, count, operation, out);
    case FLOAT64: return reduce_as<double, double>(parts, count, operation, out);
    case FLOAT16: return reduce_as<phi::dtype::float16, float>(parts, count, operation, out);
    case BFLOAT16: return reduce_as<phi::dtype::bfloat16, float>(parts, count, operation, out);
    case INT64: return reduce_as<int64_t, int64_t>(parts, count, operation, out);
    case INT32: return reduce_as<int32_t, int32_t>(parts, count, operation, out);
    case INT8: return reduce_as<int8_t, int8_t>(parts, count, operation, out);
    case BOOL:
    case UINT8: return reduce_as<uint8_t, uint8_t>(parts, count, operation, out);
    default: fail("a reduction of %s is not known", type_of(type).name);
  }
}

Communicator* of(C_CCLComm communicator) { return reinterpret_cast<Communicator*>(communicator); }

void add_access(std::vector<Access>& accesses, const void* address, size_t size, bool writes) {
  if (size) accesses.push_back({address, size, writes});
}

// Queue an operation that lags behind the computation, so that results are never there by luck.
void post(C_Stream stream, std::string name, std::vector<Access> accesses, std::function<void()> task) {
  static std::mt19937& random = *new std::mt19937(seeded(1000));
  static const int64_t lag = setting("EMULATED_DEVICE_LAG_US", 1000);
  int64_t delay = lag > 0 ? lag / 2 + random() % lag : 0;
  emulated::of(stream)->add(std::move(name), std::move(accesses), [delay, task = std::move(task)] {
    if (delay) usleep(delay);
    task();
  });
}

// A collective in which every rank gives `sent_bytes` to all, or parts of it to each.
void post_collective(C_Stream stream, Communicator* c, Signature signature, const void* sent, size_t sent_bytes, bool to_all,
                     void* result, size_t result_bytes, std::function<void(Parts&, char*)> finish) {
  std::vector<Access> accesses;
  add_access(accesses, sent, sent_bytes, false);
  add_access(accesses, result, result_bytes, true);
  post(stream, signature.text(), std::move(accesses), [=] {
    const char* begin = sent_bytes ? bytes_behind(sent) : nullptr;
    std::vector<const char*> starts{begin};
    std::vector<size_t> sizes{sent_bytes};
    if (!to_all) {
      starts.clear();
      sizes.assign(c->ranks, sent_bytes / c->ranks);
      for (size_t i = 0; i < c->ranks; ++i) starts.push_back(begin + i * sizes[i]);
    }
    Parts parts;
    if (exchange(*c, signature, starts, sizes, to_all, parts) && result_bytes) finish(parts, bytes_behind(result));
  });
}

C_Status all_reduce(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp operation, C_CCLComm comm, C_Stream stream) {
  Signature signature{Kind::kAllReduce, type, operation, count, kNoRoot};
  size_t size = count * type_of(type).size;
  post_collective(stream, of(comm), signature, in, size, true, out, size,
                  [signature](Parts& parts, char* to) { reduce_parts(parts, signature, to); });
  return C_SUCCESS;
}

C_Status broadcast(void* data, size_t count, C_DataType type, size_t root, C_CCLComm comm, C_Stream stream) {
  Signature signature{Kind::kBroadcast, type, SUM, count, root};
  size_t size = count * type_of(type).size;
  bool gives = of(comm)->rank == root;
  post_collective(stream, of(comm), signature, data, gives ? size : 0, true, data, gives ? 0 : size,
                  [=](Parts& parts, char* to) { memcpy(to, parts[root].data(), size); });
  return C_SUCCESS;
}

C_Status reduce(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp operation, size_t root, C_CCLComm comm, C_Stream stream) {
  Signature signature{Kind::kReduce, type, operation, count, root};
  size_t size = count * type_of(type).size;
  post_collective(stream, of(comm), signature, in, size, true, out, of(comm)->rank == root ? size : 0,
                  [signature](Parts& parts, char* to) { reduce_parts(parts, signature, to); });
  return C_SUCCESS;
}

C_Status all_gather(void* in, void* out, size_t count, C_DataType type, C_CCLComm comm, C_Stream stream) {
  Signature signature{Kind::kAllGather, type, SUM, count, kNoRoot};
  size_t size = count * type_of(type).size;
  post_collective(stream, of(comm), signature, in, size, true, out, size * of(comm)->ranks, [size](Parts& parts, char* to) {
    for (size_t i = 0; i < parts.size(); ++i) memcpy(to + i * size, parts[i].data(), size);
  });
  return C_SUCCESS;
}

C_Status reduce_scatter(void* in, void* out, size_t count, C_DataType type, C_CCLReduceOp operation, C_CCLComm comm, C_Stream stream) {
  Signature signature{Kind::kReduceScatter, type, operation, count, kNoRoot};
  size_t size = count * type_of(type).size;
  post_collective(stream, of(comm), signature, in, size * of(comm)->ranks, false, out, size,
                  [signature](Parts& parts, char* to) { reduce_parts(parts, signature, to); });
  return C_SUCCESS;
}

C_Status all_to_all(const void** sent, const size_t* sent_counts, const C_DataType* sent_types, void** received,
                    const size_t* received_counts, const C_DataType* received_types, size_t, size_t ranks, C_CCLComm comm, C_Stream stream) {
  Communicator* c = of(comm);
  Signature signature{Kind::kAllToAll, sent_types[0], SUM, 0, kNoRoot};  // sizes differ by rank
  std::vector<const void*> sources(sent, sent + ranks);
  std::vector<void*> targets(received, received + ranks);
  std::vector<size_t> sent_sizes, received_sizes;
  std::vector<Access> accesses;
  for (size_t i = 0; i < ranks; ++i) {
    sent_sizes.push_back(sent_counts[i] * type_of(sent_types[i]).size);
    received_sizes.push_back(received_counts[i] * type_of(received_types[i]).size);
    add_access(accesses, sent[i], sent_sizes[i], false);
    add_access(accesses, received[i], received_sizes[i], true);
  }
  post(stream, signature.text(), std::move(accesses), [=] {
    std::vector<const char*> starts;
    for (size_t i = 0; i < ranks; ++i) starts.push_back(sent_sizes[i] ? bytes_behind(sources[i]) : nullptr);
    Parts parts;
    if (!exchange(*c, signature, starts, sent_sizes, false, parts)) return;
    for (size_t i = 0; i < ranks; ++i) {
      if (parts[i].size() != received_sizes[i])
        fail("in an all_to_all %s expects %zu bytes of %s, which sends %zu", c->who(c->rank).c_str(), received_sizes[i], c->who(i).c_str(),
             parts[i].size());
      if (received_sizes[i]) memcpy(bytes_behind(targets[i]), parts[i].data(), received_sizes[i]);
    }
  });
  return C_SUCCESS;
}

// ---- Messages.

struct Message {
  Communicator* communicator;
  bool is_sent;
  size_t peer;
  void* data;
  Signature signature;
  size_t size() const { return signature.count * type_of(signature.type).size; }
  std::string text() const {
    return (is_sent ? "send of " : "receive of ") + std::to_string(signature.count) + " " + type_of(signature.type).name +
           (is_sent ? " to " : " from ") + communicator->who(peer);
  }
};

// A message on its way, chunk by chunk.
class Transfer {
 public:
  explicit Transfer(Message message) : message(message) {}
  const Message message;
  bool is_done() const { return has_begun && moved == message.size() && (!message.is_sent || !box().is_full.load(std::memory_order_acquire)); }
  bool is_in_line_with(const Transfer& other) const {
    return message.communicator == other.message.communicator && message.is_sent == other.message.is_sent && message.peer == other.message.peer;
  }
  // Move a chunk if the other side lets us.
  bool advance() {
    Box& box = this->box();
    if ((has_begun && moved == message.size()) || box.is_full.load(std::memory_order_acquire) != (message.is_sent ? 0u : 1u)) return false;
    char* data = message.size() ? bytes_behind(message.data) : nullptr;
    if (message.is_sent) {
      box.signature = message.signature;
      box.size = std::min(kChunk, message.size() - moved);
      memcpy(box.data, data + moved, box.size);
    } else {
      if (!(box.signature == message.signature)) {
        Communicator& c = *message.communicator;
        fail("a message and its receiver differ: %s waits in a %s, and what comes is %s", c.who(c.rank).c_str(), message.text().c_str(),
             box.signature.text().c_str());
      }
      memcpy(data + moved, box.data, box.size);
    }
    has_begun = true;
    moved += box.size;
    box.is_full.store(message.is_sent ? 1 : 0, std::memory_order_release);
    return true;
  }

 private:
  Box& box() const {
    Communicator& c = *message.communicator;
    return message.is_sent ? c.box(c.rank, message.peer) : c.box(message.peer, c.rank);
  }
  size_t moved = 0;
  bool has_begun = false;
};

// All side by side; those in one direction between two ranks in their order.
void transfer(const std::vector<Message>& messages) {
  std::vector<Transfer> left(messages.begin(), messages.end());
  auto what = [&] {
    std::string all;
    for (auto& one : left) all += (all.empty() ? "the end of its " : " and its ") + one.message.text() + " (" + one.message.communicator->text() + ")";
    return all;
  };
  std::unique_ptr<Patience> waiting;
  while (!left.empty()) {
    bool has_moved = false;
    std::vector<Transfer> rest;
    for (size_t i = 0; i < left.size(); ++i) {
      bool is_behind = std::any_of(rest.begin(), rest.end(), [&](auto& other) { return other.is_in_line_with(left[i]); });
      if (!is_behind) has_moved |= left[i].advance();
      if (!is_behind && left[i].is_done())
        has_moved = true;
      else
        rest.push_back(left[i]);
    }
    left.swap(rest);
    if (has_moved) {
      waiting.reset();
      continue;
    }
    if (!waiting) waiting = std::make_unique<Patience>(what);
    if (!waiting->pause()) return;
  }
}

// Messages between group_start and group_end go side by side.
thread_local int group_depth = 0;
thread_local std::vector<std::pair<C_Stream, Message>> grouped;

void post_messages(C_Stream stream, const std::vector<Message>& messages) {
  std::vector<Access> accesses;
  std::string name;
  for (auto& message : messages) {
    add_access(accesses, message.data, message.size(), !message.is_sent);
    name += (name.empty() ? "" : " with ") + message.text();
  }
  post(stream, std::move(name), std::move(accesses), [messages] { transfer(messages); });
}

void post_message(C_Stream stream, const Message& message) {
  if (group_depth)
    grouped.emplace_back(stream, message);
  else
    post_messages(stream, {message});
}

C_Status send(void* data, size_t count, C_DataType type, size_t to, C_CCLComm comm, C_Stream stream) {
  post_message(stream, {of(comm), true, to, data, {Kind::kMessage, type, SUM, count, kNoRoot}});
  return C_SUCCESS;
}
C_Status receive(void* data, size_t count, C_DataType type, size_t from, C_CCLComm comm, C_Stream stream) {
  post_message(stream, {of(comm), false, from, data, {Kind::kMessage, type, SUM, count, kNoRoot}});
  return C_SUCCESS;
}
C_Status group_start() {
  ++group_depth;
  return C_SUCCESS;
}
C_Status group_end() {
  if (--group_depth) return C_SUCCESS;
  std::map<C_Stream, std::vector<Message>> by_stream;
  for (auto& [stream, message] : grouped) by_stream[stream].push_back(message);
  grouped.clear();
  for (auto& [stream, messages] : by_stream) post_messages(stream, messages);
  return C_SUCCESS;
}

// ---- Communicators. Their memory vanishes when the last process that has it ends.

C_Status id_size(size_t* size) {
  *size = kIdSize;
  return C_SUCCESS;
}
C_Status new_id(C_CCLRootId* id) {
  std::random_device random;  // not seeded: jobs run side by side
  for (size_t i = 0; i < id->sz; ++i) static_cast<uint8_t*>(id->data)[i] = random();
  return C_SUCCESS;
}
C_Status join_communicator(size_t ranks, C_CCLRootId* id, size_t rank, C_CCLComm* out) {
  if (ranks > kMostRanks) fail("a group of %zu ranks: at most %zu are known", ranks, kMostRanks);
  std::string name = "/emulated-device-";
  for (size_t i = 0; i < id->sz; ++i) name += text("%02x", static_cast<uint8_t*>(id->data)[i]);
  size_t size = sizeof(Shared) + ranks * ranks * sizeof(Box);
  int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, size)) fail("no shared memory for a group: %s", strerror(errno));
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) fail("no shared memory for a group: %s", strerror(errno));
  std::lock_guard<std::mutex> lock(mutex);
  static size_t numbers = 0;
  auto communicator = new Communicator{ranks, rank, ++numbers, static_cast<Shared*>(at), size};
  communicator->mine().process = rank_of_process();
  if (++communicator->shared->attached == ranks) shm_unlink(name.c_str());
  const auto begin = Clock_::now();
  while (communicator->shared->attached < ranks) {
    if (Clock_::now() - begin > std::chrono::seconds(setting("EMULATED_DEVICE_TIMEOUT_S", 120))) {
      shm_unlink(name.c_str());
      fail("of a group of %zu ranks only %u have come to form it", ranks, communicator->shared->attached.load());
    }
    usleep(200);
  }
  communicators.insert(communicator);
  *out = reinterpret_cast<C_CCLComm>(communicator);
  return C_SUCCESS;
}
C_Status leave_communicator(C_CCLComm) {
  // A stream may still be in it.
  return C_SUCCESS;
}
C_Status communicator_name(C_CCLComm comm, char* out) {
  sprintf(out, "emulated-%zu", of(comm)->number);
  return C_SUCCESS;
}

}  // namespace

void add_collectives(C_DeviceInterface& interface) {
  interface.xccl_get_unique_id_size = id_size;
  interface.xccl_get_unique_id = new_id;
  interface.xccl_comm_init_rank = join_communicator;
  interface.xccl_destroy_comm = leave_communicator;
  interface.xccl_get_comm_name = communicator_name;
  interface.xccl_all_reduce = all_reduce;
  interface.xccl_broadcast = broadcast;
  interface.xccl_reduce = reduce;
  interface.xccl_all_gather = all_gather;
  interface.xccl_reduce_scatter = reduce_scatter;
  interface.xccl_all_to_all = all_to_all;
  interface.xccl_send = send;
  interface.xccl_recv = receive;
  interface.xccl_group_start = group_start;
  interface.xccl_group_end = group_end;
}

}  // namespace emulated
