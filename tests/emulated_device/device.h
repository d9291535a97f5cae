// An accelerator that is emulated on the CPU: what its parts tell each other.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "paddle/phi/backends/device_ext.h"

namespace emulated {

// What Paddle calls the device, as in paddle.set_device("emulated").
constexpr char kDeviceType[] = "emulated";
constexpr int kExitStatus = 86;

// End the process with a message: a fault of the program that uses the device.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Text by a format.
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The number in an environment variable.
int64_t setting(const char* name, int64_t otherwise);
// This process's number in its job.
int64_t rank_of_process();
// Seeded by the setting of the tests, the process and whoever asks.
std::mt19937 seeded(uint32_t asker);

// ---- memory.cc: addresses that only the device may use, and the bytes that stand behind them.

bool is_device_address(const void* address);
// The bytes behind a device address. What may be done with them, `Stream::add` checks.
char* bytes_behind(const void* address);
// A block for a tensor, or null where the device is full.
void* allocate(size_t size);
// What happens when the host frees a block: nobody may begin to use it any more ...
void release(void* address);
// ... and when the device has come so far: its bytes vanish. Addresses are never used again.
void retire(void* address);
// Where a living block begins that holds `size` bytes at `address`; ends the process if none does.
// `is_queued`: the use was queued in time, so that a released block may still be used.
const char* block_of(const void* address, size_t size, const std::string& doing, bool is_queued);
// "12 bytes at 0x7f.. of a tensor of 400 bytes"
std::string describe(const void* address, size_t size);
void memory_in_use(size_t* total, size_t* free);

// ---- order.cc: which operation surely comes after which, whatever the delays.

// For each stream the number of its operations that are known to be done.
using Clock = std::vector<uint64_t>;
void join(Clock& clock, const Clock& other);

struct Access {
  const void* address;
  size_t size;
  bool writes;
};
// Note that operation number `clock[stream]` of a stream uses memory. Ends the process where another
// stream's operation uses the same bytes, one of them writes, and nothing orders the two.
void note_access(int stream, const Clock& clock, const std::string& operation, const Access& access);
// Likewise for a block that is freed, in the order of `stream`. The streams that it has to wait for
// first, where Paddle itself frees too early.
std::vector<int> note_release(int stream, const Clock& clock, const char* block);

// ---- streams.cc: queues that a thread each works off, behind the host's back.

struct Event;
enum class Work { kKernel, kCopy, kCommunication };

class Stream {
 public:
  Stream();
  // Queue an operation. `accesses` is all the device memory that it reads or writes.
  void add(std::string name, std::vector<Access> accesses, std::function<void()> task, Work work = Work::kKernel);
  // Queue the end of a block's life.
  void add_release(void* block);
  // Until all that was queued so far is done; the host may rely on it then.
  void wait(bool counts = true);
  bool is_idle();
  void record(std::shared_ptr<Event> event);
  void wait_for(std::shared_ptr<Event> event);
  // Work off the queue, though not for ever, and end the thread. What is queued later is dropped.
  void close();

  const int id;

 private:
  void queue(std::function<void()> task);
  void work();

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> tasks;
  uint64_t queued = 0, done = 0;
  bool is_closing = false, is_closed = false;
  Clock clock;
  std::thread thread;
};

// The stream that computes, in whose order memory is freed: the first that Paddle made.
Stream* computing_stream();
void close_all_streams();
// Whether the process ends, so that nobody should wait for a peer any more.
bool is_ending();
// How often the host has waited for something of the device that it did not know to be done.
uint64_t meetings_with_host();

inline Stream* of(C_Stream stream) { return reinterpret_cast<Stream*>(stream); }
void add_streams(C_DeviceInterface& interface);

// ---- collectives.cc and kernels.cc

void add_collectives(C_DeviceInterface& interface);
void add_kernels();

}  // namespace emulated
