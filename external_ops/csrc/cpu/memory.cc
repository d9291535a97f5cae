// Memory of results, which the next of the same size takes over, as tensors of DLPack.
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

// Of DLPack's first version, https://dmlc.github.io/dlpack/latest/c_api.html.
struct DLDevice {
  int32_t type, id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void *data;
  DLDevice device;
  int32_t dims;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void *context;
  void (*deleter)(DLManagedTensor *);
};
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

class Pool {
 public:
  // A block that lies idle, or a new one, for which those of sizes not used since the last
  // `give_back` go: so a step of other sizes than the last needs no memory for both.
  void *take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<void *> &blocks = idle_[bytes];
    if (!blocks.empty()) {
      void *block = blocks.back();
      blocks.pop_back();
      const auto fewest = unneeded_.find(bytes);
      if (fewest == unneeded_.end()) {
        unneeded_[bytes] = blocks.size();
      } else {
        fewest->second = std::min(fewest->second, blocks.size());
      }
      return block;
    }
    unneeded_[bytes] = 0;
    size_t freed = 0;
    for (auto &[size, others] : idle_) {
      while (freed < bytes && !others.empty() && !unneeded_.count(size)) {
        freed += size;
        munmap(others.back(), size);
        others.pop_back();
      }
    }
    void *block = map(bytes);
    if (block != MAP_FAILED) return block;
    for (auto &[size, others] : idle_) give_back(size, others, others.size());
    block = map(bytes);
    if (block == MAP_FAILED) throw std::runtime_error("the system has no memory for it");
    return block;
  }

  void put(void *block, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_[bytes].push_back(block);
  }

  void give_back() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto &[size, blocks] : idle_) {
      const auto fewest = unneeded_.find(size);
      give_back(size, blocks, fewest == unneeded_.end() ? blocks.size() : fewest->second);
    }
    unneeded_.clear();
  }

 private:
  static void *map(size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }

  // The first ones, which were used last before the others, and no more than there still are.
  static void give_back(size_t size, std::vector<void *> &blocks, size_t count) {
    count = std::min(count, blocks.size());
    for (size_t each = 0; each < count; ++each) munmap(blocks[each], size);
    blocks.erase(blocks.begin(), blocks.begin() + count);
  }

  std::mutex mutex_;
  // By size, what was used last at the end.
  std::map<size_t, std::vector<void *>> idle_;
  // The fewest of a size that lay idle when one was taken, since the last `give_back`.
  std::map<size_t, size_t> unneeded_;
};

Pool &pool() {
  static Pool *const one = new Pool;  // tensors may be dropped when the process ends
  return *one;
}

struct Lease {
  DLManagedTensor managed;
  std::vector<int64_t> shape, strides;
  size_t bytes;
};

void end(DLManagedTensor *managed) {
  const std::unique_ptr<Lease> lease(static_cast<Lease *>(managed->context));
  pool().put(managed->tensor.data, lease->bytes);
}

}  // namespace
}  // namespace llm

int llm_cpu_take(const int64_t *shape, int64_t dims, llm_dtype dtype, void **tensor) {
  using namespace llm;
  return guarded([&] {
    auto lease = std::make_unique<Lease>();
    lease->shape.assign(shape, shape + dims);
    lease->strides.resize(dims);
    int64_t count = 1;
    for (int64_t axis = dims - 1; axis >= 0; --axis) {
      require(shape[axis] > 0, "a size that is not positive");
      lease->strides[axis] = count;
      count *= shape[axis];
    }
    lease->bytes = count * bytes_of(dtype);
    const uint8_t code = dtype == LLM_FLOAT32 ? kFloat : kBfloat;
    const auto bits = static_cast<uint8_t>(8 * bytes_of(dtype));
    lease->managed = {{pool().take(lease->bytes), {kCpu, 0}, static_cast<int32_t>(dims),
                       {code, bits, 1}, lease->shape.data(), lease->strides.data(), 0},
                      lease.get(), end};
    *tensor = &lease.release()->managed;
  });
}

int llm_cpu_give_back_memory(void) {
  return llm::guarded([] { llm::pool().give_back(); });
}
