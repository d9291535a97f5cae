"""What is done to a text before it is tokenized, and which texts are left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from llm_pretrain.preprocess.errors import PreprocessError

HASH_BYTES = 16
TOO_SHORT = "shorter than --min_doc_length"
NOT_SAMPLED = "not sampled"


@dataclass(frozen=True)
class CleaningOptions:
    max_repeated_len: int = 100
    """Runs of one character longer than this become a single one; 0 leaves them."""
    min_doc_length: int = 0
    """Documents of fewer characters are left out."""
    sample_share: float = 1.0
    """Share of the documents to keep. Which ones, their hashes decide: the same in every run."""
    segment_words: bool = False
    """Whether the words of Chinese text are found and separated."""
    word_separator: str = " "


class Cleaner:
    """Cleans texts one by one. Raises PreprocessError where jieba is needed and missing."""

    def __init__(self, options: CleaningOptions) -> None:
        self._options = options
        limit = options.max_repeated_len
        self._repeated = re.compile(rf"(.)\1{{{limit},}}") if limit else None
        # Such a run has equal characters at every so many places, which is found much faster.
        self._stride = max(1, limit // 8)
        self._hint = re.compile(rf"(.)\1{{{max(1, (limit + 1) // self._stride) - 1}}}")
        self._segment = _segmenter(options.word_separator) if options.segment_words else None

    def clean(self, text: str) -> tuple[str, bytes] | str:
        """The text to tokenize and the document's hash, or the reason why it is left out."""
        text = text.strip()
        if self._repeated is not None and self._hint.search(text[:: self._stride]):
            text = self._repeated.sub(r"\1", text)
        if len(text) < self._options.min_doc_length:
            return TOO_SHORT
        digest = blake2b(text.encode(), digest_size=HASH_BYTES).digest()
        if int.from_bytes(digest[:8], "little") >= self._options.sample_share * 2**64:
            return NOT_SAMPLED
        return text if self._segment is None else self._segment(text), digest


def _segmenter(separator: str) -> Callable[[str], str]:
    try:
        import jieba
    except ImportError as error:
        raise PreprocessError(
            "--cn_whole_word_segment needs the package jieba: "
            "pip install 'llm_pretrain[preprocess]'."
        ) from error
    jieba.setLogLevel("WARNING")

    def segment(text: str) -> str:
        return "\n".join(
            separator.join(word for word in jieba.cut(line) if not word.isspace())
            for line in text.splitlines()
        )

    return segment
