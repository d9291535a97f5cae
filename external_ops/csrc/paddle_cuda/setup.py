"""Builds the CUDA kernels as operators of Paddle. Needs a Paddle with CUDA, and its nvcc:

    cd external_ops/csrc/paddle_cuda && python setup.py install

Afterwards `import llm_ops_cuda` has llm_ops_cuda.llm_ops_rms_norm and the others.
"""

from __future__ import annotations

from pathlib import Path

from paddle.utils.cpp_extension import CUDAExtension, setup

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "cuda"
ARCHITECTURES = ("80", "90a")

setup(
    name="llm_ops_cuda",
    ext_modules=CUDAExtension(
        sources=[str(HERE / "binding.cc"), *map(str, sorted(KERNELS.glob("*.cu")))],
        include_dirs=[str(HERE), str(KERNELS)],
        extra_compile_args={
            "cxx": ["-std=c++17", "-O2"],
            "nvcc": [
                "-std=c++17",
                "-O3",
                *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES),
            ],
        },
    ),
)
