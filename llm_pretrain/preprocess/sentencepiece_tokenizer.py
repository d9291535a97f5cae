"""SentencePiece's files, and the tokens that the JSON files beside them add."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

from llm_pretrain.preprocess.added_tokens import pattern_of, read_added_tokens
from llm_pretrain.preprocess.tokenizer_settings import model_eos, named_eos
from llm_pretrain.preprocess.word_split import sentencepiece_split
from llm_pretrain.preprocess.words import Ragged, WordTable, encode_by_table


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

    @cached_property
    def _table(self) -> WordTable | None:
        split = sentencepiece_split(self._processor)
        return split and WordTable(split, self._encode_words)

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        apart = {number for number, text in enumerate(texts) if self._added.search(text)}
        others = ["" if number in apart else text for number, text in enumerate(texts)]
        rows = self._processor.encode(others, out_type=int, num_threads=1)
        for number in apart:
            rows[number] = self.encode(texts[number])
        return rows

    def _encode_words(self, words: list[str]) -> Ragged:
        # The processor puts the first "▁" before each word itself.
        texts = [word[1:] for word in words]
        return Ragged.of(self._processor.encode(texts, out_type=int, num_threads=1))

    def _piece(self, content: str) -> int | None:
        number = int(self._processor.piece_to_id(content))
        return number if self._processor.id_to_piece(number) == content else None
