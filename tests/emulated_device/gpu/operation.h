// What a call of a CUDA operator tells its launches, the memory of the emulated device that it uses; and
// what the plug-in does for both (plugin.cc).
#pragma once
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "device.h"

namespace emulated_gpu {

struct Operation {
  std::string name;
  std::vector<emulated::Access> accesses;
};

inline thread_local Operation current;

// A function of the plug-in that Paddle has loaded.
template <class Function>
Function *of_plugin(const char *name) {
  const std::string path = std::string(getenv("CUSTOM_DEVICE_ROOT")) + "/libemulated.so";
  void *plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  void *found = plugin ? dlsym(plugin, name) : nullptr;
  if (!found) {
    fprintf(stderr, "%s: no %s: is the plug-in loaded?\n", path.c_str(), name);
    abort();
  }
  return reinterpret_cast<Function *>(found);
}

// Ends the process where `address` is in no living tensor.
inline char *bytes_behind(const void *address) {
  static const auto function = of_plugin<char *(const void *)>("emulated_device_bytes");
  return function(address);
}

inline void queue(void *stream, const std::function<void()> &task) {
  using Queue = void(void *, const char *, const emulated::Access *, size_t, const std::function<void()> &);
  static const auto function = of_plugin<Queue>("emulated_device_queue");
  function(stream, current.name.c_str(), current.accesses.data(), current.accesses.size(), task);
}

}  // namespace emulated_gpu
