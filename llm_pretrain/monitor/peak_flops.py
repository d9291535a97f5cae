"""Peak arithmetic rates of devices, the denominator of MFU (model FLOPs utilisation).

Rates are dense, without sparsity, as the makers' data sheets give them. `half` is for bf16 and fp16
tensor cores with fp32 accumulation; `single` is plain fp32, since Paddle 3.3 leaves cuBLAS's TF32
off. A CPU has none: its clock under load isn't known.
"""

from __future__ import annotations

from typing import NamedTuple

TERA = 1e12


class Peak(NamedTuple):
    """A device whose name holds every one of `words`; rates in TFLOP/s."""

    words: tuple[str, ...]
    half: float
    single: float
    bfloat16: bool = True


# The first match counts: a variant comes before the plain name.
PEAKS: tuple[Peak, ...] = (
    # NVIDIA B200 data sheet (one GPU of a DGX B200).
    Peak(("B200",), 2250.0, 75.0),
    # NVIDIA H200 data sheet: SXM, NVL.
    Peak(("H200", "NVL"), 835.5, 60.0),
    Peak(("H200",), 989.5, 67.0),
    # NVIDIA H100 data sheet: PCIe, NVL, SXM. The H800 differs in links and fp64 only.
    Peak(("H100", "PCIe"), 756.5, 51.0),
    Peak(("H800", "PCIe"), 756.5, 51.0),
    Peak(("H100", "NVL"), 835.5, 60.0),
    Peak(("H100",), 989.5, 67.0),
    Peak(("H800",), 989.5, 67.0),
    # NVIDIA H20 product brief.
    Peak(("H20",), 148.0, 44.0),
    # NVIDIA A100 data sheet; the A800 differs in links only.
    Peak(("A100",), 312.0, 19.5),
    Peak(("A800",), 312.0, 19.5),
    # NVIDIA A30, A40 and A10 data sheets.
    Peak(("A30",), 165.0, 10.3),
    Peak(("A40",), 149.7, 37.4),
    Peak(("A10",), 125.0, 31.2),
    # NVIDIA L40S, L40, L20 and L4 data sheets.
    Peak(("L40S",), 362.05, 91.6),
    Peak(("L40",), 181.05, 90.5),
    Peak(("L20",), 119.5, 59.8),
    Peak(("L4",), 121.0, 30.3),
    # NVIDIA Ada and Ampere GA102 architecture white papers (fp32 accumulation).
    Peak(("RTX", "4090"), 165.2, 82.6),
    Peak(("RTX", "3090"), 71.0, 35.6),
    # NVIDIA V100 and T4 data sheets. Volta and Turing have no bf16.
    Peak(("V100S",), 130.0, 16.4, bfloat16=False),
    Peak(("V100", "PCIE"), 112.0, 14.0, bfloat16=False),
    Peak(("V100",), 125.0, 15.7, bfloat16=False),
    Peak(("T4",), 65.0, 8.1, bfloat16=False),
)


def peak_flops(device_name: str, dtype: str) -> float | None:
    """FLOP/s of one device, e.g. of ("NVIDIA A100-SXM4-80GB", "bfloat16"): 3.12e14.

    `dtype`: "float32", "bfloat16" or "float16". None where the device or the type on it is
    unknown, a CPU among them.
    """
    words = frozenset(device_name.upper().replace("-", " ").replace("_", " ").split())
    for peak in PEAKS:
        if all(word.upper() in words for word in peak.words):
            if dtype == "float32":
                return peak.single * TERA
            if dtype == "float16" or (dtype == "bfloat16" and peak.bfloat16):
                return peak.half * TERA
            return None
    return None
