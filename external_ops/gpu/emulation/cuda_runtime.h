// A device of CUDA on the CPU, as far as csrc/cuda needs one: the threads of a block are coroutines
// that hand over at barriers and shuffles. Blocks run one after another, and so do the warps of a
// block from barrier to barrier: where one is missing, a warp meets what the others have not done, or
// have overdone. It finds errors of arithmetic and indices, and of alignment where it is built with a
// sanitizer; of races within a warp it finds only some, of speed nothing.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

using cudaStream_t = void *;
enum cudaError_t { cudaSuccess = 0 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace emulation {

enum class State { kRuns, kAtBarrier, kEnded };

// 16 bytes on their way to shared memory; zeros where `from` is NULL.
struct Copy {
  void *to;
  const void *from;
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  State state;
  uint32_t published[8];
  std::vector<Copy> copies;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Thread> threads;
  std::function<void()> body;
};

inline Block block;
inline unsigned current;

inline void hand_over(State state = State::kRuns) {
  Thread &thread = block.threads[current];
  thread.state = state;
  swapcontext(&thread.context, &block.scheduler);
}

inline void run_thread() {
  block.body();
  hand_over(State::kEnded);
}

// Every lane hands its words to the others; read(lane's words) may look at them until it returns.
template <class Read>
auto exchange(const uint32_t *words, int count, Read read) {
  std::copy(words, words + count, block.threads[current].published);
  hand_over();
  const Thread *warp = block.threads.data() + current / 32 * 32;
  auto result = read([warp](int lane) { return warp[lane].published; });
  hand_over();  // all have read before anyone publishes again
  return result;
}

}  // namespace emulation

inline dim3 blockIdx, blockDim, gridDim, threadIdx;

namespace llm_ops {
alignas(16) inline int4 shared[16384];
}

inline void __syncthreads() { emulation::hand_over(emulation::State::kAtBarrier); }

inline float __shfl_xor_sync(unsigned, float value, int distance) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  const int source = (emulation::current % 32) ^ distance;
  return emulation::exchange(&word, 1, [source](auto words_of) {
    float received;
    std::memcpy(&received, words_of(source), 4);
    return received;
  });
}

namespace emulation {

// Whether a kernel wrote to shared memory behind what it asked for.
inline bool is_overrun(size_t shared_bytes) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(llm_ops::shared);
  return std::any_of(bytes + shared_bytes, bytes + sizeof(llm_ops::shared),
                     [](unsigned char byte) { return byte != 0xff; });
}

// Runs the lanes of a warp in turns until all wait for the block or have ended.
inline void run_warp(unsigned first) {
  const unsigned end = std::min<unsigned>(first + 32, block.threads.size());
  for (bool any_runs = true; any_runs;) {
    any_runs = false;
    for (unsigned i = first; i < end; ++i) {
      if (block.threads[i].state != State::kRuns) { continue; }
      any_runs = true;
      current = i;
      threadIdx = dim3(i, 0, 0);
      swapcontext(&block.scheduler, &block.threads[i].context);
    }
  }
}

inline void run_block(size_t shared_bytes) {
  for (unsigned i = 0; i < block.threads.size(); ++i) {
    Thread &thread = block.threads[i];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.context, run_thread, 0);
    thread.state = State::kRuns;
    thread.copies.clear();
  }
  // What shared memory holds before it is written must not matter.
  std::memset(static_cast<void *>(llm_ops::shared), 0xff, sizeof(llm_ops::shared));
  while (true) {
    bool any_waits = false;
    for (unsigned first = 0; first < block.threads.size(); first += 32) { run_warp(first); }
    for (Thread &thread : block.threads) {
      if (thread.state == State::kAtBarrier) {
        any_waits = true;
        thread.state = State::kRuns;
      }
    }
    if (!any_waits) { break; }
  }
  if (is_overrun(shared_bytes)) { std::abort(); }
}

template <class... Parameters, size_t... indices>
void call(void (*kernel)(Parameters...), void **arguments, std::index_sequence<indices...>) {
  kernel(*static_cast<std::remove_reference_t<Parameters> *>(arguments[indices])...);
}

}  // namespace emulation

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 threads,
                             void **arguments, size_t shared_bytes, cudaStream_t) {
  if (shared_bytes > sizeof(llm_ops::shared)) { std::abort(); }
  constexpr size_t kStack = 256 * 1024;
  auto &all = emulation::block.threads;
  all.resize(threads.x);
  for (auto &thread : all) { thread.stack.resize(kStack); }
  emulation::block.body = [=] {
    emulation::call(kernel, arguments, std::index_sequence_for<Parameters...>{});
  };
  gridDim = grid;
  blockDim = threads;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        emulation::run_block(shared_bytes);
      }
    }
  }
  return cudaSuccess;
}
