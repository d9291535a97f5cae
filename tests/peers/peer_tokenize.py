"""Runs in the environment of transformers or of PaddleNLP: their tokenizers on given texts.

Usage: peer_tokenize.py MODULE DIRECTORY

MODULE is `transformers` or `paddlenlp.transformers`. Every folder of DIRECTORY holds a tokenizer
and `texts.json`. Written to its `theirs.json`: the ids of each text (no special tokens are added),
the size with added tokens, and the id of the end-of-document token.
"""

import json
import sys
from importlib import import_module
from pathlib import Path


def run(module: str, directory: Path) -> None:
    program = import_module(module)
    for folder in directory.iterdir():
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        # PaddleNLP's AutoTokenizer doesn't know all of its classes.
        name = "AutoTokenizer" if module == "transformers" else settings["tokenizer_class"]
        tokenizer = getattr(program, name).from_pretrained(str(folder))
        texts = json.loads((folder / "texts.json").read_text())
        theirs = {
            "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
            "size": len(tokenizer),
            "eos": tokenizer.eos_token_id,
        }
        (folder / "theirs.json").write_text(json.dumps(theirs))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
