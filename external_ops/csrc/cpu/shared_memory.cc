// Collectives of the processes of one machine, through memory that they share.
//
// All ranks write what they have into their slots, meet, and read what they need from the slots of
// others. There are two sets of slots, used in turn: who writes into one has met the others since
// they read from it. A rank that waits spins for a while and then sleeps in the kernel; now and then it looks
// whether a rank's process has ended, which the system shows by the end of the lock that the process holds.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kSlot = 1 << 19;  // bytes
constexpr int64_t kBox = 1 << 18;   // bytes, a power of two
constexpr int64_t kSmall = 1 << 14;  // bytes up to which every rank adds up all by itself
constexpr long kLook = 50'000'000;  // nanoseconds between two looks at the other ranks

using Word = std::atomic<uint32_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 4);

// Where all ranks meet: how many have come, and how often all have.
struct Meeting {
  alignas(kLine) Word arrived;
  alignas(kLine) Word times;
};

// Bytes on their way from one rank to another, counted modulo 2^32.
struct Box {
  alignas(kLine) Word written;
  alignas(kLine) Word read;
  alignas(kLine) char bytes[kBox];
};

int64_t slots_begin() { return sizeof(Meeting); }
int64_t boxes_begin(int64_t ranks) { return slots_begin() + 2 * (ranks + 1) * kSlot; }
int64_t region_bytes(int64_t ranks) { return boxes_begin(ranks) + ranks * ranks * sizeof(Box); }

Meeting &meeting(const llm_shared &group) { return *static_cast<Meeting *>(group.region); }

// The slot of a rank in the set that is in use; that of number `ranks` is for results.
char *slot(const llm_shared &group, int64_t rank) {
  const int64_t set = group.uses & 1;
  return static_cast<char *>(group.region) + slots_begin() +
         (set * (group.ranks + 1) + rank) * kSlot;
}

Box &box(const llm_shared &group, int64_t source, int64_t target) {
  char *first = static_cast<char *>(group.region) + boxes_begin(group.ranks);
  return reinterpret_cast<Box *>(first)[source * group.ranks + target];
}

long futex(Word &word, int operation, uint32_t value, const timespec *timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), operation, value, timeout, nullptr, 0);
}

void change(Word &word, uint32_t value) {
  word.store(value, std::memory_order_release);
  futex(word, FUTEX_WAKE, INT32_MAX, nullptr);
}

struct flock lock_of(int64_t rank) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

