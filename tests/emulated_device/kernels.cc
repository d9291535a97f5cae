// The device's kernels: Paddle's own for the CPU, which a stream runs, late, on the bytes behind the
// device's addresses. A kernel is registered under a name and a type where Paddle's CPU has it, and
// its signature is that of the wheel's headers (kernel_names.txt, compile_plugin.py).
//
// In float16 and bfloat16 a kernel computes as an accelerator's does: operands become float32, the
// CPU's float32 kernel runs on them, and what it gives is rounded once, to the nearest (even). The
// CPU's own kernels of these types are few, and some round each sum on the way.
#include <exception>
#include <optional>
#include <tuple>
#include <type_traits>

#include "device.h"
#include "generated_kernels.h"  // by compile_plugin.py: includes, and FOR_EACH_KERNEL
#include "paddle/phi/backends/context_pool.h"
#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/backends/custom/custom_context.h"
#include "paddle/phi/common/bfloat16.h"
#include "paddle/phi/common/float16.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/kernel_registry.h"

namespace emulated {
namespace {

using phi::DataType;
using phi::DenseTensor;

// What one registered kernel calls.
struct Call {
  const char* name;
  void* cpu_kernel;
  // The 16-bit type that stands for float32 in the device's tensors; UNDEFINED where none does.
  DataType narrow = DataType::UNDEFINED;
  bool is_narrow(DataType type) const { return type == narrow && narrow != DataType::UNDEFINED; }
};

// What is known of a call while its arguments are gathered on the host.
struct Gathering {
  const phi::CustomContext& context;
  const Call& kernel;
  std::vector<Access> accesses;
  // Whether an output's shape shows only in the results, so that the host has to wait.
  bool has_late_output = false;
};

const phi::CPUContext& host_context() {
  static auto& context = *static_cast<phi::CPUContext*>(phi::DeviceContextPool::Instance().Get(phi::CPUPlace()));
  return context;
}

bool is_on_device(const DenseTensor& tensor) {
  return tensor.has_allocation() && tensor.place().GetType() == phi::AllocationType::CUSTOM;
}

// From the first to the last byte of a tensor, which may have strides.
Access access_of(const DenseTensor& tensor, bool writes) {
  int64_t last = 0;
  for (int i = 0; i < tensor.dims().size(); ++i) last += (tensor.dims()[i] - 1) * tensor.strides()[i];
  if (tensor.dims().size() != tensor.strides().size()) last = tensor.numel() - 1;
  return {tensor.data(), (last + 1) * phi::SizeOf(tensor.dtype()), writes};
}

// The tensor as a CPU's, at the address of its bytes. It does not keep the memory alive: a kernel
// in a stream doesn't, either.
DenseTensor on_host(const DenseTensor& tensor) {
  if (!is_on_device(tensor)) return tensor;
  auto& holder = *tensor.Holder();
  void* bytes = holder.ptr() ? bytes_behind(holder.ptr()) : nullptr;
  return DenseTensor(std::make_shared<phi::Allocation>(bytes, holder.size(), phi::CPUPlace()), tensor.meta());
}

// ---- 16-bit types.

template <typename From, typename To>
void convert(const void* from, void* to, int64_t count) {
  auto source = static_cast<const From*>(from);
  auto target = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) target[i] = static_cast<To>(source[i]);
}

// A copy in float32 of a tensor on the host; without memory where that has none.
DenseTensor widened(const DenseTensor& tensor, const char* kernel) {
  phi::DenseTensorMeta meta(DataType::FLOAT32, tensor.dims(), tensor.layout());
  if (!tensor.has_allocation() || tensor.Holder()->size() == 0) return DenseTensor(tensor.Holder(), meta);
  DenseTensor wide(std::shared_ptr<phi::Allocation>(), meta);
  if (!tensor.meta().is_contiguous()) fail("kernel %s gets strides in 16 bits: is it [strided] in kernel_names.txt?", kernel);
  auto values = host_context().Alloc<float>(&wide);
  if (tensor.dtype() == DataType::BFLOAT16)
    convert<phi::bfloat16, float>(tensor.data(), values, tensor.numel());
  else
    convert<phi::float16, float>(tensor.data(), values, tensor.numel());
  return wide;
}

// Write float32 values as a 16-bit type.
void round_to(DataType narrow, const DenseTensor& wide, void* target) {
  if (narrow == DataType::BFLOAT16)
    convert<float, phi::bfloat16>(wide.data(), target, wide.numel());
  else
    convert<float, phi::float16>(wide.data(), target, wide.numel());
}

// ---- What a kernel is called with: gathered on the host, handed to the CPU's kernel on the stream.

class Input {
 public:
  Input(const DenseTensor& tensor, Gathering& call) : kernel(call.kernel), host_tensor(on_host(tensor)) {
    // A gradient's kernel gets some inputs for their shape alone, without memory.
    if (is_on_device(tensor) && tensor.Holder()->size() > 0 && tensor.numel() > 0) call.accesses.push_back(access_of(tensor, false));
  }
  const DenseTensor& get() {
    if (kernel.is_narrow(host_tensor.dtype())) host_tensor = widened(host_tensor, kernel.name);
    return host_tensor;
  }

