"""From text to `.bin/.idx` files. Paddle is imported only with a tokenizer that PaddleNLP reads."""

from __future__ import annotations

from llm_pretrain.preprocess.command import main
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.tokenizer_files import find_tokenizer
from llm_pretrain.preprocess.tokenizers import Tokenizer, load_tokenizer
from llm_pretrain.preprocess.train_tokenizer import train_bpe

__all__ = [
    "PreprocessError",
    "Tokenizer",
    "find_tokenizer",
    "load_tokenizer",
    "main",
    "train_bpe",
]
