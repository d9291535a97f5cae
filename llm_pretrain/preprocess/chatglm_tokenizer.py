"""ChatGLM-6B's tokenizer: SentencePiece's `ice_text.model` behind the ids of image tokens.

That of ChatGLM2 and 3 is SentencePiece's `tokenizer.model` before the ids of `APPENDED`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.tokenizer_settings import eos_name, read_json
from llm_pretrain.preprocess.words import Ragged

FILE_NAME = "ice_text.model"
SECOND = frozenset({"ChatGLMTokenizer", "ChatGLMv2Tokenizer"})
# The last four are ChatGLM3's; in text none of them is looked for ("sop" is in "philosophy").
APPENDED = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
# The number where tokenizer_config.json says none; the weights without images say 0.
_IMAGE_TOKENS = 20000
_BLANKS = re.compile(" {2,80}")
_BLANK_TOKEN = re.compile(r"<\|blank_(\d+)\|>")


class ChatGLMTokenizer:
    """A Tokenizer. Lines, tabs and runs of 2 to 80 spaces have tokens of their own."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))
        settings = read_json(path.with_name("tokenizer_config.json"))
        self._first = settings.get("num_image_tokens", _IMAGE_TOKENS)
        if not isinstance(self._first, int) or self._first < 0:
            raise PreprocessError(
                f"{path.with_name('tokenizer_config.json')}: num_image_tokens must be 0 or more."
            )
        self.vocab_size = self._first + int(self._processor.get_piece_size())
        eos = eos_name(settings) or "<eop>"
        piece = int(self._processor.piece_to_id(eos))
        if piece == self._processor.unk_id():
            raise PreprocessError(f"{path} has no end-of-document token {eos!r}.")
        self.eos_id: int | None = self._first + piece

    def encode(self, text: str) -> list[int]:
        return self._encode_all([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        return Ragged.of(self._encode_all(texts))

    def decode(self, ids: Sequence[int]) -> str:
        text = self._processor.decode([i - self._first for i in ids if i >= self._first])
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        return _BLANK_TOKEN.sub(lambda match: " " * int(match[1]), text)

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        marked = [_mark_white_space(text) for text in texts]
        pieces = self._processor.encode(marked, out_type=int, num_threads=1)
        return [[self._first + piece for piece in row] for row in pieces]


def _mark_white_space(text: str) -> str:
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    # Longest first, as the published code replaces them.
    return _BLANKS.sub(lambda run: f"<|blank_{len(run[0])}|>", text)