// The first rank whose process has ended, or -1.
int64_t ended_rank(const llm_shared &group) {
  for (int64_t rank = 0; rank < group.ranks; ++rank) {
    struct flock lock = lock_of(rank);
    if (rank != group.rank && fcntl(group.file, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK) {
      return rank;
    }
  }
  return -1;
}

// Returns when the word is no longer `seen`.
void wait_for_change(const llm_shared &group, Word &word, uint32_t seen) {
  const auto has_changed = [&] { return word.load(std::memory_order_acquire) != seen; };
  for (int64_t spin = 0; spin < group.spins; ++spin) {
    if (has_changed()) return;
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
  }
  const timespec look{0, kLook};
  while (!has_changed()) {
    futex(word, FUTEX_WAIT, seen, &look);
    if (has_changed()) return;
    if (__atomic_load_n(group.stop, __ATOMIC_ACQUIRE)) {
      throw std::runtime_error("Connection to the other ranks was cut");
    }
    const int64_t ended = ended_rank(group);
    // What it did before its end counts.
    if (ended >= 0 && !has_changed()) {
      throw std::runtime_error("Connection lost: process " + std::to_string(ended) + " of " +
                               std::to_string(group.ranks) + " that compute together has ended");
    }
  }
}

void meet(const llm_shared &group) {
  Meeting &all = meeting(group);
  const uint32_t times = all.times.load(std::memory_order_acquire);
  if (all.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(group.ranks)) {
    all.arrived.store(0, std::memory_order_relaxed);
    change(all.times, times + 1);
  } else {
    wait_for_change(group, all.times, times);
  }
}

int64_t bytes_of_number(llm_number type) {
  switch (type) {
    case LLM_NUMBER_BFLOAT16:
      return 2;
    case LLM_NUMBER_FLOAT32:
    case LLM_NUMBER_INT32:
      return 4;
    case LLM_NUMBER_FLOAT64:
    case LLM_NUMBER_INT64:
      return 8;
  }
  throw std::invalid_argument("an unknown type of numbers");
}

template <class Number>
void combine(const llm_shared &group, int64_t begin, int64_t count, llm_reduction reduction,
             Number *result) {
  const auto from = [&](int64_t rank) {
    return reinterpret_cast<const Number *>(slot(group, rank)) + begin;
  };
  std::memcpy(result, from(0), count * sizeof(Number));
  for (int64_t rank = 1; rank < group.ranks; ++rank) {
    const Number *other = from(rank);
    if (reduction == LLM_SUM) {
      for (int64_t i = 0; i < count; ++i) result[i] += other[i];
    } else {
      // As Gloo's, and no NaN is lost.
      for (int64_t i = 0; i < count; ++i) {
        result[i] = other[i] != other[i] || other[i] > result[i] ? other[i] : result[i];
      }
    }
  }
}

// bfloat16 is added up in float32, and rounded once.
void combine_bfloat16(const llm_shared &group, int64_t begin, int64_t count,
                      llm_reduction reduction, uint16_t *result) {
  constexpr int64_t kBlock = 1024;
  float sums[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    for (int64_t rank = 0; rank < group.ranks; ++rank) {
      const auto *values = reinterpret_cast<const uint16_t *>(slot(group, rank)) + begin + done;
      for (int64_t i = 0; i < size; ++i) {
        const float value = from_bfloat16(values[i]);
        if (rank == 0) {
          sums[i] = value;
        } else if (reduction == LLM_SUM) {
          sums[i] += value;
        } else if (value != value || value > sums[i]) {
          sums[i] = value;
        }
      }
    }
    for (int64_t i = 0; i < size; ++i) result[done + i] = to_bfloat16(sums[i]);
  }
}

// result = the reduction of the slots' numbers [begin, begin + count), in the order of the ranks.
void reduce_slots(const llm_shared &group, int64_t begin, int64_t count, llm_number type,
                  llm_reduction reduction, void *result) {
  switch (type) {
    case LLM_NUMBER_FLOAT32:
      return combine(group, begin, count, reduction, static_cast<float *>(result));
    case LLM_NUMBER_FLOAT64:
      return combine(group, begin, count, reduction, static_cast<double *>(result));
    case LLM_NUMBER_INT32:
      return combine(group, begin, count, reduction, static_cast<int32_t *>(result));
    case LLM_NUMBER_INT64:
      return combine(group, begin, count, reduction, static_cast<int64_t *>(result));
    case LLM_NUMBER_BFLOAT16:
      return combine_bfloat16(group, begin, count, reduction, static_cast<uint16_t *>(result));
  }
}

char *moved(void *values, int64_t bytes) { return static_cast<char *>(values) + bytes; }
const char *moved(const void *values, int64_t bytes) {
  return static_cast<const char *>(values) + bytes;
}

void check(const llm_shared *group) {
  require(group && group->region && group->stop, "no group");
  require(group->ranks > 1 && 0 <= group->rank && group->rank < group->ranks, "no such rank");
}

}  // namespace
}  // namespace llm

using namespace llm;

int llm_cpu_shared_open(llm_shared *group) {
  return guarded([&] {
    require(group && group->ranks > 1 && 0 <= group->rank && group->rank < group->ranks,
            "no such rank");
    const int64_t bytes = region_bytes(group->ranks);
    // The first to come makes room; a file that is larger already stays as it is.
    if (ftruncate(group->file, bytes)) throw std::runtime_error(std::strerror(errno));
    struct flock lock = lock_of(group->rank);
    if (fcntl(group->file, F_SETLK, &lock)) throw std::runtime_error(std::strerror(errno));
    void *region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, group->file, 0);
    if (region == MAP_FAILED) throw std::runtime_error(std::strerror(errno));
    group->region = region;
  });
}

int llm_cpu_shared_close(llm_shared *group) {
  return guarded([&] {
    if (group->region) munmap(group->region, region_bytes(group->ranks));
    group->region = nullptr;
    close(group->file);
  });
}

int llm_cpu_shared_barrier(llm_shared *group) {
  return guarded([&] {
    check(group);
    meet(*group);
  });
}

