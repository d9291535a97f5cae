#include "instructions.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#include "llm_ops_cpu.h"

namespace llm {
namespace {

constexpr const char *kVariable = "LLM_PRETRAIN_OPS_ISA";
constexpr const char *kNames[] = {"baseline", "avx2", "avx512", "amx"};

#if defined(__x86_64__) && defined(__linux__)
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, Intel's XSAVE features
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool may_use_tiles() { return false; }
#endif

Instructions best() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("x86-64-v4"))
    return may_use_tiles() ? Instructions::kAmx : Instructions::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Instructions::kAvx2;
#endif
  return Instructions::kBaseline;
}

Instructions choose() {
  const char *wanted = std::getenv(kVariable);
  if (wanted == nullptr || *wanted == '\0') return best();
  for (int set = 0; set < static_cast<int>(std::size(kNames)); ++set) {
    if (wanted != std::string(kNames[set])) continue;
    if (set > static_cast<int>(best())) {
      throw std::invalid_argument(std::string(kVariable) + " asks for " + wanted +
                                  ", which this processor lacks");
    }
    return static_cast<Instructions>(set);
  }
  throw std::invalid_argument(std::string(kVariable) + " is " + wanted +
                              ": baseline, avx2, avx512 and amx are known");
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