 private:
  const Call& kernel;
  DenseTensor host_tensor;
};

class Output {
 public:
  Output(DenseTensor* tensor, Gathering& call) : device_tensor(tensor), kernel(call.kernel) {
    if (!tensor) return;
    is_late = tensor->dtype() == DataType::UNDEFINED || tensor->numel() <= 0;
    is_narrow = kernel.is_narrow(tensor->dtype());
    if (is_late) {
      call.has_late_output = true;
      phi::DenseTensorMeta meta = tensor->meta();
      if (is_narrow) meta.dtype = DataType::FLOAT32;
      host_tensor = DenseTensor(std::shared_ptr<phi::Allocation>(), meta);
      return;
    }
    call.context.Alloc(tensor, tensor->dtype());
    call.accesses.push_back(access_of(*tensor, true));
    host_tensor = on_host(*tensor);
    bytes = host_tensor.data();
    shape = tensor->dims();
  }
  DenseTensor* get() {
    // With what is there: a kernel may leave some of it.
    if (is_narrow && !is_late) host_tensor = widened(host_tensor, kernel.name);
    return device_tensor ? &host_tensor : nullptr;
  }
  // On the stream, after the kernel.
  void finish() {
    if (!device_tensor || is_late) return;
    if (host_tensor.dims() != shape) fail("kernel %s gives another shape than Paddle has inferred", kernel.name);
    give(bytes);
  }
  // On the host, which has waited.
  void take_over(const phi::CustomContext& context) {
    if (!device_tensor || !is_late || !host_tensor.has_allocation()) return;
    device_tensor->Resize(host_tensor.dims());
    context.Alloc(device_tensor, is_rounded() ? kernel.narrow : host_tensor.dtype());
    size_t size = device_tensor->numel() * phi::SizeOf(device_tensor->dtype());
    if (!size) return;
    auto stream = reinterpret_cast<Stream*>(context.stream());
    void* address = device_tensor->data();
    stream->add(kernel.name, {{address, size, true}}, [own = *this, address] { own.give(bytes_behind(address)); });
  }

 private:
  bool is_rounded() const { return is_narrow && host_tensor.dtype() == DataType::FLOAT32; }
  // Some kernels make a tensor of their own and hand it out.
  void give(void* target) const {
    if (is_rounded())
      round_to(kernel.narrow, host_tensor, target);
    else if (host_tensor.data() != target)
      memcpy(target, host_tensor.data(), host_tensor.numel() * phi::SizeOf(host_tensor.dtype()));
  }

