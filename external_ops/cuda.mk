# The CUDA kernels: make gpu-build, gpu-test, gpu-bench. All three need nvcc, the last two a GPU of
# compute capability 8.0 or 9.0 and a PyTorch for it: make gpu-test GPU_PYTHON=path/to/python.

NVCC ?= nvcc
GPU_PYTHON ?= .venv-transformers/bin/python
CUDA_SOURCES := $(wildcard external_ops/csrc/cuda/*.cu)
CUDA_HEADERS := $(wildcard external_ops/csrc/cuda/*.cuh external_ops/csrc/cuda/*.h)
CUDA_LIBRARY := external_ops/build/cuda/libllm_ops.so
CUDA_OBJECTS := $(CUDA_SOURCES:external_ops/csrc/cuda/%.cu=external_ops/build/cuda/%.o)
NVCC_FLAGS := -std=c++17 -O3 -I external_ops/csrc/cuda -Werror all-warnings \
	-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
	-Xcompiler -Wall,-fPIC,-fvisibility=hidden

.PHONY: gpu-build gpu-test gpu-bench

gpu-build: $(CUDA_LIBRARY)

$(CUDA_LIBRARY): $(CUDA_OBJECTS)
	$(NVCC) -shared -o $@ $^

external_ops/build/cuda/%.o: external_ops/csrc/cuda/%.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c -o $@ $<

gpu-test: gpu-build
	$(GPU_PYTHON) external_ops/gpu/check.py $(CUDA_LIBRARY)

gpu-bench: gpu-build
	$(GPU_PYTHON) external_ops/gpu/bench.py $(CUDA_LIBRARY)
