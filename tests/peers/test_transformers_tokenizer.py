"""Tokenizers of `vocab.json` and `merges.txt`, and ours, against those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.cli import main
from tests.peers.tokenizer_directories import (
    END,
    LINES,
    PLAIN,
    assert_same_tokens,
    run_peer_tokenizers,
    write_byte_level,
    write_settings,
)

pytestmark = pytest.mark.peer_transformers

TEXTS = {
    "gpt2": [*PLAIN, f"a{END}b {END} c"],
    "opt": [*PLAIN, "a</s>b<pad> c"],
    "qwen2": [*PLAIN, f"a{END}b", "x<|im_start|>y <tool> z", "cat<tool>s"],
    "trained": [*PLAIN, "a</s>b<s> 1234567"],
    "qwen2-by-id": [*PLAIN, "a <l> b", "a <r> b", "a dog b, dogs", "<r><l>"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, transformers_python: Path) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    gpt2, qwen2 = {"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "Qwen2Tokenizer"}
    write_byte_level(root / "gpt2", [END])
    write_settings(root / "gpt2", tokenizer_config=gpt2)

    write_byte_level(root / "opt", ["<s>", "<pad>", "</s>", "<unk>"])
    names = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "</s>") | {"pad_token": "<pad>"}
    write_settings(root / "opt", tokenizer_config=gpt2 | names | {"add_bos_token": True})

    size = write_byte_level(root / "qwen2", [])
    write_settings(
        root / "qwen2",
        tokenizer_config=qwen2 | {"eos_token": END, "pad_token": END},
        added_tokens={END: size, "<|im_start|>": size + 1, "<tool>": size + 2},
        special_tokens_map={"additional_special_tokens": ["<|im_start|>"]},
    )

    size = write_byte_level(root / "qwen2-by-id", [])
    tokens = [
        {"content": END, "special": True},
        {"content": "<l>", "lstrip": True, "special": True},
        {"content": "<r>", "rstrip": True, "normalized": True},
        {"content": "dog", "single_word": True},
    ]
    off = dict.fromkeys(["lstrip", "rstrip", "single_word", "normalized", "special"], False)
    decoder = {size + number: off | token for number, token in enumerate(tokens)}
    settings = qwen2 | {"eos_token": END, "added_tokens_decoder": decoder}
    write_settings(root / "qwen2-by-id", tokenizer_config=settings)

    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n\n".join(LINES), encoding="utf-8")
    words = ["--input_path", str(text), "--output_dir", str(root / "trained")]
    assert main(["tokenizer", *words, "--vocab_size", "300"]) == 0

    run_peer_tokenizers(transformers_python, "transformers", root, TEXTS)
    return root


@pytest.mark.parametrize("name", TEXTS)
def test_same_tokens(directory: Path, name: str) -> None:
    assert_same_tokens(directory / name)
