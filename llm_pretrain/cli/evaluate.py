"""`llm-pretrain evaluate`: how well a model predicts texts, or chooses among answers."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from llm_pretrain.checkpoint.find_model import find_model, load_model
from llm_pretrain.config.argument_types import path_argument, path_word
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.indexed_dataset import index_path
from llm_pretrain.data.preprocess.encode import clean_documents
from llm_pretrain.data.preprocess.inputs import FormatOptions, find_sources
from llm_pretrain.data.preprocess.preprocess_arguments import add_tokenizer, positive_count
from llm_pretrain.data.preprocess.tokenizers import Tokenizer, load_tokenizer
from llm_pretrain.machine import device
from llm_pretrain.machine.terminal import Command, print_beside, say
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.likelihood import Predicted, longest_window, losses


def main(arguments: Sequence[str]) -> int:
    """Print the figures; the exit status is 1 where something is missing, 2 for a wrong command."""
    command = Command(
        "evaluate",
        "Loss, perplexity and bits per byte of a model on texts or token data, or the share of "
        "questions that it answers by the most probable choice.",
    )
    add = command.add_argument
    folder = "a model, a checkpoint, or the output_dir of a run"
    add("directory", metavar="DIR", type=path_argument, help=folder)
    what = command.add_mutually_exclusive_group(required=True)
    texts = "texts as preprocess reads them, or prefixes of .bin and .idx"
    what.add_argument("--input", nargs="+", type=path_word, help=texts)
    questions = 'a JSON object a line: `{"prompt": …, "choices": [ … ], "answer": 0}`'
    what.add_argument("--choices", metavar="FILE", type=path_argument, help=questions)
    add_tokenizer(command, help="directory of the tokenizer (default: the model's)")
    add("--json_key", default="text", help="key or column of the text (default: text)")
    add("--separator", default="", help="line between documents of a .txt file (default: blank)")
    window = "tokens that are seen at a time (default: what the model was trained on)"
    add("--max_seq_length", type=positive_count, help=window)
    add("--batch_size", type=positive_count, default=1, help="windows at a time (default: 1)")
    add("--max_doc_num", type=positive_count, help="stop after so many documents or questions")
    add("--device", help="such as gpu:1 (default: the first accelerator, else the CPU)")
    command.set_defaults(tokenizer=None)

    def work(given: argparse.Namespace) -> None:
        directory = find_model(given.directory, print_beside)
        tokenizer = load_tokenizer(given.tokenizer or directory)
        device.choose(given.device, is_alone=True)
        if remark := device.remark(given.device):
            print_beside(remark)
        model = load_model(directory)
        if model.config.blank_infilling is not None:
            raise ValueError(f"{directory}: the model fills blanks and gives texts no probability.")
        if given.choices is not None:
            say(_of_choices(given, model, tokenizer))
        else:
            say(_of_texts(given, model, tokenizer))

    return command.run(arguments, work)


@dataclass
class _Counts:
    documents: int = 0
    tokens: int = 0
    """That are predicted."""
    bytes: int = 0


def _of_texts(given: argparse.Namespace, model: Decoder, tokenizer: Tokenizer) -> str:
    """The loss is the mean over tokens; bits per byte, of all documents' bits over their bytes."""
    counts = _Counts()
    options = FormatOptions(given.json_key, given.separator)
    documents = islice(_documents(given.input, options, tokenizer), given.max_doc_num)
    predicted = _counted(documents, _first_tokens(model, tokenizer), counts)
    nats = sum(_losses(given, model, predicted))
    if not counts.tokens:
        raise ValueError(f"--input {' '.join(given.input)} holds no text.")
    loss = nats / counts.tokens
    return (
        f"{counts.documents:,} documents, {counts.tokens:,} tokens, {counts.bytes:,} bytes\n"
        f"loss {loss:.4f}  perplexity {math.exp(min(loss, 700)):.4f}  "
        f"bits per byte {nats / math.log(2) / counts.bytes:.4f}"
    )


def _losses(
    given: argparse.Namespace, model: Decoder, predicted: Iterable[Predicted]
) -> Iterator[float]:
    window = given.max_seq_length or longest_window(model.config)
    return losses(model, predicted, window=window, batch_size=given.batch_size)


def _first_tokens(model: Decoder, tokenizer: Tokenizer) -> list[int]:
    """What a document's first token is predicted from: as in training, the end of another."""
    for token in (tokenizer.eos_id, *model.config.end_tokens, model.config.bos_token_id):
        if token is not None:
            return [token]
    raise ValueError(
        "neither the tokenizer nor the model names an end-of-document token (eos_token), from "
        "which the first token of a text is predicted."
    )


