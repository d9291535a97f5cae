"""Runs the demo: `python -m llm_pretrain.cli.demo [--key value …]`, the keys as in a training."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from llm_pretrain.cli.demo.command import STOPPED, run_command
from llm_pretrain.cli.demo.data import CONFIG, FOLDER, make_data
from llm_pretrain.config import ConfigError, RunConfig, load_run_config, split_command_line
from llm_pretrain.machine import SIGNAL_STATUS
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import ljust, print_error, say
from llm_pretrain.monitor.console import Console, sparkline
from llm_pretrain.monitor.metrics_log import read_line, read_metrics
from llm_pretrain.training.folders import find_start

PROMPT = "Return the number of"
TOKENS_TO_GENERATE = 100


def main(overrides: Sequence[str]) -> int:
    """Make the data and train, as far as earlier calls have not; say what came out.

    Returns:
        The exit status; 128 + the number of the signal that ended it.
    """
    if not CONFIG.exists():
        print_error(f"{CONFIG} is not here; run the demo in the repository's root.")
        return 1
    try:
        config = load_run_config(*split_command_line([str(CONFIG), *overrides]))
        status = make_data() or train(config, overrides)
        if status == 0:
            show_results(Path(config.training.output_dir))
    except ConfigError as error:
        for problem in error.problems:
            print_error(problem)
        return 1
    except KeyboardInterrupt:
        status = SIGNAL_STATUS + signal.SIGINT
    if status in STOPPED:
        say("\nStopped. `make demo` goes on from here.")
    return status


def train(run: RunConfig, overrides: Sequence[str]) -> int:
    """Train to the end, from the last checkpoint where there is one; the exit status."""
    if is_done(run):
        say(
            f"The demo is done: {run.training.output_dir} is trained to step "
            f"{run.training.max_steps}.\n"
            "make demo ARGS=--overwrite_output_dir starts anew, and\n"
            f'make demo ARGS="--max_steps {2 * run.training.max_steps}" trains on.'
        )
        return 0
    console = Console(run.training.max_steps, live=not run.training.disable_tqdm)

    def show(line: str) -> None:
        """On a terminal the launcher's output, which is made for files, as a lone process's."""
        metrics = read_line(line)
        if metrics is None:
            console.message(line)
        elif "loss" in metrics:
            console.step(metrics)
        else:
            console.evaluation(metrics)

    try:
        return run_command(
            ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes())],
            ["--log_level", "WARNING", "--log_dir", str(FOLDER / "log")],
            ["run_pretrain.py", str(CONFIG), *overrides],
            show=show if sys.stdout.isatty() else None,
        )
    finally:
        console.close()


def is_done(run: RunConfig) -> bool:
    """Whether the last checkpoint is the end of the run, and the final model was saved after it."""
    directory = Path(run.training.output_dir)
    last = find_start(run)
    model = directory / "model.safetensors"
    checkpoint = directory / f"checkpoint-{last.step}"
    return (
        last.step == run.training.max_steps
        and checkpoint.exists()
        and model.exists()
        and model.stat().st_mtime >= checkpoint.stat().st_mtime
    )


def processes() -> int:
    """Two, except on a machine with a single GPU."""
    try:
        metadata.version("paddlepaddle-gpu")
    except metadata.PackageNotFoundError:
        return 2  # without the seconds that importing Paddle takes
    import paddle

    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    return 1 if gpus == 1 else 2


def show_results(directory: Path) -> None:
    """Losses, where the weights are, and a text by them."""
    from llm_pretrain.models.families import read_model_config

    history = read_metrics(directory)
    losses = [line["loss"] for line in history if line.get("loss") is not None]
    evaluations = [line["eval_loss"] for line in history if line.get("eval_loss") is not None]
    tokens = read_model_config(directory).vocab_size
    guess = math.log(tokens)
    rows = []
    if losses:
        curve = f"{losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}"
        rows.append(("training loss", curve))
    if evaluations:
        rows.append(("evaluation loss", f"{evaluations[-1]:.3f}"))
        half = f"{guess:.3f} = ln({tokens}), and half of it {guess / 2:.3f}"
        rows.append(("a blind guess", half))
    rows.append(("weights", f"{directory}, as Hugging Face's libraries load them"))
    for checkpoint in sorted(directory.glob("checkpoint-*")):
        rows.append(("a checkpoint", f"{checkpoint}, to resume from"))
    print()
    for name, what in rows:
        print(f"{ljust(translated(name), 17)}{translated(what)}")
    print(f"\n{continue_text(directory, PROMPT, TOKENS_TO_GENERATE)}\n")
    say(f"The curves: visualdl --logdir {directory}/runs")


def continue_text(directory: Path, prompt: str, count: int) -> str:
    """`prompt` and up to `count` tokens after it, by the model and the tokenizer in `directory`."""
    from llm_pretrain.checkpoint.find_model import load_model
    from llm_pretrain.data.preprocess import load_tokenizer
    from llm_pretrain.models.generate import generate

    tokenizer = load_tokenizer(directory)
    ends = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    tokens = tokenizer.encode(prompt)
    model = load_model(directory)
    tokens += generate(model, tokens, count, temperature=0.7, seed=1, stop_tokens=ends)
    return tokenizer.decode(tokens)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
