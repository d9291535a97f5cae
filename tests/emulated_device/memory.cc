// Device memory. Its addresses lie in a region that nobody can read or write, so that a host access
// ends the process. The bytes lie as far into a second region, the shadow, which only the device's
// operations know. A block is usable from its allocation until the stream that computes has come to
// its end; then its shadow is unmapped, and its addresses are never given again.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <map>

#include "device.h"

namespace emulated {
namespace {

constexpr size_t kRegion = size_t{1} << 43;  // addresses of one process's life; none is committed
constexpr size_t kPage = 4096;
// Not-a-number in every type of floats, -1 in every type of integers.
constexpr int kFresh = 0xFF;
constexpr size_t kRemembered = 100000;

enum class State { kLiving, kReleased, kRetired };
struct Block {
  size_t size;
  State state;
  size_t whole() const { return (size + kPage - 1) / kPage * kPage; }
};

char* device_region = nullptr;
char* shadow_region = nullptr;
size_t used_addresses = 0, used_bytes = 0;
// Never destroyed, as Paddle frees memory while the process ends.
std::mutex& mutex = *new std::mutex;
auto& blocks = *new std::map<size_t, Block>;
auto& retired = *new std::deque<size_t>;
struct sigaction previous_handler;

size_t capacity() {
  static const size_t bytes = setting("EMULATED_DEVICE_MEMORY", int64_t{4} << 30);
  return bytes;
}

char* map(void* at, int protection) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
  void* found = mmap(at, at ? kPage : kRegion, protection, flags, -1, 0);
  if (found == MAP_FAILED) fail("no address space for the device: %s", strerror(errno));
  return static_cast<char*>(found);
}

// The block that begins at or before an offset, living or not.
std::map<size_t, Block>::iterator at_or_before(size_t offset) {
  auto found = blocks.upper_bound(offset);
  return found == blocks.begin() ? blocks.end() : std::prev(found);
}

std::string describe_unlocked(size_t offset) {
  auto found = at_or_before(offset);
  if (found == blocks.end()) return "memory that was never allocated";
  auto& [begin, block] = *found;
  const char* state = block.state == State::kLiving ? "" : " that was freed";
  const char* place = offset - begin < block.size ? "byte" : "beyond the end, at byte";
  return text("%s %zu of a tensor of %zu bytes%s", place, offset - begin, block.size, state);
}

// A bad access is told in the device's terms; any other fault goes where it went before.
void on_fault(int signal, siginfo_t* information, void* context) {
  auto at = static_cast<char*>(information->si_addr);
  bool is_host = is_device_address(at);
  if (is_host || (shadow_region && at >= shadow_region && at < shadow_region + kRegion)) {
    size_t offset = at - (is_host ? device_region : shadow_region);
    bool is_locked = mutex.try_lock();
    fail("%s at %p, which is %s", is_host ? "the host touched device memory" : "an operation left its tensors",
         static_cast<void*>(device_region + offset), is_locked ? describe_unlocked(offset).c_str() : "in use");
  }
  sigaction(signal, &previous_handler, nullptr);
}

void reserve() {
  device_region = map(nullptr, PROT_NONE);
  shadow_region = map(nullptr, PROT_NONE);
  struct sigaction handler = {};
  handler.sa_sigaction = on_fault;
  handler.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &handler, &previous_handler);
}

}  // namespace

std::string text(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

void fail(const char* format, ...) {
  char buffer[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\nemulated device of rank %ld: %s\n", rank_of_process(), buffer);
  fflush(nullptr);
  if (getenv("PYTHONFAULTHANDLER")) abort();  // for Python's stack
  _exit(kExitStatus);
}

int64_t setting(const char* name, int64_t otherwise) {
  const char* value = getenv(name);
  return value && *value ? strtoll(value, nullptr, 10) : otherwise;
}

int64_t rank_of_process() {
  static const int64_t rank = setting("PADDLE_TRAINER_ID", 0);
  return rank;
}

std::mt19937 seeded(uint32_t asker) {
  std::seed_seq seeds{static_cast<uint32_t>(setting("EMULATED_DEVICE_SEED", 0)),
                      static_cast<uint32_t>(rank_of_process()), asker};
  return std::mt19937(seeds);
}

bool is_device_address(const void* address) {
  auto at = static_cast<const char*>(address);
  return device_region && at >= device_region && at < device_region + kRegion;
}

char* bytes_behind(const void* address) {
  return shadow_region + (static_cast<const char*>(address) - device_region);
}

void* allocate(size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!device_region) reserve();
  Block block{size, State::kLiving};
  if (used_bytes + block.whole() > capacity()) return nullptr;
  size_t offset = used_addresses;
  used_addresses += block.whole() + kPage;  // a page that stays unmapped
  if (used_addresses > kRegion) fail("the process has used up the device's addresses");
  if (mprotect(shadow_region + offset, block.whole(), PROT_READ | PROT_WRITE))
    fail("no memory for a tensor of %zu bytes: %s", size, strerror(errno));
  memset(shadow_region + offset, kFresh, block.whole());
  used_bytes += block.whole();
  blocks[offset] = block;
  return device_region + offset;
}

void release(void* address) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = blocks.find(static_cast<char*>(address) - device_region);
  if (found == blocks.end() || found->second.state != State::kLiving)
    fail("%p is freed, which is %s", address, describe_unlocked(static_cast<char*>(address) - device_region).c_str());
  found->second.state = State::kReleased;
}

void retire(void* address) {
  std::lock_guard<std::mutex> lock(mutex);
  size_t offset = static_cast<char*>(address) - device_region;
  Block& block = blocks.at(offset);
  char* bytes = shadow_region + offset;
  for (size_t i = block.size; i < block.whole(); ++i)
    if (static_cast<unsigned char>(bytes[i]) != kFresh)
      fail("an operation has written to %p, byte %zu of a tensor of %zu bytes", static_cast<void*>(device_region + offset + i),
           i, block.size);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(bytes, block.whole(), PROT_NONE, flags, -1, 0) == MAP_FAILED) fail("cannot unmap a tensor: %s", strerror(errno));
  block.state = State::kRetired;
  used_bytes -= block.whole();
  retired.push_back(offset);
  if (retired.size() > kRemembered) {
    blocks.erase(retired.front());
    retired.pop_front();
  }
}

const char* block_of(const void* address, size_t size, const std::string& doing, bool is_queued) {
  if (!is_device_address(address))
    fail("%s uses %p (%zu bytes), which is no address of the device: is it a CPU tensor?", doing.c_str(), address, size);
  std::lock_guard<std::mutex> lock(mutex);
  size_t offset = static_cast<const char*>(address) - device_region;
  auto found = at_or_before(offset);
  bool is_usable = found != blocks.end() && offset + size <= found->first + found->second.size &&
                   (found->second.state == State::kLiving || (is_queued && found->second.state == State::kReleased));
  if (!is_usable)
    fail("%s uses %zu bytes at %p, which is %s", doing.c_str(), size, address, describe_unlocked(offset).c_str());
  return device_region + found->first;
}

std::string describe(const void* address, size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  size_t offset = static_cast<const char*>(address) - device_region;
  return text("%zu bytes at %p, %s", size, address, describe_unlocked(offset).c_str());
}

void memory_in_use(size_t* total, size_t* free) {
  std::lock_guard<std::mutex> lock(mutex);
  *total = capacity();
  *free = capacity() - used_bytes;
}

}  // namespace emulated
