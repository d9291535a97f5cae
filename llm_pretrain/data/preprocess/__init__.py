"""From text to `.bin/.idx` files. Paddle is imported only with a tokenizer that PaddleNLP reads."""

from __future__ import annotations

from llm_pretrain.data.preprocess.preprocess_text import main
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import Tokenizer, find_tokenizer, load_tokenizer
from llm_pretrain.data.preprocess.tokenizers.byte_level import train_bpe

__all__ = [
    "PreprocessError",
    "Tokenizer",
    "find_tokenizer",
    "load_tokenizer",
    "main",
    "train_bpe",
]
