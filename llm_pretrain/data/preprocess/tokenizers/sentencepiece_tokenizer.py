"""SentencePiece's files, the tokens that the JSON files beside them add, and ChatGLM's ways.

ChatGLM-6B has SentencePiece's `ice_text.model` behind the ids of image tokens, ChatGLM2 and 3 its
`tokenizer.model` before the ids of `CHATGLM_APPENDED`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers.settings import (
    eos_name,
    model_eos,
    named_eos,
    pattern_of,
    read_added_tokens,
    read_json,
)
from llm_pretrain.data.preprocess.word_split import bytes_of_piece, sentencepiece_split
from llm_pretrain.data.preprocess.words import Ragged, WordTable, encode_by_table

CHATGLM_FILE = "ice_text.model"
CHATGLM_CLASSES = frozenset({"ChatGLMTokenizer", "ChatGLMv2Tokenizer"})
# The last four are ChatGLM3's; in text none of them is looked for ("sop" is in "philosophy").
CHATGLM_APPENDED = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
# The number where tokenizer_config.json says none; the weights without images say 0.
_IMAGE_TOKENS = 20000
_BLANKS = re.compile(" {2,80}")
_BLANK_TOKEN = re.compile(r"<\|blank_(\d+)\|>")


class SentencePieceTokenizer:
    """A Tokenizer. Text between added tokens is encoded by itself, as PaddleNLP does.

    `appended`: tokens whose ids follow the pieces' and which no text gives.
    """

    def __init__(self, path: Path, appended: Sequence[str] = ()) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))
        pieces = int(self._processor.get_piece_size())
        hidden = {content: pieces + number for number, content in enumerate(appended)}
        added = {
            content: token
            for content, token in read_added_tokens(path.parent).items()
            if content not in hidden
        }
        ids = {
            content: self._piece(content) if token.id is None else token.id
            for content, token in added.items()
        }
        self._ids = {content: number for content, number in ids.items() if number is not None}
        self._added = pattern_of(added[content] for content in self._ids)
        self._contents = {number: content for content, number in (hidden | self._ids).items()}
        self.vocab_size = max([pieces, *(number + 1 for number in self._contents)])
        eos = named_eos(path, lambda name: (hidden | self._ids).get(name))
        if eos is None:
            eos = int(self._processor.eos_id())
        self.eos_id = eos if eos >= 0 else model_eos(path.parent, self.vocab_size)

    def encode(self, text: str) -> list[int]:
        ids = []
        begin = 0
        for match in self._added.finditer(text):
            ids += self._processor.encode(text[begin : match.start()], out_type=int)
            found = match[0]
            ids.append(self._ids[found if found in self._ids else found.strip()])
            begin = match.end()
        return [*ids, *self._processor.encode(text[begin:], out_type=int)]

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        # An added token is found before a text is cut into words, which the table can't do.
        return encode_by_table(texts, self._table, self._encode_texts, self._added)

    def decode(self, ids: Sequence[int]) -> str:
        runs = groupby(ids, self._contents.get)
        return "".join(
            self._processor.decode(list(run)) if content is None else content * len(list(run))
            for content, run in runs
        )

    def token_bytes(self) -> np.ndarray | None:
        sizes = np.zeros(self.vocab_size, np.int64)
        for number in range(int(self._processor.get_piece_size())):
            if not (self._processor.is_control(number) or self._processor.is_unknown(number)):
                sizes[number] = bytes_of_piece(self._processor.id_to_piece(number))
        for content, number in self._ids.items():
            sizes[number] = 0 if number == self.eos_id else len(content.encode())
        return sizes

    @cached_property
    def _table(self) -> WordTable | None:
        split = sentencepiece_split(self._processor)
        return split and WordTable(split, self._encode_words)

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        apart = {number for number, text in enumerate(texts) if self._added.search(text)}
        others = ["" if number in apart else text for number, text in enumerate(texts)]
        ids = self._processor.encode(others, out_type=int, num_threads=1)
        for number in apart:
            ids[number] = self.encode(texts[number])
        return ids

    def _encode_words(self, words: list[str]) -> Ragged:
        # The processor puts the first "▁" before each word itself.
        texts = [word[1:] for word in words]
        return Ragged.of(self._processor.encode(texts, out_type=int, num_threads=1))

    def _piece(self, content: str) -> int | None:
        number = int(self._processor.piece_to_id(content))
        return number if self._processor.id_to_piece(number) == content else None


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

    def token_bytes(self) -> np.ndarray | None:
        return None

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        marked = [_mark_white_space(text) for text in texts]
        pieces = self._processor.encode(marked, out_type=int, num_threads=1)
        return [[self._first + piece for piece in one] for one in pieces]


def _mark_white_space(text: str) -> str:
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    # Longest first, as the published code replaces them.
    return _BLANKS.sub(lambda run: f"<|blank_{len(run[0])}|>", text)