int llm_cpu_shared_all_reduce(llm_shared *group, int64_t count, void *values, llm_number type,
                              llm_reduction reduction) {
  return guarded([&] {
    check(group);
    const int64_t width = bytes_of_number(type), most = kSlot / width;
    for (int64_t done = 0; done < count; done += most) {
      const int64_t size = std::min(most, count - done);
      char *place = moved(values, done * width);
      std::memcpy(slot(*group, group->rank), place, size * width);
      meet(*group);
      if (size * width <= kSmall) {
        reduce_slots(*group, 0, size, type, reduction, place);
      } else {
        const int64_t begin = size * group->rank / group->ranks;
        const int64_t end = size * (group->rank + 1) / group->ranks;
        char *results = slot(*group, group->ranks);
        reduce_slots(*group, begin, end - begin, type, reduction, results + begin * width);
        meet(*group);
        std::memcpy(place, results, size * width);
      }
      ++group->uses;
    }
  });
}

int llm_cpu_shared_all_gather(llm_shared *group, int64_t bytes, const void *part, void *whole) {
  return guarded([&] {
    check(group);
    for (int64_t done = 0; done < bytes; done += kSlot) {
      const int64_t size = std::min(kSlot, bytes - done);
      std::memcpy(slot(*group, group->rank), moved(part, done), size);
      meet(*group);
      for (int64_t rank = 0; rank < group->ranks; ++rank) {
        char *place = moved(whole, rank * bytes + done);
        // The part may lie in its place already.
        if (rank != group->rank || place != moved(part, done)) {
          std::memcpy(place, slot(*group, rank), size);
        }
      }
      ++group->uses;
    }
  });
}

int llm_cpu_shared_reduce_scatter(llm_shared *group, int64_t count, const void *whole, void *part,
                                  llm_number type, llm_reduction reduction) {
  return guarded([&] {
    check(group);
    const int64_t width = bytes_of_number(type), most = kSlot / width / group->ranks;
    for (int64_t done = 0; done < count; done += most) {
      const int64_t size = std::min(most, count - done);
      for (int64_t owner = 0; owner < group->ranks; ++owner) {
        std::memcpy(slot(*group, group->rank) + owner * size * width,
                    moved(whole, (owner * count + done) * width), size * width);
      }
      meet(*group);
      reduce_slots(*group, group->rank * size, size, type, reduction, moved(part, done * width));
      ++group->uses;
    }
  });
}

int llm_cpu_shared_broadcast(llm_shared *group, int64_t bytes, void *values, int64_t source) {
  return guarded([&] {
    check(group);
    for (int64_t done = 0; done < bytes; done += kSlot) {
      const int64_t size = std::min(kSlot, bytes - done);
      char *place = moved(values, done);
      if (group->rank == source) std::memcpy(slot(*group, source), place, size);
      meet(*group);
      if (group->rank != source) std::memcpy(place, slot(*group, source), size);
      ++group->uses;
    }
  });
}

int llm_cpu_shared_send(const llm_shared *group, int64_t bytes, const void *values,
                        int64_t target) {
  return guarded([&] {
    check(group);
    Box &way = box(*group, group->rank, target);
    uint32_t written = way.written.load(std::memory_order_relaxed);
    for (int64_t done = 0; done < bytes;) {
      const uint32_t read = way.read.load(std::memory_order_acquire);
      const int64_t room = kBox - int64_t(uint32_t(written - read));
      if (!room) {
        wait_for_change(*group, way.read, read);
        continue;
      }
      const int64_t at = written % kBox;
      const int64_t size = std::min({room, bytes - done, kBox - at});
      std::memcpy(way.bytes + at, moved(values, done), size);
      done += size;
      written += uint32_t(size);
      change(way.written, written);
    }
  });
}

int llm_cpu_shared_receive(const llm_shared *group, int64_t bytes, void *values, int64_t source) {
  return guarded([&] {
    check(group);
    Box &way = box(*group, source, group->rank);
    uint32_t read = way.read.load(std::memory_order_relaxed);
    for (int64_t done = 0; done < bytes;) {
      const uint32_t written = way.written.load(std::memory_order_acquire);
      const int64_t there = int64_t(uint32_t(written - read));
      if (!there) {
        wait_for_change(*group, way.written, written);
        continue;
      }
      const int64_t at = read % kBox;
      const int64_t size = std::min({there, bytes - done, kBox - at});
      std::memcpy(moved(values, done), way.bytes + at, size);
      done += size;
      read += uint32_t(size);
      change(way.read, read);
    }
  });
}
