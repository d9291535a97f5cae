// Errors at the C interface: a message per thread instead of an exception.
#pragma once
#include <exception>
#include <stdexcept>
#include <string>

#include "instructions.h"

namespace llm {

std::string &last_error();

inline void require(bool holds, const char *message) {
  if (!holds) throw std::invalid_argument(message);
}

template <class Body>
int guarded(Body body) noexcept {
  try {
    instructions();  // a wrong choice is refused here, outside parallel regions
    body();
    return 0;
  } catch (const std::exception &error) {
    last_error() = error.what();
  } catch (...) {
    last_error() = "unknown error";
  }
  return -1;
}

}  // namespace llm
