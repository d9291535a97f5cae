#include "status.h"

#include "llm_ops_cpu.h"

namespace llm {

std::string &last_error() {
  thread_local std::string message;
  return message;
}

}  // namespace llm

const char *llm_cpu_error(void) { return llm::last_error().c_str(); }

int llm_cpu_interface(void) { return 2; }

const char *llm_cpu_instructions(void) {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  return "baseline";
}
