#include "instructions.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "llm_ops_cpu.h"

namespace llm {
namespace {

constexpr const char *kVariable = "LLM_PRETRAIN_OPS_ISA";
constexpr const char *kNames[] = {"baseline", "avx2", "avx512"};

Instructions best() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("x86-64-v4")) return Instructions::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Instructions::kAvx2;
#endif
  return Instructions::kBaseline;
}

Instructions choose() {
  const char *wanted = std::getenv(kVariable);
  if (wanted == nullptr || *wanted == '\0') return best();
  for (int set = 0; set < 3; ++set) {
    if (wanted != std::string(kNames[set])) continue;
    if (set > static_cast<int>(best())) {
      throw std::invalid_argument(std::string(kVariable) + " asks for " + wanted +
                                  ", which this processor lacks");
    }
    return static_cast<Instructions>(set);
  }
  throw std::invalid_argument(std::string(kVariable) + " is " + wanted +
                              ": baseline, avx2 and avx512 are known");
}

}  // namespace

Instructions instructions() {
  static const Instructions chosen = choose();
  return chosen;
}

}  // namespace llm

const char *llm_cpu_instructions(void) {
  try {
    return llm::kNames[static_cast<int>(llm::instructions())];
  } catch (const std::exception &) {
    return "none";
  }
}
