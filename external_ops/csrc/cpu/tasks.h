// Work of uneven size, shared among threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>

namespace llm {

// Runs body(task, scratch) for every task; each thread has its own copy of `prototype`. If threads
// throw, one of their exceptions is thrown when all are done.
template <class Scratch, class Body>
void in_parallel(int64_t tasks, const Scratch &prototype, Body body) {
  // Counted by hand: for schedule(dynamic) gcc calls functions that Paddle's OpenMP lacks. They are
  // then found in gcc's own, which knows nothing of these threads, and each does all of the work.
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
#pragma omp parallel
  {
    try {
      Scratch scratch = prototype;
      for (int64_t task = next++; task < tasks; task = next++) body(task, scratch);
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace llm
