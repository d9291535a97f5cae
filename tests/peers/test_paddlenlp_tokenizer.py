"""Tokenizers against PaddleNLP's, and one that only PaddleNLP reads, through the extra."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data.find_data import open_data
from tests.peers.tokenizer_directories import (
    END,
    PLAIN,
    assert_same_tokens,
    run_peer_tokenizers,
    write_byte_level,
    write_sentencepiece,
    write_settings,
)

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.peer_paddlenlp

GLM = ["[CLS]", "[SEP]", "[MASK]", "<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]"]
BLANKS = [f"<|blank_{length}|>" for length in range(2, 81)]
# It looks for ChatGLM2's special tokens in text, even for the "sop" of "philosophy"; the code that
# is published with the model doesn't, nor does this program.
WITHOUT_SOP = [text for text in PLAIN if "sop" not in text]
TEXTS = {
    "llama": [*PLAIN, "a</s>b<tool>cat", "[PAD][PAD]"],
    "chatglm": [*PLAIN, "two   blanks" + " " * 83 + "\t\n."],
    "chatglm2": WITHOUT_SOP,
    "glm-chinese": [*PLAIN, f"the{END}cat[gMASK]", "<|startofpiece|>a"],
    "glm-gpt2": [*PLAIN, f"the{END}cat[gMASK]", "<|startofpiece|>a"],
    "gpt": [*PLAIN, f"a{END}b"],
    "qwen2": [*PLAIN, f"a{END}b"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, paddlenlp_python: Path) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    size = write_sentencepiece(root / "llama/sentencepiece.bpe.model")
    write_settings(
        root / "llama",
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"},
        added_tokens={"[PAD]": size, "<tool>": size + 1},
        special_tokens_map={"pad_token": "[PAD]"},
    )
    symbols = ["[MASK]", "[gMASK]", "<sop>", "<eop>", "<n>", "<|tab|>", "<pad>", *BLANKS]
    write_sentencepiece(root / "chatglm/ice_text.model", symbols, model_type="unigram")
    settings = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 7}
    write_settings(root / "chatglm", tokenizer_config=settings)

    write_sentencepiece(root / "chatglm2/tokenizer.model")
    settings = {"tokenizer_class": "ChatGLMv2Tokenizer"}
    write_settings(root / "chatglm2", tokenizer_config=settings)

    size = write_sentencepiece(root / "glm-chinese/cog-pretrain.model")
    tokens = [END, *GLM, "[UNUSED1]", "[UNUSED2]"]
    write_settings(
        root / "glm-chinese",
        tokenizer_config={"tokenizer_class": "GLMChineseTokenizer", "eos_token": END},
        added_tokens={token: size + number for number, token in enumerate(tokens)},
    )
    size = write_byte_level(root / "glm-gpt2", [END])
    write_settings(
        root / "glm-gpt2",
        tokenizer_config={"tokenizer_class": "GLMGPT2Tokenizer"},
        added_tokens={token: size + number for number, token in enumerate(GLM)},
    )
    for name, class_name in (("gpt", "GPTTokenizer"), ("qwen2", "Qwen2Tokenizer")):
        write_byte_level(root / name, [END])
        write_settings(root / name, tokenizer_config={"tokenizer_class": class_name})
    run_peer_tokenizers(paddlenlp_python, "paddlenlp.transformers", root, TEXTS)
    return root


@pytest.mark.parametrize("name", TEXTS)
def test_same_tokens(directory: Path, name: str) -> None:
    assert_same_tokens(directory / name)


def test_text_is_tokenized_through_paddlenlp(tmp_path: Path, paddlenlp_python: Path) -> None:
    """GLM's BERT, of which even PaddleNLP's AutoTokenizer knows nothing."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "日", "本"]
    (folder / "vocab.txt").write_text("\n".join(words))
    write_settings(
        folder, tokenizer_config={"tokenizer_class": "GLMBertTokenizer", "eos_token": "[PAD]"}
    )
    texts = ["The cats", "日本 dog"]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    arguments = {
        "--model_name_or_path": folder,
        "--input_path": tmp_path / "text.jsonl",
        "--output_prefix": tmp_path / "out",
        "--workers": 1,
    }
    program = (
        "import sys; from llm_pretrain.data.preprocess import main; sys.exit(main(sys.argv[1:]))"
    )
    given = [str(word) for pair in arguments.items() for word in pair]
    done = subprocess.run(
        [str(paddlenlp_python), "-c", program, *given, "--append_eos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    data = open_data(tmp_path / "out")
    ids = [[5, 6, 8, 0], [9, 10, 1, 0]]
    assert [data.read(i, 0, None)[0].tolist() for i in range(2)] == ids
    assert data.tokens.dtype == np.uint16
