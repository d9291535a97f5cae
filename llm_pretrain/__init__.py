"""A launcher for pretraining large language models with PaddlePaddle."""

from __future__ import annotations

from llm_pretrain import machine

__version__ = "0.1.0"

machine.configure()
