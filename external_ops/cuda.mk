# The CUDA kernels: make gpu-build, gpu-test, gpu-bench. All three need nvcc, the last two a GPU of
# compute capability 8.0 or 9.0 and a PyTorch for it: make gpu-test GPU_PYTHON=path/to/python.

NVCC ?= nvcc
GPU_PYTHON ?= python3
CUDA_SOURCES := $(wildcard external_ops/csrc/cuda/*.cu)
CUDA_HEADERS := $(wildcard external_ops/csrc/cuda/*.cuh external_ops/csrc/cuda/*.h)
CUDA_LIBRARY := external_ops/build/cuda/libllm_ops.so
CUDA_OBJECTS := $(CUDA_SOURCES:external_ops/csrc/cuda/%.cu=external_ops/build/cuda/%.o)
NVCC_FLAGS := -std=c++17 -O3 -I external_ops/csrc/cuda -Werror all-warnings \
	-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
	-Xcompiler -Wall,-fPIC,-fvisibility=hidden

.PHONY: gpu-build gpu-there gpu-test gpu-bench

gpu-build: $(CUDA_LIBRARY)

gpu-there:
	@$(GPU_PYTHON) -c 'import torch; torch.cuda.get_device_name()' 2>/dev/null || { echo \
	"$@: the PyTorch of $(GPU_PYTHON) sees no GPU, or isn't there. On a machine with a GPU: make" \
	"gpu-test (or gpu-bench) GPU_PYTHON=path/to/python/with/PyTorch. Without one, tests run the" \
	"kernels on an emulated device (tests/external_ops)." >&2; exit 1; }

$(CUDA_LIBRARY): $(CUDA_OBJECTS)
	$(NVCC) -shared -o $@ $^

external_ops/build/cuda/%.o: external_ops/csrc/cuda/%.cu $(CUDA_HEADERS)
	@command -v $(NVCC) >/dev/null || { echo "$@: $(NVCC) is not there. The CUDA toolkit has it:" \
	"make $(MAKECMDGOALS) NVCC=path/to/nvcc." >&2; exit 1; }
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c -o $@ $<

gpu-test: gpu-there gpu-build
	$(GPU_PYTHON) external_ops/gpu/check.py $(CUDA_LIBRARY)

gpu-bench: gpu-there gpu-build
	$(GPU_PYTHON) external_ops/gpu/bench.py $(CUDA_LIBRARY)
