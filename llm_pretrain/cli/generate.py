"""`llm-pretrain generate`: a text that a model continues."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from llm_pretrain.checkpoint.find_model import find_model, load_model
from llm_pretrain.config.argument_types import path_argument
from llm_pretrain.data.preprocess.preprocess_arguments import (
    add_tokenizer,
    natural_number,
    number,
    positive_count,
    share,
)
from llm_pretrain.data.preprocess.tokenizers import load_tokenizer
from llm_pretrain.machine import device
from llm_pretrain.machine.terminal import Command, print_beside
from llm_pretrain.models.generate import generate


def main(arguments: Sequence[str]) -> int:
    """Print the texts; the exit status is 1 where there is no model, 2 for a wrong command."""
    command = Command("generate", "Continue texts with a model, a checkpoint or a run's newest.")
    add = command.add_argument
    folder = "a model, a checkpoint, or the output_dir of a run"
    add("directory", metavar="DIR", type=path_argument, help=folder)
    add("--prompt", required=True, nargs="+", type=_text, help="texts to continue, each by itself")
    add_tokenizer(command, help="directory of the tokenizer (default: the model's)")
    add("--max_new_tokens", type=positive_count, default=100, help="at most (default: 100)")
    temperature = "0 takes the most probable token, 1 draws as the model has it (default: 0.8)"
    add("--temperature", type=_temperature, default=0.8, help=temperature)
    add("--top_p", type=_top_p, default=0.95, help="share of probability to draw from (0.95)")
    add("--seed", type=natural_number, default=0, help="of what is drawn (default: 0)")
    add("--device", help="such as gpu:1 (default: the first accelerator, else the CPU)")
    command.set_defaults(tokenizer=None)

    def work(given: argparse.Namespace) -> None:
        directory = find_model(given.directory, print_beside)
        tokenizer = load_tokenizer(given.tokenizer or directory)
        prompts = [tokenizer.encode(prompt) for prompt in given.prompt]
        for text, prompt in zip(given.prompt, prompts, strict=True):
            if not prompt:
                raise ValueError(f"--prompt {text!r} holds no token.")
        device.choose(given.device, is_alone=True)
        if remark := device.remark(given.device):
            print_beside(remark)
        model = load_model(directory)
        over = max(map(max, prompts)) - model.config.vocab_size + 1
        if over > 0:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
                f"{model.config.vocab_size}: it is another model's."
            )
        ends = set(model.config.end_tokens)
        if tokenizer.eos_id is not None:
            ends.add(tokenizer.eos_id)
        for prompt in prompts:
            found = generate(
                model,
                prompt,
                given.max_new_tokens,
                temperature=given.temperature,
                top_p=given.top_p,
                seed=given.seed,
                stop_tokens=ends,
            )
            # The rows of a table are often rounded up beyond the tokenizer's ids.
            known = [token for token in found if token < tokenizer.vocab_size]
            print(tokenizer.decode([*prompt, *known]), flush=True)

    return command.run(arguments, work)


def _text(words: str) -> str:
    try:
        words.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise argparse.ArgumentTypeError(f"{words!a} is no text in {encoding}") from None
    return words


def _temperature(text: str) -> float:
    value = number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a finite number from 0 on")
    return value


def _top_p(text: str) -> float:
    value = share(text)
    if value == 0:
        raise argparse.ArgumentTypeError(
            "nothing is left to draw from; --temperature 0 takes the most probable token"
        )
    return value
