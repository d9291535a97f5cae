"""How many bytes each token stands for, against the texts that the tokens are of."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llm_pretrain.data.preprocess import load_tokenizer
from llm_pretrain.data.preprocess.tokenizers.byte_level import train_bpe

TEXTS = ["the cat sat on the mat", " they'll count  123 cats\n", "ünïcode 日本語 🙂 \n two\t"]


def byte_level(folder: Path) -> None:
    train_bpe(TEXTS * 3, 300, folder)


def sentencepiece(folder: Path) -> None:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "ünïcode of the cats"] * 20),
        model_writer=written,
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())


def metaspace(folder: Path) -> None:
    """Pieces and bytes as LLaMA 2's tokenizer.json has them."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [*"▁thecasonm"]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("make", [byte_level, sentencepiece, metaspace])
@pytest.mark.parametrize("text", TEXTS)
def test_the_sum_is_the_texts_size(make, text: str, tmp_path: Path) -> None:
    make(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    sizes = tokenizer.token_bytes()
    assert sizes is not None
    assert len(sizes) == tokenizer.vocab_size
    assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


def test_the_end_of_a_document_is_no_text(tmp_path: Path) -> None:
    byte_level(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    sizes = tokenizer.token_bytes()
    assert sizes is not None
    assert tokenizer.eos_id is not None
    assert sizes[tokenizer.eos_id] == 0


def test_words_alone_tell_no_bytes(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"the": 0, "[UNK]": 1}, "[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert load_tokenizer(tmp_path).token_bytes() is None
