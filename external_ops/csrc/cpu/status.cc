#include "status.h"

#include "llm_ops_cpu.h"

namespace llm {

std::string &last_error() {
  thread_local std::string message;
  return message;
}

}  // namespace llm

const char *llm_cpu_error(void) { return llm::last_error().c_str(); }

int llm_cpu_interface(void) { return 8; }
