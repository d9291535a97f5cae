"""The command `llm-pretrain`: one word for what to do, and that word's own arguments."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from llm_pretrain import __version__
from llm_pretrain.machine import SIGNAL_STATUS, launchers

try:
    from llm_pretrain.machine.files import describe, is_fault, naming
    from llm_pretrain.machine.language import translated
    from llm_pretrain.machine.terminal import fit, print_beside, print_error, say, width
except KeyboardInterrupt:  # as in the package's own import
    raise SystemExit(130) from None

_Work = Callable[[Sequence[str]], int]
"""What does a command with its arguments; the exit status."""

USAGE = """\
usage: llm-pretrain COMMAND …

  train [CONFIG] [--key value …]
      pretrain a model; CONFIG is a JSON or YAML file
  launch [--nproc N] [CONFIG] [--key value …]
      the same on several processes, which are replaced where they die
  check [CONFIG] [--world_size N] [--key value …]
      say what a run would do, and what is wrong with it
  check --schema
      print the JSON schema of configurations
  plan [CONFIG] --gpus N [--gpu NAME] [--key value …]
      the fastest layouts on N devices, their memory and cost, before one is held
  report RUN [RUN …] [-o run.html]
      a run, or several side by side, as one page
  runs [DIR]
      a table of the runs below a folder
  generate DIR --prompt …
      continue a text with a model, a checkpoint or a run's newest one
  evaluate DIR --input …
      its loss, perplexity and bits per byte, or its choices, on texts or token data
  tokenizer --input_path … --output_dir …
      learn a tokenizer from text
  preprocess …
      turn text into .bin/.idx files
  inspect PREFIX …
      what .bin/.idx files hold, drawn, decoded and checked
  merge INPUT… --output_prefix …
      several pairs of .bin/.idx files as one
  split PREFIX --shares …
      one pair as several
  convert SOURCE DESTINATION --to …
      weights from and to other programs' layouts
  convert PREFIX PREFIX
      older _ids.npy and _idx.npz files as .bin/.idx

`llm-pretrain COMMAND --help` says more; `llm-pretrain --version` names the versions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 if it failed, or 2 for a wrong command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(fit(translated(USAGE)), file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help", "help"):
        print(fit(translated(USAGE)))
        return 0
    if words[0] == "--version":
        print(_versions())
        return 0
    command = _COMMANDS.get(words[0])
    if command is None:
        import difflib

        known = (*_COMMANDS, "--help", "--version")
        near = difflib.get_close_matches(words[0].lower(), known, n=1)
        if words[0].endswith((".json", ".yaml", ".yml")):
            near = [f"train {words[0]}"]
        hint = f"; did you mean {near[0]}?" if near else ""
        print_beside(f"llm-pretrain: there is no command {words[0]!r}{hint}")
        print(f"\n{fit(translated(USAGE))}", file=sys.stderr)
        return 2
    try:
        with _interrupt_ends_at_once(words[0]):
            work = command()
        with naming("standard output"):
            status = work(words[1:])
            sys.stdout.flush()
    except KeyboardInterrupt:
        print_beside(f"llm-pretrain {words[0]}: interrupted")
        return SIGNAL_STATUS + signal.SIGINT
    except BrokenPipeError:
        # The reader, `head` for instance, has seen enough; nothing more can be written.
        _discard_output()
        return 1
    except OSError as error:
        if not is_fault(error):
            raise
        print_beside(f"llm-pretrain {words[0]}: {describe(error)}")
        _discard_output()
        return 1
    return status


def _versions() -> str:
    """This program's version, Paddle's by the name of its package, and Python's."""
    import platform
    from importlib import metadata

    paddle = sorted(
        f"{found.name} {found.version}"
        for found in metadata.distributions()
        if str(found.name).startswith("paddlepaddle")  # a broken package has no name
    )
    versions = [f"llm-pretrain {__version__}", *(paddle or ["no paddlepaddle"])]
    return ", ".join([*versions, f"Python {platform.python_version()}"])


def _discard_output() -> None:
    """What is still in the buffer can't be written, nor be complained of when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _train(arguments: Sequence[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        from llm_pretrain.config import describe_keys

        say("usage: llm-pretrain train [CONFIG] [--key value …]")
        print("\n".join(describe_keys(width())))
        return 0
    try:
        launchers.adopt(os.environ)
    except launchers.LaunchError as error:
        print_error(str(error))
        return 1
    with _interrupt_ends_at_once("train"):
        from llm_pretrain.training.run import run  # imports Paddle, which reads the environment

        return run(arguments)


@contextmanager
def _interrupt_ends_at_once(command: str) -> Iterator[None]:
    """Ctrl-C ends the process while modules are imported, and with it until a run takes it for a
    wish to save first.

    As the exception that it is elsewhere it may get lost, or be an error, in an import.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        # sys.stderr is put aside while Paddle is imported.
        os.write(2, translated(f"llm-pretrain {command}: interrupted\n").encode())
        os._exit(SIGNAL_STATUS + number)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _convert(arguments: Sequence[str]) -> int:
    from llm_pretrain.data import rewrite

    if rewrite.asks_for_token_data(arguments):
        return rewrite.convert_main(arguments)
    from llm_pretrain.checkpoint import convert

    return convert.main(arguments)


def _main_of(module: str, function: str = "main") -> Callable[[], _Work]:
    """What imports a command only when it is asked for: some import Paddle."""
    return lambda: getattr(importlib.import_module(f"llm_pretrain.{module}"), function)


_COMMANDS: dict[str, Callable[[], _Work]] = {
    "train": lambda: _train,
    "launch": _main_of("launch.command"),
    "check": _main_of("cli.check"),
    "plan": _main_of("cli.plan"),
    "report": _main_of("cli.report"),
    "runs": _main_of("cli.runs"),
    "generate": _main_of("cli.generate"),
    "evaluate": _main_of("cli.evaluate"),
    "tokenizer": _main_of("data.preprocess.train_tokenizer"),
    "preprocess": _main_of("data.preprocess"),
    "inspect": _main_of("data.preprocess.inspect_data"),
    "merge": _main_of("data.rewrite", "merge_main"),
    "split": _main_of("data.rewrite", "split_main"),
    "convert": lambda: _convert,
}
