// What Paddle finds when it loads the plug-in: devices, memory and copies.
#include "device.h"

namespace emulated {
namespace {

C_Status done() { return C_SUCCESS; }
C_Status done_with(const C_Device) { return C_SUCCESS; }

// ---- Devices: as many as the tests' processes need, and none knows another.

thread_local int current_device = 0;

C_Status finalize() {
  close_all_streams();
  return C_SUCCESS;
}
C_Status set_device(const C_Device device) {
  current_device = device->id;
  return C_SUCCESS;
}
C_Status get_device(const C_Device device) {
  device->id = current_device;
  return C_SUCCESS;
}
C_Status get_count(size_t* count) {
  *count = setting("EMULATED_DEVICE_COUNT", 8);
  return C_SUCCESS;
}
C_Status get_list(size_t* devices) {
  size_t count;
  get_count(&count);
  for (size_t i = 0; i < count; ++i) devices[i] = i;
  return C_SUCCESS;
}

// ---- Memory.

C_Status allocate_block(const C_Device, void** address, size_t size) {
  *address = allocate(size);
  return *address ? C_SUCCESS : C_FAILED;
}
C_Status free_block(const C_Device, void* address, size_t) {
  release(address);
  if (auto stream = computing_stream())
    stream->add_release(address);
  else
    retire(address);
  return C_SUCCESS;
}
C_Status set_bytes(const C_Device, void* address, unsigned char value, size_t size) {
  computing_stream()->add("memset", {{address, size, true}}, [=] { memset(bytes_behind(address), value, size); });
  return C_SUCCESS;
}
C_Status allocate_host(const C_Device, void** address, size_t size) {
  *address = malloc(size);
  return *address ? C_SUCCESS : C_FAILED;
}
C_Status free_host(const C_Device, void* address, size_t) {
  free(address);
  return C_SUCCESS;
}
C_Status memory_stats(const C_Device, size_t* total, size_t* free) {
  memory_in_use(total, free);
  return C_SUCCESS;
}
C_Status smallest_block(const C_Device, size_t* size) {
  *size = 64;
  return C_SUCCESS;
}

// ---- Copies, in a stream's order. The host's memory is pageable: as with CUDA, what is to be
// copied from it has been read when the call returns, and what goes to it has arrived.

C_Status to_device_in(const C_Device, C_Stream stream, void* to, const void* from, size_t size) {
  if (!size) return C_SUCCESS;
  auto begin = static_cast<const char*>(from);
  auto staged = std::make_shared<std::vector<char>>(begin, begin + size);
  of(stream)->add("copy from the host", {{to, size, true}}, [=] { memcpy(bytes_behind(to), staged->data(), size); },
                  Work::kCopy);
  return C_SUCCESS;
}
C_Status to_host_in(const C_Device, C_Stream stream, void* to, const void* from, size_t size) {
  if (!size) return C_SUCCESS;
  of(stream)->wait();
  of(stream)->add("copy to the host", {{from, size, false}}, [=] { memcpy(to, bytes_behind(from), size); }, Work::kCopy);
  of(stream)->wait(/*counts=*/false);  // a part of the same meeting
  return C_SUCCESS;
}
C_Status within_in(const C_Device, C_Stream stream, void* to, const void* from, size_t size) {
  if (!size) return C_SUCCESS;
  of(stream)->add("copy", {{from, size, false}, {to, size, true}},
                  [=] { memmove(bytes_behind(to), bytes_behind(from), size); }, Work::kCopy);
  return C_SUCCESS;
}
C_Status between_in(const C_Device to_device, const C_Device, C_Stream stream, void* to, const void* from, size_t size) {
  return within_in(to_device, stream, to, from, size);
}

// Without a stream: in the order of the one that computes, and waited for.
C_Stream computing() { return reinterpret_cast<C_Stream>(computing_stream()); }
C_Status to_device(const C_Device device, void* to, const void* from, size_t size) {
  to_device_in(device, computing(), to, from, size);
  computing_stream()->wait();
  return C_SUCCESS;
}
C_Status to_host(const C_Device device, void* to, const void* from, size_t size) {
  return to_host_in(device, computing(), to, from, size);
}
C_Status within(const C_Device device, void* to, const void* from, size_t size) {
  within_in(device, computing(), to, from, size);
  computing_stream()->wait();
  return C_SUCCESS;
}
C_Status between(const C_Device to_device, const C_Device, void* to, const void* from, size_t size) {
  return within(to_device, to, from, size);
}

// ---- What is asked of every device.

C_Status one(const C_Device, size_t* number) {
  *number = 1;
  return C_SUCCESS;
}
C_Status yes(const C_Device, bool* is_supported) {
  *is_supported = true;
  return C_SUCCESS;
}

}  // namespace
}  // namespace emulated

// A copy to the host, for the tests, who give it addresses that Paddle would not.
extern "C" __attribute__((visibility("default"))) void emulated_device_read(void* to, const void* from, size_t size) {
  emulated::to_host(nullptr, to, from, size);
}

extern "C" __attribute__((visibility("default"))) uint64_t emulated_device_meetings() {
  return emulated::meetings_with_host();
}

// For kernels that are not Paddle's (gpu/): the bytes behind an address, and an operation on a stream.
extern "C" __attribute__((visibility("default"))) char* emulated_device_bytes(const void* address) {
  emulated::block_of(address, 1, "an operator", false);
  return emulated::bytes_behind(address);
}
extern "C" __attribute__((visibility("default"))) void emulated_device_queue(void* stream, const char* name,
                                                                             const emulated::Access* accesses,
                                                                             size_t count,
                                                                             const std::function<void()>& task) {
  emulated::of(static_cast<C_Stream>(stream))->add(name, {accesses, accesses + count}, task);
}

extern "C" __attribute__((visibility("default"))) void InitPlugin(CustomRuntimeParams* params) {
  using namespace emulated;
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  params->device_type = const_cast<char*>(kDeviceType);
  params->sub_device_type = const_cast<char*>("1");
  auto& interface = *params->interface;
  memset(static_cast<void*>(&interface), 0, sizeof interface);
  interface.size = sizeof interface;
  interface.initialize = done;
  interface.finalize = finalize;
  interface.init_device = set_device;
  interface.set_device = set_device;
  interface.get_device = get_device;
  interface.deinit_device = done_with;
  interface.get_device_count = get_count;
  interface.get_device_list = get_list;
  interface.device_memory_allocate = allocate_block;
  interface.device_memory_deallocate = free_block;
  interface.device_memory_set = set_bytes;
  interface.host_memory_allocate = allocate_host;
  interface.host_memory_deallocate = free_host;
  interface.device_memory_stats = memory_stats;
  interface.device_min_chunk_size = smallest_block;
  interface.memory_copy_h2d = to_device;
  interface.memory_copy_d2h = to_host;
  interface.memory_copy_d2d = within;
  interface.memory_copy_p2p = between;
  interface.async_memory_copy_h2d = to_device_in;
  interface.async_memory_copy_d2h = to_host_in;
  interface.async_memory_copy_d2d = within_in;
  interface.async_memory_copy_p2p = between_in;
  interface.get_runtime_version = one;
  interface.get_driver_version = one;
  interface.get_compute_capability = one;
  interface.is_float16_supported = yes;
  interface.is_bfloat16_supported = yes;
  add_streams(interface);
  add_collectives(interface);
  add_kernels();
}
