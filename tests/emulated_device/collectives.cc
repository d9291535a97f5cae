// Collectives as Paddle calls them. As NCCL's, an operation runs in its stream's order, a collective
// starts when all ranks have come to it, and a send ends when its receiver has the message. Unlike
// NCCL's, each lags a little behind the computation.
#include <unistd.h>

#include <algorithm>
#include <map>

#include "communicator.h"
#include "paddle/phi/common/bfloat16.h"
#include "paddle/phi/common/float16.h"

namespace emulated {
namespace {

constexpr size_t kIdSize = 16;

// The ranks' values one after another, so that all have the same. As when NCCL's go round a ring, what
// a rank hands on is in the tensor's type: in 16 bits every addition, in float32, is rounded.
template <typename T, typename Wide>
void reduce_as(const Parts& parts, size_t count, C_CCLReduceOp operation, char* out) {
  for (size_t i = 0; i < count; ++i) {
    auto of_rank = [&](size_t rank) { return reinterpret_cast<const T*>(parts[rank].data())[i]; };
    T total = of_rank(0);
    for (size_t rank = 1; rank < parts.size(); ++rank) {
      Wide so_far = static_cast<Wide>(total), value = static_cast<Wide>(of_rank(rank));
      switch (operation) {
        case MAX: total = static_cast<T>(std::max(so_far, value)); break;
        case MIN: total = static_cast<T>(std::min(so_far, value)); break;
        case PRODUCT: total = static_cast<T>(so_far * value); break;
        default: total = static_cast<T>(so_far + value);
      }
    }
    if (operation == AVG) total = static_cast<T>(static_cast<Wide>(total) / static_cast<Wide>(parts.size()));
    reinterpret_cast<T*>(out)[i] = total;
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

// ---- Messages. Those between group_start and group_end go side by side.

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

// ---- Communicators.

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
  std::string name = "/emulated-device-";
  for (size_t i = 0; i < id->sz; ++i) name += text("%02x", static_cast<uint8_t*>(id->data)[i]);
  *out = reinterpret_cast<C_CCLComm>(form_communicator(name, ranks, rank));
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
