"""The house in figures: files, lines, the largest file, the files of a step, words that are gone.

`make structure` prints them; `tests/test_structure.py` holds those that may not grow.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llm_pretrain"

GONE = {
    r"FlatLayout": "FlatBuffer",
    r"\.spread\(": "all_gather",
    r"class Layout\(IntEnum": "WeightOrder",
    r"PASSED_OVER": "ignored",
    r"\b[Tt]rials?\b": "self-test",
    r"\b[Rr]ecipes?\b|recipe_of": "recomputed operand",
    r"decoder_pieces": "the chunks and layers of a Decoder",
    r"checkpoint\.layout": "the format of weights",
    r"layout: Topology|layout = (topology|initialize)": "topology",
    r"config: (ModelConfig|RunConfig)": "model: ModelConfig, run: RunConfig",
    r"chunks? of the vocabulary|vocabulary_chunk|in_chunks": "slices of the vocabulary",
    r"class Rows|\bPieces\b": "the queries, and the blocks of positions, of attention",
}
"""Words that the code no longer has, as patterns, and what it says instead."""


def modules() -> dict[Path, int]:
    """The package's Python files, from its root, with their lines."""
    return {
        path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def names_at_the_top() -> list[str]:
    """What whoever opens the package sees."""
    return sorted(path.name for path in PACKAGE.iterdir() if path.name != "__pycache__")


def gone_words() -> list[str]:
    """Each place of the package where a word stands that is gone."""
    return [
        f"{path.relative_to(ROOT)}, line {number}: say {instead}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for word, instead in GONE.items()
        if re.search(word, line)
    ]


def files_of_a_step() -> Counter[str]:
    """The package's files that one training step of one process runs through, with their calls.

    The step is the third of a small run, when everything that is made once has been made.
    """
    from llm_pretrain.config import load_run_config
    from llm_pretrain.parallel.comm import topology
    from llm_pretrain.training.run import model_config_of, train
    from llm_pretrain.training.trainer import Trainer
    from tests.small_runs import small_config, write_config, write_data, write_model

    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            calls[str(path.relative_to(PACKAGE))] += 1

    whole_step = Trainer.step

    def counted_step(trainer: Trainer, *arguments: Any) -> Any:
        is_third = trainer.progress.global_step == 2
        sys.setprofile(note if is_third else None)
        try:
            return whole_step(trainer, *arguments)
        finally:
            sys.setprofile(None)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = small_config(
            write_model(folder / "model"),
            write_data(folder / "data"),
            folder / "run",
            max_steps=3,
            device="cpu",
        )
        run = load_run_config(write_config(folder / "run.json", config))
        Trainer.step = counted_step  # type: ignore[method-assign]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                assert train(run, model_config_of(run), topology.current()) == 0
        finally:
            Trainer.step = whole_step  # type: ignore[method-assign]
    return calls


def main() -> None:
    sizes = modules()
    largest = max(sizes, key=lambda path: sizes[path])
    step = files_of_a_step()
    print(f"names in llm_pretrain/   {len(names_at_the_top())}")
    print(f"Python files             {len(sizes)}")
    print(f"lines                    {sum(sizes.values()):,}")
    print(f"largest file             {largest}, {sizes[largest]} lines")
    print(f"files under 50 lines     {sum(0 < lines < 50 for lines in sizes.values())}")
    print(f"files of a step          {len(step)}, {sum(step.values())} calls")
    print(f"words that are gone      {len(gone_words())} places")


if __name__ == "__main__":
    main()
