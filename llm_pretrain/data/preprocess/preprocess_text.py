"""`llm-pretrain preprocess`: text files to one pair of `.bin` and `.idx`."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.npy_dataset import ids_path, npz_path
from llm_pretrain.data.preprocess.clean import Cleaner, CleaningOptions, SeenHashes
from llm_pretrain.data.preprocess.encode import Encoded, EncodeOptions, cut_blocks, encode_blocks
from llm_pretrain.data.preprocess.inputs import FormatOptions, Source, find_sources
from llm_pretrain.data.preprocess.parts import Documents, Part, WholePart
from llm_pretrain.data.preprocess.preprocess_arguments import (
    WITHOUT_EFFECT,
    preprocess_command,
    typed_tokenizer,
)
from llm_pretrain.data.preprocess.progress_lines import DUPLICATE, Progress
from llm_pretrain.data.preprocess.ray_engine import do_parts
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import Tokenizer, tokenizer_files
from llm_pretrain.data.preprocess.unfinished import Unfinished, held_out_prefix
from llm_pretrain.data.sources import one_source_validates
from llm_pretrain.machine.files import naming
from llm_pretrain.machine.terminal import say

_MOST_PARTS = 1000
"""Of an engine that makes them itself."""


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""

    def work(arguments: argparse.Namespace) -> None:
        for name, reason in WITHOUT_EFFECT.items():
            if getattr(arguments, name) is not None:
                say(f"--{name}: no effect: {reason}")
        with naming(arguments.output_prefix):
            _run(arguments, sys.stdout)

    return preprocess_command().run(argv, work)


def _run(arguments: argparse.Namespace, out: TextIO) -> None:
    tokenizer = typed_tokenizer(arguments)
    if arguments.append_eos and tokenizer.eos_id is None:
        raise PreprocessError(
            f"--append_eos: the tokenizer in {arguments.tokenizer} names no end-of-document token "
            "(eos_token in tokenizer_config.json)."
        )
    prefix = _output_prefix(arguments.output_prefix)
    if arguments.engine == "ray":
        # Tasks have working folders of their own.
        prefix = prefix.absolute()
        arguments.output_prefix = str(prefix)
        arguments.tokenizer = str(Path(arguments.tokenizer).absolute())
        arguments.input_path = [str(Path(word).absolute()) for word in arguments.input_path]
    sources, others = find_sources(arguments.input_path)
    if others:
        say(f"Left out {len(others)} files of other formats, such as {others[0]}", out)
    options = _options(arguments, tokenizer)
    in_parts = arguments.part or arguments.join_parts or arguments.engine
    if arguments.max_doc_num is not None and in_parts:
        raise PreprocessError("--max_doc_num: a part can't know how many documents others have.")
    if arguments.engine == "ray":
        if arguments.part or arguments.join_parts:
            raise PreprocessError("--engine ray does all parts and joins them: leave the others.")
        arguments.join_parts = _do_parts(arguments, sources, out)
    if arguments.join_parts is not None:
        _join(arguments, tokenizer, options.dtype, prefix, sources, out)
        return
    part: Part | None = arguments.part
    if part is not None:
        whole, sources = sources, part.of(sources)
        say(f"Part {part}: {len(sources)} of {len(whole)} inputs", out)
        if part.prefix(prefix).is_dir():
            WholePart(part, prefix, options.dtype, _description(arguments, tokenizer, sources))
            say(f"{part.prefix(prefix)} is done already", out)
            return
        prefix = part.prefix(prefix)
    # Here already, so that a package that is missing is missed before any worker starts.
    Cleaner(options.cleaning)
    unfinished = Unfinished(prefix, options.dtype, _description(arguments, tokenizer, sources))
    try:
        if unfinished.finished:
            say(
                f"Going on from an interrupted run: {unfinished.finished} of {len(sources)} inputs "
                "are done",
                out,
            )
        progress = Progress(
            out,
            sources,
            unfinished.counts.copy(),
            unfinished.finished,
            interval=arguments.log_interval,
            max_documents=arguments.max_doc_num,
        )
        blocks = cut_blocks(sources, unfinished.finished, options.format)
        with closing(encode_blocks(blocks, options, arguments.workers)) as encoded:
            _write(encoded, arguments, unfinished, progress)
        if part is not None:
            unfinished.keep_as_part()
            progress.finish_part(prefix)
            return
        _publish(unfinished, progress, arguments)
    except (Exception, KeyboardInterrupt):
        if unfinished.finished:
            say(
                f"{unfinished.finished} of {len(sources)} inputs are done and kept in "
                f"{unfinished.folder}: the same command goes on from there",
                out,
            )
        raise
    finally:
        unfinished.leave()
    _tell_end(progress, arguments, sources, prefix, options.dtype, out)


def _do_parts(arguments: argparse.Namespace, sources: Sequence[Source], out: TextIO) -> int:
    """Do the parts of the inputs, each with one of them or some; how many there are."""
    parts = Part.all(min(len(sources), _MOST_PARTS))
    if len(sources) == 1:
        say("One input is one part: cut it into files, and several machines share it", out)
    sizes = [sum(source.size for source in part.of(sources)) for part in parts]
    do_parts(partial(_do_part, arguments), parts, sizes, arguments.workers, out)
    return len(parts)


def _do_part(arguments: argparse.Namespace, part: Part, out: TextIO) -> None:
    _run(argparse.Namespace(**{**vars(arguments), "engine": None, "part": part}), out)


def _publish(unfinished: Unfinished, progress: Progress, arguments: argparse.Namespace) -> None:
    if progress.counts["documents"] == progress.counts["held out"]:
        unfinished.remove()
        inputs = " ".join(arguments.input_path)
        raise PreprocessError(f"--input_path {inputs} holds no text that is to be kept.")
    unfinished.publish()


def _tell_end(
    progress: Progress,
    arguments: argparse.Namespace,
    sources: Sequence[Source],
    prefix: Path,
    dtype: np.dtype,
    out: TextIO,
) -> None:
    said = one_source_validates([s.name for s in sources], [s.size for s in sources])
    if arguments.max_doc_num is None and said is not None:
        say(said, out)
    progress.finish(prefix, held_out_prefix(prefix), dtype)


def _join(
    arguments: argparse.Namespace,
    tokenizer: Tokenizer,
    dtype: np.dtype,
    prefix: Path,
    sources: Sequence[Source],
    out: TextIO,
) -> None:
    """Make the output of parts that are done, and remove them."""
    wholes: list[WholePart] = []
    missing = []
    for part in Part.all(arguments.join_parts):
        description = _description(arguments, tokenizer, part.of(sources))
        try:
            wholes.append(WholePart(part, prefix, dtype, description))
        except PreprocessError as error:
            missing.append(str(error))
    if missing:
        raise PreprocessError("\n".join(missing))
    counts = sum((whole.counts for whole in wholes), Counter[str]())
    counts -= Counter({name: counts[name] for name in ("documents", "tokens", "held out")})
    progress = Progress(
        out, sources, counts, len(sources), interval=arguments.log_interval, max_documents=None
    )
    seen = SeenHashes() if arguments.remove_duplicates else None
    unfinished = Unfinished(prefix, dtype, {"--join_parts": arguments.join_parts})
    try:
        for whole in wholes:
            for some in whole.documents(lambda hashes: _held_out(hashes, arguments.held_out_share)):
                every = np.ones(len(some.sizes), np.bool_)
                kept = every if seen is None else seen.add(some.hashes)
                added = _add(unfinished, some, kept, arguments.held_out_share)
                progress.join(*added, duplicates=int((~kept).sum()))
        _publish(unfinished, progress, arguments)
    finally:
        unfinished.leave()
    for whole in wholes:
        whole.remove()
    _tell_end(progress, arguments, sources, prefix, dtype, out)


def _write(
    encoded: Iterator[Encoded],
    arguments: argparse.Namespace,
    unfinished: Unfinished,
    progress: Progress,
) -> None:
    seen = SeenHashes() if arguments.remove_duplicates else None
    if seen is not None:
        for hashes in unfinished.hashes():
            seen.add(hashes)
    most = arguments.max_doc_num
    if most is not None and progress.counts["documents"] >= most:
        return
    for block in encoded:
        kept = np.ones(len(block.sizes), np.bool_) if seen is None else seen.add(block.hashes)
        progress.counts[DUPLICATE] += int((~kept).sum())
        full = False
        if most is not None:
            room = most - progress.counts["documents"]
            full = int(kept.sum()) >= room
            kept &= np.cumsum(kept) <= room
        for problem in block.problems:
            # What lies behind the last document wanted doesn't matter.
            if not full or bool(kept[problem.document :].any()):
                progress.problem(problem.where, fail=arguments.on_error == "fail")
        added = _add(unfinished, block, kept, arguments.held_out_share)
        if seen is not None or arguments.part is not None:
            unfinished.add_hashes(block.hashes[kept])
        progress.add(block, *added)
        if full:
            return
        if block.last:
            unfinished.end_input(progress.counts)


def _add(
    unfinished: Unfinished, some: Encoded | Documents, kept: NDArray[np.bool_], share: float
) -> tuple[int, int, int]:
    """Write those that are kept: how many, their tokens that aren't held out, how many are."""
    sizes = some.sizes[kept]
    held_out = _held_out(some.hashes[kept], share)
    unfinished.add(some.tokens[np.repeat(kept, some.sizes)], sizes, held_out)
    return len(sizes), int(sizes[~held_out].sum()), int(held_out.sum())


