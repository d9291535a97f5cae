"""What a trained model writes, as a first look at what it has learned."""

from __future__ import annotations

from pathlib import Path


def continue_text(directory: Path, prompt: str, count: int) -> str:
    """`prompt` and up to `count` tokens after it, by the model and the tokenizer in `directory`."""
    from tokenizers import Tokenizer

    from llm_pretrain.checkpoint.load import load_weights
    from llm_pretrain.models.decoder import Decoder
    from llm_pretrain.models.families import read_model_config
    from llm_pretrain.models.generate import generate

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    config = read_model_config(directory)
    model = Decoder(config)
    load_weights(model, config, directory)
    tokens = list(tokenizer.encode(prompt).ids)
    tokens += generate(
        model, tokens, count, temperature=0.7, seed=1, stop_token=tokenizer.token_to_id("</s>")
    )
    return str(tokenizer.decode(tokens))
