// Memory that is asked for again and again.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace llm {

// Memory of a thread that its next product uses again.
class Scratch {
 public:
  // The parts' places, each on a line of the cache.
  template <size_t count>
  std::array<void *, count> take(const std::array<size_t, count> &bytes) {
    size_t total = 0;
    for (const size_t part : bytes) total += whole_lines(part);
    if (memory_.size() < total + kLine) memory_.resize(total + kLine);
    auto *place = reinterpret_cast<uint8_t *>(
        whole_lines(reinterpret_cast<uintptr_t>(memory_.data())));
    std::array<void *, count> places;
    for (size_t part = 0; part < count; ++part) {
      places[part] = place;
      place += whole_lines(bytes[part]);
    }
    return places;
  }

 private:
  static constexpr size_t kLine = 64;
  static size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
  std::vector<uint8_t> memory_;
};

}  // namespace llm
