from __future__ import annotations

import pytest

from llm_pretrain.monitor.peak_flops import peak_flops


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA A800-SXM4-80GB", "float16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5e12),
        ("NVIDIA H100 NVL", "bfloat16", 835.5e12),
        ("NVIDIA H800", "bfloat16", 989.5e12),
        ("NVIDIA H200", "bfloat16", 989.5e12),
        ("NVIDIA H20", "bfloat16", 148e12),
        ("NVIDIA L40S", "bfloat16", 362.05e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("Tesla V100-SXM2-32GB", "float16", 125e12),
        ("Tesla V100-SXM2-32GB", "bfloat16", None),
        ("Tesla V100-PCIE-16GB", "float16", 112e12),
        ("NVIDIA H100 80GB HBM3", "int8", None),
        ("NVIDIA A1000 Laptop GPU", "bfloat16", None),
        ("Intel(R) Xeon(R) Processor", "float32", None),
        ("", "float32", None),
    ],
)
def test_peak(name: str, dtype: str, expected: float | None) -> None:
    assert peak_flops(name, dtype) == expected
