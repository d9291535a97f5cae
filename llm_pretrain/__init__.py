"""A launcher for pretraining large language models with PaddlePaddle."""

from __future__ import annotations

__version__ = "0.1.0"

try:
    from llm_pretrain import machine
except KeyboardInterrupt:
    # Nothing has begun yet that could handle it; 130 is what a shell makes of the signal.
    raise SystemExit(130) from None

machine.configure()