  DenseTensor* device_tensor;  // the host's, who may drop it once the call has returned
  const Call& kernel;
  DenseTensor host_tensor;
  bool is_late = false, is_narrow = false;
  void* bytes = nullptr;
  phi::DDim shape;
};

struct NoOutput {
  void finish() {}
  void take_over(const phi::CustomContext&) {}
};
template <typename T>
struct Argument : NoOutput {  // an attribute: a copy of it
  std::decay_t<T> value;
  Argument(T given, Gathering&) : value(given) {}
  const std::decay_t<T>& get() { return value; }
};
template <>
struct Argument<DataType> : NoOutput {
  DataType value;
  Argument(DataType given, Gathering& call) : value(call.kernel.is_narrow(given) ? DataType::FLOAT32 : given) {}
  DataType get() { return value; }
};
template <>
struct Argument<const DenseTensor&> : Input, NoOutput {
  using Input::Input;
};
template <>
struct Argument<const paddle::optional<DenseTensor>&> : NoOutput {
  std::optional<Input> input;
  paddle::optional<DenseTensor> tensor;
  Argument(const paddle::optional<DenseTensor>& given, Gathering& call) {
    if (given) input.emplace(*given, call);
  }
  const paddle::optional<DenseTensor>& get() {
    if (input) tensor = input->get();
    return tensor;
  }
};
template <>
struct Argument<const std::vector<const DenseTensor*>&> : NoOutput {
  std::vector<Input> inputs;
  std::vector<const DenseTensor*> pointers;
  Argument(const std::vector<const DenseTensor*>& given, Gathering& call) {
    for (auto tensor : given) inputs.emplace_back(*tensor, call);
  }
  const std::vector<const DenseTensor*>& get() {
    for (auto& input : inputs) pointers.push_back(&input.get());
    return pointers;
  }
};
template <>
struct Argument<DenseTensor*> : Output {
  using Output::Output;
};
template <>
struct Argument<std::vector<DenseTensor*>> {
  std::vector<Output> outputs;
  Argument(const std::vector<DenseTensor*>& given, Gathering& call) {
    for (auto tensor : given) outputs.emplace_back(tensor, call);
  }
  std::vector<DenseTensor*> get() {
    std::vector<DenseTensor*> pointers;
    for (auto& output : outputs) pointers.push_back(output.get());
    return pointers;
  }
  void finish() {
    for (auto& output : outputs) output.finish();
  }
  void take_over(const phi::CustomContext& context) {
    for (auto& output : outputs) output.take_over(context);
  }
};

template <typename... A>
void launch(const Call& call, const phi::CustomContext& context, A... given) {
  Gathering gathering{context, call, {}, false};
  using Arguments = std::tuple<Argument<A>...>;
  // Braces: from the first to the last.
  auto arguments = std::shared_ptr<Arguments>(new Arguments{Argument<A>(std::forward<A>(given), gathering)...});
  auto problem = std::make_shared<std::string>();
  bool waits = gathering.has_late_output;
  auto stream = reinterpret_cast<Stream*>(context.stream());
  auto kernel = reinterpret_cast<void (*)(const phi::CPUContext&, A...)>(call.cpu_kernel);
  const auto& host = host_context();
  stream->add(call.name, std::move(gathering.accesses), [=, &host, name = call.name] {
    std::apply(
        [&](auto&... argument) {
          try {
            kernel(host, argument.get()...);
          } catch (const std::exception& error) {
            // As on an accelerator, the host is elsewhere by now.
            if (!waits) fail("kernel %s: %s", name, error.what());
            *problem = error.what();
            return;
          }
          (argument.finish(), ...);
        },
        *arguments);
  });
  if (!waits) return;
  stream->wait();
  if (!problem->empty()) throw std::runtime_error(*problem);
  std::apply([&](auto&... argument) { (argument.take_over(context), ...); }, *arguments);
}

// The functions that Paddle calls: one for each kernel and type.
constexpr DataType kTypes[] = {DataType::FLOAT32, DataType::FLOAT64, DataType::FLOAT16, DataType::BFLOAT16, DataType::INT32,
                               DataType::INT64,   DataType::INT16,   DataType::INT8,    DataType::UINT8,    DataType::BOOL};
constexpr size_t kTypeCount = std::size(kTypes);

template <typename Name, typename Signature>
struct Entry;
template <typename Name, typename... A>
struct Entry<Name, void (*)(const phi::CPUContext&, A...)> {
  static inline Call calls[kTypeCount];
  template <size_t type>
  static void run(const phi::CustomContext& context, A... arguments) {
    launch<A...>(calls[type], context, std::forward<A>(arguments)...);
  }
};

void refuse_context(phi::KernelContext*) { fail("a kernel is called in a way that the emulated device does not know"); }

template <typename Signature>
bool has_signature(const phi::KernelArgsDef& actual, phi::KernelKey key) {
  phi::KernelArgsDef expected;
  phi::KernelArgsParseFunctor<Signature>::Parse(key, &expected);
  const auto& attributes = expected.attribute_defs();
  const auto& others = actual.attribute_defs();
  if (expected.input_defs().size() != actual.input_defs().size() ||
      expected.output_defs().size() != actual.output_defs().size() || attributes.size() != others.size())
    return false;
  for (size_t i = 0; i < attributes.size(); ++i)
    if (attributes[i].type_index != others[i].type_index) return false;
  return true;
}

// Whose kernel runs for a type: none of `kernels` where the CPU has none.
DataType computing_type(DataType type, bool is_strided) {
  bool is_narrow = type == DataType::FLOAT16 || type == DataType::BFLOAT16;
  return is_narrow && !is_strided ? DataType::FLOAT32 : type;
}

template <typename Name, typename Signature, size_t type>
void add_kernel(const std::string& name, bool is_strided, phi::KernelKeyMap& kernels, phi::Backend device) {
  const DataType own = kTypes[type], computes = computing_type(own, is_strided);
  phi::KernelKey cpu_key(phi::Backend::CPU, phi::DataLayout::ALL_LAYOUT, computes);
  auto found = kernels.find(cpu_key);
  if (found == kernels.end()) return;
  const phi::Kernel& cpu = found->second;
  void* function = cpu.GetVariadicKernelFn<void*>();
  if (!function) return;
  if (!has_signature<Signature>(cpu.args_def(), cpu_key))
    fail("the wheel's kernel %s has another signature than kernel_names.txt or its header says", name.c_str());
  using Own = Entry<Name, Signature>;
  Own::calls[type] = {name.c_str(), function, own == computes ? DataType::UNDEFINED : own};
  phi::Kernel kernel(refuse_context, reinterpret_cast<void*>(&Own::template run<type>));
  *kernel.mutable_args_def() = cpu.args_def();
  auto to_device = [&](auto& definitions) {
    for (auto& definition : definitions) {
      if (definition.backend == phi::Backend::CPU) definition.backend = device;
      if (definition.dtype == computes) definition.dtype = own;
    }
  };
  to_device(kernel.mutable_args_def()->input_defs());
  to_device(kernel.mutable_args_def()->output_defs());
  kernels.emplace(phi::KernelKey(device, phi::DataLayout::ALL_LAYOUT, own), kernel);
}

template <typename Name, typename Signature, size_t... types>
void add_types(const char* name, bool is_strided, std::string& missing, std::index_sequence<types...>) {
  auto& all = phi::KernelFactory::Instance().kernels();
  auto found = all.find(name);
  if (found == all.end()) {
    missing += std::string(" ") + name;
    return;
  }
  auto device = phi::TransToPhiBackend(phi::CustomPlace(kDeviceType, 0));
  (add_kernel<Name, Signature, types>(found->first, is_strided, found->second, device), ...);
}

}  // namespace

void add_kernels() {
  // As in kernel_names.txt.
  using In = const DenseTensor&;
  using OptionalIn = const paddle::optional<DenseTensor>&;
  using Out = DenseTensor*;
  std::string missing;
#define ADD_KERNEL(name, is_strided, ...)                                                          \
  {                                                                                               \
    struct Name {};                                                                               \
    add_types<Name, __VA_ARGS__>(#name, is_strided, missing, std::make_index_sequence<kTypeCount>()); \
  }
  FOR_EACH_KERNEL(ADD_KERNEL)
  if (!missing.empty()) fail("the wheel does not have these kernels of kernel_names.txt:%s", missing.c_str());
}

}  // namespace emulated
