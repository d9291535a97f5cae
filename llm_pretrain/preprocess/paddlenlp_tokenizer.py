"""Tokenizers that only PaddleNLP reads, through the extra `paddlenlp`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.words import Ragged


class PaddleNLPTokenizer:
    """A Tokenizer of the class that the directory's tokenizer_config.json names.

    Raises PreprocessError where the extra isn't installed.
    """

    def __init__(self, folder: Path, class_name: str) -> None:
        try:
            from paddlenlp import transformers
        except ImportError as error:
            raise PreprocessError(
                f"{folder} holds a {class_name}, which only PaddleNLP reads: install the extra, "
                "pip install 'llm_pretrain[paddlenlp]', in an environment of its own."
            ) from error
        # AutoTokenizer doesn't know all of PaddleNLP's classes, GLMBertTokenizer for one.
        found = getattr(transformers, class_name, transformers.AutoTokenizer)
        self._tokenizer = found.from_pretrained(str(folder))
        self.vocab_size = len(self._tokenizer)
        self.eos_id: int | None = self._tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(text))

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        return Ragged.of([self.encode(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)
