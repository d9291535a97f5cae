// The order of operations, by vector clocks. Delays show a missing wait only where they happen to
// be long enough; this shows each one in every run: two operations of different streams on the same
// bytes, one of which writes, must be ordered by events or by the host's waiting.
#include <map>

#include "device.h"

namespace emulated {
namespace {

struct Use {
  const char *begin, *end;
  bool writes;
  int stream;
  uint64_t number;
  std::string operation;
};

std::mutex& mutex = *new std::mutex;
// By block: the uses that a later one may have to wait for.
auto& uses = *new std::map<const char*, std::vector<Use>>;

bool is_before(const Use& use, int stream, const Clock& clock) {
  return use.stream == stream || (use.stream < static_cast<int>(clock.size()) && use.number <= clock[use.stream]);
}

}  // namespace

void join(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

void note_access(int stream, const Clock& clock, const std::string& operation, const Access& access) {
  const char* block = block_of(access.address, access.size, operation, false);
  auto begin = static_cast<const char*>(access.address), end = begin + access.size;
  std::lock_guard<std::mutex> lock(mutex);
  auto& known = uses[block];
  std::vector<Use> kept;
  for (auto& use : known) {
    bool overlaps = use.begin < end && begin < use.end;
    if (overlaps && (use.writes || access.writes) && !is_before(use, stream, clock))
      fail("%s on stream %d %s %s, which %s on stream %d may still be %s: nothing makes one wait for the other",
           operation.c_str(), stream, access.writes ? "writes" : "reads", describe(access.address, access.size).c_str(),
           use.operation.c_str(), use.stream, use.writes ? "writing" : "reading");
    bool is_covered = begin <= use.begin && use.end <= end && (access.writes || (!use.writes && use.stream == stream));
    if (!is_covered) kept.push_back(std::move(use));
  }
  kept.push_back({begin, end, access.writes, stream, clock[stream], operation});
  known.swap(kept);
}

std::vector<int> note_release(int stream, const Clock& clock, const char* block) {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<int> unordered;
  for (auto& use : uses[block]) {
    if (is_before(use, stream, clock)) continue;
    // Paddle's barrier reduces a value that it frees on its return.
    if (use.operation.rfind("all_reduce of 1 ", 0) == 0)
      unordered.push_back(use.stream);
    else
      fail("a tensor is freed of which %s, on stream %d, may still be %s %s: it must be held, or waited for",
           use.operation.c_str(), use.stream, use.writes ? "writing" : "reading", describe(use.begin, use.end - use.begin).c_str());
  }
  uses.erase(block);
  return unordered;
}

}  // namespace emulated
