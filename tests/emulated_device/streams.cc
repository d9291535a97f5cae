// Streams and events. Each stream is a thread that runs late, by random but seeded delays. A clock
// of every stream, and one of the host, say what is ordered by events and waiting (order.cc).
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <set>

#include "device.h"

namespace emulated {

struct Event {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, reached = 0;
  Clock clock;  // of the last record
};

namespace {

constexpr auto kPatienceAtEnd = std::chrono::seconds(5);

// Guards the clocks, and makes an operation's place in its queue the place in the order.
std::mutex& order_mutex = *new std::mutex;
Clock& host_clock = *new Clock;
auto& streams = *new std::vector<Stream*>;  // all that there ever were; Paddle may use them at its end
std::atomic<bool> ending{false};
uint64_t meetings = 0;

void advance(Clock& clock, int stream) {
  join(clock, host_clock);
  if (static_cast<int>(clock.size()) <= stream) clock.resize(stream + 1);
  ++clock[stream];
}

// The host has waited, and knows what is done.
void meet(const Clock& done, bool counts = true) {
  std::lock_guard<std::mutex> lock(order_mutex);
  Clock before = host_clock;
  join(host_clock, done);
  if (counts && host_clock != before) ++meetings;
}

int next_id() {
  std::lock_guard<std::mutex> lock(order_mutex);
  return streams.size();
}

// What is queued, a line each, where a test asks for it: with the clock, from which the order of any
// two operations follows. Written under `order_mutex`.
FILE* trace() {
  static FILE* const file = [] {
    const char* path = getenv("EMULATED_DEVICE_TRACE");
    if (!path) return static_cast<FILE*>(nullptr);
    auto of_rank = text("%s.%ld", path, rank_of_process());
    FILE* opened = fopen(of_rank.c_str(), "w");
    if (!opened) fail("EMULATED_DEVICE_TRACE: %s cannot be written: %s", of_rank.c_str(), strerror(errno));
    return opened;
  }();
  return file;
}

void trace_operation(int stream, const Clock& clock, Work work, const std::string& name, const std::vector<Access>& accesses) {
  static const char* kinds[] = {"kernel", "copy", "communication"};
  if (!trace()) return;
  size_t read = 0, written = 0;
  for (auto& access : accesses) (access.writes ? written : read) += access.size;
  fprintf(trace(), "{\"kind\": \"%s\", \"name\": \"%s\", \"stream\": %d, \"read\": %zu, \"written\": %zu, \"clock\": [",
          kinds[static_cast<int>(work)], name.c_str(), stream, read, written);
  for (size_t i = 0; i < clock.size(); ++i) fprintf(trace(), "%s%lu", i ? ", " : "", clock[i]);
  fputs("]}\n", trace());
}

}  // namespace

Stream::Stream() : id(next_id()) {
  {
    std::lock_guard<std::mutex> lock(order_mutex);
    streams.push_back(this);
  }
  thread = std::thread([this] { work(); });
}

void Stream::work() {
  std::mt19937 random = seeded(id);
  const int64_t longest = setting("EMULATED_DEVICE_DELAY_US", 1000);
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock<std::mutex> lock(mutex);
      changed.wait(lock, [&] { return is_closing || !tasks.empty(); });
      if (tasks.empty() || ending) break;
      task = std::move(tasks.front());
      tasks.pop_front();
    }
    if (longest > 0 && random() % 64 == 0) usleep(random() % longest);
    task();
    task = nullptr;  // what it holds lives no longer than it
    {
      std::lock_guard<std::mutex> lock(mutex);
      ++done;
    }
    changed.notify_all();
  }
  {
    std::lock_guard<std::mutex> lock(mutex);
    is_closed = true;
  }
  changed.notify_all();
}

void Stream::queue(std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (is_closing) return;
    tasks.push_back(std::move(task));
    ++queued;
  }
  changed.notify_all();
}

void Stream::add(std::string name, std::vector<Access> accesses, std::function<void()> task, Work work) {
  std::lock_guard<std::mutex> lock(order_mutex);
  advance(clock, id);
  for (auto& access : accesses) note_access(id, clock, name, access);
  trace_operation(id, clock, work, name, accesses);
  queue([name = std::move(name), accesses = std::move(accesses), task = std::move(task)] {
    for (auto& access : accesses) block_of(access.address, access.size, name, true);
    task();
  });
}

void Stream::add_release(void* block) {
  std::vector<Stream*> unordered;
  {
    std::lock_guard<std::mutex> lock(order_mutex);
    advance(clock, id);
    for (int other : note_release(id, clock, static_cast<const char*>(block))) unordered.push_back(streams[other]);
  }
  for (auto other : unordered) {
    auto event = std::make_shared<Event>();
    other->record(event);
    wait_for(event);
  }
  queue([block] { retire(block); });
}

bool Stream::is_idle() {
  std::lock_guard<std::mutex> order(order_mutex);
  std::lock_guard<std::mutex> lock(mutex);
  if (done < queued) return false;
  join(host_clock, clock);
  return true;
}

void Stream::wait(bool counts) {
  Clock reached;
  uint64_t until;
  {
    std::lock_guard<std::mutex> order(order_mutex);
    std::lock_guard<std::mutex> lock(mutex);
    reached = clock;
    until = queued;
  }
  {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return done >= until || is_closed; });
  }
  meet(reached, counts);
}