def _held_out(hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """By the second half of the hash: the first one decides on sampling."""
    return hashes[:, 1].astype(np.float64) < share * 2.0**64


def _output_prefix(text: str) -> Path:
    prefix = Path(text)
    if text.endswith(("/", os.sep)) or not prefix.name:
        raise PreprocessError(f"--output_prefix {text} is a folder; add a name for the files.")
    for older in (ids_path(prefix), npz_path(prefix)):
        if older.exists():
            raise PreprocessError(
                f"{older} is there: training would read this older form in place of the new "
                "files. Remove it, or choose another --output_prefix."
            )
    return prefix


def _options(arguments: argparse.Namespace, tokenizer: Tokenizer) -> EncodeOptions:
    return EncodeOptions(
        tokenizer=arguments.tokenizer,
        dtype=np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32),
        append_eos=arguments.append_eos,
        format=FormatOptions(arguments.json_key, arguments.separator),
        cleaning=CleaningOptions(
            max_repeated_len=arguments.max_repeated_len,
            min_doc_length=arguments.min_doc_length,
            sample_share=arguments.sample_share,
            segment_words=arguments.cn_whole_word_segment,
            word_separator=arguments.cn_split_dimer,
        ),
    )


def _description(
    arguments: argparse.Namespace, tokenizer: Tokenizer, sources: Sequence[Source]
) -> dict[str, object]:
    """All that the output depends on, under names for the user."""
    aside = {"tokenizer", "tokenizer_option", "input_path", "output_prefix"}
    aside |= {"workers", "log_interval", "on_error", "part", "join_parts", "engine"}
    description = {
        f"--{name}": value
        for name, value in vars(arguments).items()
        if name not in aside | WITHOUT_EFFECT.keys()
    }
    files = hashlib.sha256()
    for path in tokenizer_files(arguments.tokenizer):
        files.update(hashlib.sha256(path.read_bytes()).digest())
    inputs = "\n".join(f"{source.name} {source.size} {source.modified_ns}" for source in sources)
    return description | {
        "tokenizer": f"{files.hexdigest()}, EOS {tokenizer.eos_id}",
        "list of input files": hashlib.sha256(inputs.encode()).hexdigest(),
    }