def _counted(
    documents: Iterable[tuple[list[int], int]], before: list[int], counts: _Counts
) -> Iterator[Predicted]:
    for tokens, size in documents:
        counts.documents += 1
        counts.tokens += len(tokens)
        counts.bytes += size
        yield Predicted([*before, *tokens])


def _documents(
    inputs: Sequence[str], options: FormatOptions, tokenizer: Tokenizer
) -> Iterator[tuple[list[int], int]]:
    """Tokens of each document, at least one, and the bytes of its text in UTF-8."""
    for name in inputs:
        if index_path(Path(name)).is_file():
            yield from _of_token_data(Path(name), tokenizer)
            continue
        _refuse_other_names(Path(name))
        for text, _, _ in clean_documents(find_sources([name])[0], options):
            tokens = tokenizer.encode(text)
            if tokens:
                yield tokens, len(text.encode())


def _refuse_other_names(path: Path) -> None:
    """Raises ValueError where token data is named, but not by its prefix."""
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()]
    prefixes = [file.with_suffix("") for file in files if file.suffix in (".bin", ".idx")]
    if files and len(prefixes) == len(files) and index_path(prefixes[0]).is_file():
        raise ValueError(
            f"--input {path} is token data, which is named by its prefix: {prefixes[0]}"
        )


def _of_token_data(prefix: Path, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """The end-of-document tokens are predicted, and no bytes are theirs."""
    data = open_data(prefix)
    for first, last in zip(data.document_starts[:-1], data.document_starts[1:], strict=True):
        parts = [data.read(number, 0, None)[0] for number in range(int(first), int(last))]
        tokens = np.concatenate(parts).tolist() if parts else []
        if not tokens:
            continue
        if not 0 <= min(tokens) <= max(tokens) < tokenizer.vocab_size:
            raise ValueError(f"{prefix}: the data was made with another tokenizer.")
        text = tokenizer.decode([token for token in tokens if token != tokenizer.eos_id])
        yield tokens, len(text.encode())


@dataclass(frozen=True)
class _Question:
    prompt: str
    choices: list[str]
    answer: int


def _of_choices(given: argparse.Namespace, model: Decoder, tokenizer: Tokenizer) -> str:
    questions = list(islice(_questions(given.choices), given.max_doc_num))
    if not questions:
        raise ValueError(f"{given.choices} holds no question.")
    before = _first_tokens(model, tokenizer)
    found = _losses(
        given,
        model,
        (
            _answered(tokenizer, before, question.prompt, choice)
            for question in questions
            for choice in question.choices
        ),
    )
    right = right_per_byte = 0
    for question in questions:
        nats = list(islice(found, len(question.choices)))
        per_byte = [
            loss / len(choice.encode()) for loss, choice in zip(nats, question.choices, strict=True)
        ]
        right += nats.index(min(nats)) == question.answer
        right_per_byte += per_byte.index(min(per_byte)) == question.answer
    guess = sum(1 / len(question.choices) for question in questions) / len(questions)
    return (
        f"{len(questions):,} questions: accuracy {right / len(questions):.4f}  "
        f"per byte of the choice {right_per_byte / len(questions):.4f}  by chance {guess:.4f}"
    )


def _answered(tokenizer: Tokenizer, before: list[int], prompt: str, choice: str) -> Predicted:
    """The choice behind the prompt. Spaces at the prompt's end belong to the choice, since the
    tokens of most vocabularies begin with theirs (as in lm-evaluation-harness)."""
    context = tokenizer.encode(prompt.rstrip())
    whole = tokenizer.encode(prompt + choice)
    begin = min(len(context), len(whole) - 1)
    return Predicted([*before, *whole], len(before) + begin)


def _questions(path: Path) -> Iterator[_Question]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _question(line, f"{path}:{number}")


def _question(line: bytes, where: str) -> _Question:
    """Raises ValueError that says what is wrong with it."""
    try:
        read = json.loads(line)
        json.dumps(read, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(read, dict) or not isinstance(read.get("prompt"), str):
        raise ValueError(f'{where}: expected is an object with the text "prompt".')
    choices, answer = read.get("choices"), read.get("answer")
    given = choices if isinstance(choices, list) else []
    texts = [text for text in given if isinstance(text, str) and text]
    if len(texts) < max(len(given), 2):
        raise ValueError(f'{where}: "choices" must be a list of two texts or more, none empty.')
    if type(answer) is not int or not 0 <= answer < len(texts):
        raise ValueError(
            f'{where}: "answer" must be the number of a choice, 0 to {len(texts) - 1}.'
        )
    return _Question(read["prompt"], texts, answer)