void Stream::record(std::shared_ptr<Event> event) {
  std::lock_guard<std::mutex> order(order_mutex);
  advance(clock, id);
  uint64_t number;
  {
    std::lock_guard<std::mutex> lock(event->mutex);
    number = ++event->recorded;
    event->clock = clock;
  }
  queue([event, number] {
    {
      std::lock_guard<std::mutex> lock(event->mutex);
      event->reached = std::max(event->reached, number);
    }
    event->changed.notify_all();
  });
}

void Stream::wait_for(std::shared_ptr<Event> event) {
  std::lock_guard<std::mutex> order(order_mutex);
  std::unique_lock<std::mutex> lock(event->mutex);
  join(clock, event->clock);
  queue([event, number = event->recorded] {
    std::unique_lock<std::mutex> lock(event->mutex);
    while (event->reached < number && !ending) event->changed.wait_for(lock, std::chrono::milliseconds(100));
  });
}

void Stream::close() {
  std::unique_lock<std::mutex> lock(mutex);
  if (!is_closing) {
    changed.wait_for(lock, kPatienceAtEnd, [&] { return done == queued; });
    is_closing = true;
    if (done < queued) ending = true;  // nobody will come any more for what it waits for
  }
  lock.unlock();
  changed.notify_all();
  if (thread.joinable()) thread.join();
  std::lock_guard<std::mutex> order(order_mutex);
  join(host_clock, clock);
}

Stream* computing_stream() {
  std::lock_guard<std::mutex> lock(order_mutex);
  return streams.empty() ? nullptr : streams.front();
}

bool is_ending() { return ending; }

uint64_t meetings_with_host() {
  std::lock_guard<std::mutex> lock(order_mutex);
  return meetings;
}

void close_all_streams() {
  std::vector<Stream*> all;
  {
    std::lock_guard<std::mutex> lock(order_mutex);
    all = streams;
  }
  for (auto stream : all) stream->close();
  fflush(nullptr);  // the trace; not by name, for who has queued nothing leaves another's alone
}

// ---- As Paddle calls them. An event's handle holds it; so do the streams that shall reach it.
namespace {

std::shared_ptr<Event>& of(C_Event event) { return *reinterpret_cast<std::shared_ptr<Event>*>(event); }

C_Status create_stream(const C_Device, C_Stream* stream) {
  *stream = reinterpret_cast<C_Stream>(new Stream);
  return C_SUCCESS;
}
C_Status destroy_stream(const C_Device, C_Stream stream) {
  // Process groups outlive Paddle's list of streams: the object stays.
  emulated::of(stream)->close();
  return C_SUCCESS;
}
C_Status query_stream(const C_Device, C_Stream stream) {
  return emulated::of(stream)->is_idle() ? C_SUCCESS : C_FAILED;
}
C_Status synchronize_stream(const C_Device, C_Stream stream) {
  emulated::of(stream)->wait();
  return C_SUCCESS;
}
C_Status synchronize_device(const C_Device) {
  std::vector<Stream*> all;
  {
    std::lock_guard<std::mutex> lock(order_mutex);
    all = streams;
  }
  for (auto stream : all) stream->wait();
  return C_SUCCESS;
}
C_Status add_callback(const C_Device device, C_Stream stream, C_Callback callback, void* data) {
  emulated::of(stream)->add("callback", {}, [=] {
    C_Status status = C_SUCCESS;
    callback(device, stream, data, &status);
  });
  return C_SUCCESS;
}
C_Status create_event(const C_Device, C_Event* event) {
  *event = reinterpret_cast<C_Event>(new std::shared_ptr<Event>(std::make_shared<Event>()));
  return C_SUCCESS;
}
C_Status destroy_event(const C_Device, C_Event event) {
  delete reinterpret_cast<std::shared_ptr<Event>*>(event);
  return C_SUCCESS;
}
C_Status record_event(const C_Device, C_Stream stream, C_Event event) {
  emulated::of(stream)->record(of(event));
  return C_SUCCESS;
}
C_Status stream_wait_event(const C_Device, C_Stream stream, C_Event event) {
  emulated::of(stream)->wait_for(of(event));
  return C_SUCCESS;
}
C_Status query_event(const C_Device, C_Event handle) {
  auto& event = of(handle);
  std::lock_guard<std::mutex> order(order_mutex);
  std::lock_guard<std::mutex> lock(event->mutex);
  if (event->reached < event->recorded) return C_FAILED;
  join(host_clock, event->clock);
  return C_SUCCESS;
}
C_Status synchronize_event(const C_Device, C_Event handle) {
  auto event = of(handle);
  Clock reached;
  {
    std::unique_lock<std::mutex> lock(event->mutex);
    reached = event->clock;
    uint64_t number = event->recorded;
    while (event->reached < number && !ending) event->changed.wait_for(lock, std::chrono::milliseconds(100));
  }
  meet(reached);
  return C_SUCCESS;
}

}  // namespace

void add_streams(C_DeviceInterface& interface) {
  interface.create_stream = create_stream;
  interface.destroy_stream = destroy_stream;
  interface.query_stream = query_stream;
  interface.synchronize_stream = synchronize_stream;
  interface.synchronize_device = synchronize_device;
  interface.stream_add_callback = add_callback;
  interface.create_event = create_event;
  interface.destroy_event = destroy_event;
  interface.record_event = record_event;
  interface.stream_wait_event = stream_wait_event;
  interface.query_event = query_event;
  interface.synchronize_event = synchronize_event;
}

}  // namespace emulated

// A line of a test's own in the trace.
extern "C" __attribute__((visibility("default"))) void emulated_device_mark(const char* text) {
  using namespace emulated;
  std::lock_guard<std::mutex> lock(order_mutex);
  if (trace()) fprintf(trace(), "{\"mark\": \"%s\"}\n", text);
}
