"""A tokenizer that only PaddleNLP reads, through the extra, by the command in its environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer

from llm_pretrain.data.find_data import open_data

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.peer_paddlenlp


def test_text_is_tokenized_through_paddlenlp(tmp_path: Path, paddlenlp_python: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    saved = ByteLevelBPETokenizer()
    texts = ["the cat sat on the mat", "日本 ünïcode 🙂"]
    special = ["<|endoftext|>"]
    saved.train_from_iterator(texts, vocab_size=280, min_frequency=1, special_tokens=special)
    saved.save_model(str(folder))
    names = dict.fromkeys(["bos_token", "eos_token", "unk_token", "pad_token"], special[0])
    settings = {"tokenizer_class": "GPTTokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    arguments = {
        "--model_name_or_path": folder,
        "--input_path": tmp_path / "text.jsonl",
        "--output_prefix": tmp_path / "out",
        "--workers": 1,
    }
    program = "import sys; from llm_pretrain.preprocess import main; sys.exit(main(sys.argv[1:]))"
    words = [str(word) for pair in arguments.items() for word in pair]
    done = subprocess.run(
        [str(paddlenlp_python), "-c", program, *words, "--append_eos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    data = open_data(tmp_path / "out")
    expected = [[*saved.encode(text).ids, saved.token_to_id(special[0])] for text in texts]
    assert [data.read(i, 0, None)[0].tolist() for i in range(2)] == expected
    assert data.tokens.dtype == np.uint16
