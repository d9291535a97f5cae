// Ranks of one machine that meet in shared memory: all to exchange bytes, two to hand over a message.
// All compare what they call, and one that waits too long says what every rank waits for.
#include "communicator.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <sstream>

namespace emulated {
namespace {

using Clock_ = std::chrono::steady_clock;

constexpr size_t kChunk = 1 << 16;
constexpr size_t kMostRanks = 16;

const char* name_of(Kind kind) {
  static const char* names[] = {"nothing", "all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "all_to_all", "message"};
  return names[static_cast<uint32_t>(kind)];
}

}  // namespace

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

bool Signature::operator==(const Signature& other) const {
  return kind == other.kind && type == other.type && operation == other.operation && count == other.count && root == other.root;
}
std::string Signature::text() const {
  static const char* operations[] = {"sum", "average", "maximum", "minimum", "product"};
  bool reduces = kind == Kind::kAllReduce || kind == Kind::kReduce || kind == Kind::kReduceScatter;
  std::ostringstream said;
  said << name_of(kind);
  if (kind != Kind::kAllToAll) said << " of " << count << " " << type_of(type).name;
  if (reduces) said << " (" << operations[operation] << ")";
  if (root != kNoRoot) said << " at root " << root;
  return said.str();
}

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

Place& Communicator::place(size_t of) { return shared->places[of]; }
Box& Communicator::box(size_t from, size_t to) { return shared->boxes[from * ranks + to]; }
std::string Communicator::who(size_t of) { return "rank " + std::to_string(place(of).process); }
std::string Communicator::text() {
  std::string members;
  for (size_t i = 0; i < ranks; ++i) members += (i ? "," : "") + std::to_string(place(i).process);
  return "group of ranks " + members + ", communicator " + std::to_string(number);
}

namespace {

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

}  // namespace

// ---- Collectives: every rank shows what it calls and its bytes, and takes what it needs.

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

// ---- Messages.

std::string Message::text() const {
  return (is_sent ? "send of " : "receive of ") + std::to_string(signature.count) + " " + type_of(signature.type).name +
         (is_sent ? " to " : " from ") + communicator->who(peer);
}

namespace {

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

}  // namespace

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

// ---- How a group forms.

Communicator* form_communicator(const std::string& name, size_t ranks, size_t rank) {
  if (ranks > kMostRanks) fail("a group of %zu ranks: at most %zu are known", ranks, kMostRanks);
  size_t size = sizeof(Shared) + ranks * ranks * sizeof(Box);
  int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, size)) fail("no shared memory for a group: %s", strerror(errno));
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) fail("no shared memory for a group: %s", strerror(errno));
  std::lock_guard<std::mutex> lock(mutex);
  static size_t numbers = 0;
  auto communicator = new Communicator{ranks, rank, ++numbers, static_cast<Shared*>(at)};
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
  return communicator;
}

}  // namespace emulated
