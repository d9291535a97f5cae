"""SentencePiece with the JSON files that published directories have beside it, and ChatGLM-6B."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from llm_pretrain.data.preprocess import PreprocessError, Tokenizer, find_tokenizer, load_tokenizer

CORPUS = (
    "the cat sat on the mat, they'll sing: дом и домик 日本語の日本 مرحبا नमस्ते 🙂🙂  \n\n 2024 " * 3
)
LIKE_LLAMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


@pytest.fixture(scope="module")
def model() -> bytes:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "philosophy of the dog"] * 20),
        model_writer=written,
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
        **LIKE_LLAMA,
    )
    return written.getvalue()


@pytest.fixture(scope="module")
def pieces(model: bytes) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=model)


def load(folder: Path, model: bytes, **settings: object) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(model)
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return load_tokenizer(folder)


def batch(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch(texts)
    return [ids.tolist() for ids in np.split(encoded.tokens, np.cumsum(encoded.sizes))[:-1]]


@pytest.mark.parametrize("by_id", [True, False], ids=["added_tokens_decoder", "added_tokens.json"])
def test_added_tokens(
    tmp_path: Path, model: bytes, pieces: SentencePieceProcessor, by_id: bool
) -> None:
    size = pieces.get_piece_size()
    ids = {"<tool>": size, "<tool>!": size + 1, "[PAD]": size + 5}
    decoder = {number: {"content": content} for content, number in ids.items()}
    tokenizer = load(
        tmp_path,
        model,
        **({"tokenizer_config": {"added_tokens_decoder": decoder}} if by_id else {}),
        **({} if by_id else {"added_tokens": ids}),
    )
    assert tokenizer.vocab_size == size + 6
    cat, sat = pieces.encode("the cat "), pieces.encode("sat")
    texts = ["the cat <tool>sat", "<tool>!", "[PAD][PAD]sat", "the cat ", ""]
    expected = [[*cat, size, *sat], [size + 1], [size + 5, size + 5, *sat], cat, []]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert batch(tokenizer, texts) == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts


def test_white_space_goes_along_where_the_settings_say_so(
    tmp_path: Path, model: bytes, pieces: SentencePieceProcessor
) -> None:
    size = pieces.get_piece_size()
    tokens = [
        {"content": "<l>", "lstrip": True},
        {"content": "<r>", "rstrip": True},
        {"content": "cat", "single_word": True},
    ]
    decoder = {size + number: token for number, token in enumerate(tokens)}
    tokenizer = load(tmp_path, model, tokenizer_config={"added_tokens_decoder": decoder})
    the, dog = pieces.encode("the"), pieces.encode(" dog")
    assert tokenizer.encode("the \n<l> dog") == [*the, size, *dog]
    assert tokenizer.encode("the<r>\n the") == [*the, size + 1, *the]
    assert tokenizer.encode("cat dog") == [size + 2, *dog]
    assert tokenizer.encode("cats") == pieces.encode("cats")


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("token", ["<eod>", {"content": "<eod>", "lstrip": False}])
def test_eos_is_the_token_that_is_named(
    tmp_path: Path, model: bytes, pieces: SentencePieceProcessor, name: str, token: object
) -> None:
    size = pieces.get_piece_size()
    tokenizer = load(tmp_path, model, added_tokens={"<eod>": size}, **{name: {"eos_token": token}})
    assert tokenizer.eos_id == size


def test_eos_of_the_model_itself(
    tmp_path: Path, model: bytes, pieces: SentencePieceProcessor
) -> None:
    # LLaMA's first files for Hugging Face had empty names.
    tokenizer = load(tmp_path, model, tokenizer_config={"eos_token": "", "bos_token": "<s>"})
    assert tokenizer.eos_id == pieces.eos_id() == 2
    tokenizer = load(tmp_path, model, special_tokens_map={"eos_token": "<s>"})
    assert tokenizer.eos_id == 1
    assert tokenizer.encode("the<s>") == [*pieces.encode("the"), 1]
    assert tokenizer.vocab_size == pieces.get_piece_size()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"special_tokens_map": {"eos_token": "<eod>"}},
            r"special_tokens_map\.json names .* '<eod>', which tokenizer\.model doesn't have",
        ),
        (
            {
                "added_tokens": {"<a>": 400},
                "tokenizer_config": {"added_tokens_decoder": {"401": {"content": "<a>"}}},
            },
            r"tokenizer_config\.json gives '<a>' the id 401, and another file .* gives 400",
        ),
        ({"added_tokens": {"<a>": 400, "<b>": 400}}, "'<a>' and '<b>' have the same id, 400"),
        ({"added_tokens": {"<a>": "400"}}, r"added_tokens\.json .* id of '<a>' must be 0 or more"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "<a>"}}}}, "0 or more"),
        ({"tokenizer_config": {"added_tokens_decoder": {"400": {}}}}, "has no content"),
    ],
)
def test_settings_that_contradict_or_are_damaged(
    tmp_path: Path, model: bytes, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(PreprocessError, match=message):
        load(tmp_path, model, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_config": {"tokenizer_class": "ChatGLMTokenizer", "eos_token": "</s>"}},
        {"tokenizer_config": {"tokenizer_class": "ChatGLMv2Tokenizer"}},
        {"config": {"model_type": "chatglm"}},
    ],
    ids=["published", "PaddleNLP", "only the model"],
)
def test_chatglm2_and_3(
    tmp_path: Path,
    model: bytes,
    pieces: SentencePieceProcessor,
    settings: dict[str, object],
) -> None:
    size = pieces.get_piece_size()
    tokenizer = load(tmp_path, model, **settings)
    assert tokenizer.eos_id == 2
    assert tokenizer.vocab_size == size + 9
    special = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    special += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert [tokenizer.decode([size + number]) for number in range(9)] == special
    text = "philosophy [gMASK]"
    assert tokenizer.encode(text) == batch(tokenizer, [text])[0] == pieces.encode(text)


def test_chatglm3_whose_settings_list_its_tokens(
    tmp_path: Path, model: bytes, pieces: SentencePieceProcessor
) -> None:
    size = pieces.get_piece_size()
    decoder = {size + 1: {"content": "[gMASK]"}, size + 3: {"content": "sop"}}
    settings = {"tokenizer_class": "ChatGLMTokenizer", "added_tokens_decoder": decoder}
    tokenizer = load(tmp_path, model, tokenizer_config=settings)
    assert tokenizer.vocab_size == size + 9
    assert tokenizer.encode("philosophy") == pieces.encode("philosophy")


@pytest.mark.parametrize("class_name", ["GPTChineseTokenizer", "Llama3Tokenizer"])
def test_models_that_are_more_than_sentencepiece_are_left_to_paddlenlp(
    tmp_path: Path, model: bytes, class_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paddlenlp", None)
    with pytest.raises(PreprocessError, match=f"{class_name}, which only PaddleNLP reads"):
        load(tmp_path, model, tokenizer_config={"tokenizer_class": class_name})
    assert find_tokenizer(tmp_path) is None


@pytest.fixture(scope="module")
def ice_text() -> bytes:
    model = io.BytesIO()
    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 5),
        model_writer=model,
        vocab_size=260,
        hard_vocab_limit=False,
        user_defined_symbols=["[gMASK]", "<sop>", "<eop>", "<n>", "<|tab|>", *blanks],
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize("image_tokens", [None, 0, 7])
def test_chatglm(tmp_path: Path, ice_text: bytes, image_tokens: int | None) -> None:
    (tmp_path / "ice_text.model").write_bytes(ice_text)
    if image_tokens is not None:
        settings = {"num_image_tokens": image_tokens, "eos_token": "<eop>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    first = 20000 if image_tokens is None else image_tokens
    tokenizer = load_tokenizer(tmp_path)
    pieces = SentencePieceProcessor(model_proto=ice_text)
    assert tokenizer.vocab_size == first + pieces.get_piece_size()
    assert tokenizer.eos_id == first + pieces.piece_to_id("<eop>")
    text = "the cat\n\tsat" + " " * 83 + "on" + " " * 3 + "日本"
    marked = "the cat<n><|tab|>sat<|blank_80|><|blank_3|>on<|blank_3|>日本"
    expected = [first + piece for piece in pieces.encode(marked)]
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_batch([text, text]).tokens.tolist() == expected * 2
    assert tokenizer.decode(expected) == text


def test_chatglm_without_its_end_token_is_an_error(tmp_path: Path, ice_text: bytes) -> None:
    (tmp_path / "ice_text.model").write_bytes(ice_text)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eod>"}')
    with pytest.raises(PreprocessError, match=r"no end-of-document token '<eod>'"):
        load_tokenizer(tmp_path)
