"""What `input_dir` means: a folder, a prefix, weights and prefixes, or a blend file."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from llm_pretrain.data.blend import ENDINGS, Entry, read_blend_file
from llm_pretrain.data.indexed_dataset import bin_path, index_path, open_indexed
from llm_pretrain.data.npy_dataset import ids_path, npz_path, open_npy
from llm_pretrain.data.token_data import DataError, TokenData

_PAIRS = ((".idx", ".bin"), ("_idx.npz", "_ids.npy"))
EXPECTED = (
    "Expected are pairs <name>.bin and <name>.idx (or <name>_ids.npy and <name>_idx.npz), as "
    "`llm-pretrain preprocess` writes them."
)


@dataclass(frozen=True)
class Inputs:
    prefixes: tuple[Path, ...]
    """Paths without endings, in the order in which they are blended."""
    weights: tuple[float, ...] | None
    """Their weights as given, none of them 0. None: a single dataset, not blended."""
    written: tuple[str, ...]
    """The prefixes as PaddleNLP would spell them, which names its cache files."""
    entries: tuple[Entry, ...] | None = None
    """Of a blend file: the entry that each prefix belongs to."""
    notices: tuple[str, ...] = ()


def find_data(input_dir: str | None, argument: str = "input_dir") -> Inputs:
    """The data that `input_dir` names.

    It is a folder (all pairs in it, sorted by name, each of weight 1), one prefix,
    "weight prefix weight prefix …", or the path of a YAML file (see `blend`). What has the
    weight 0 is left out. Raises DataError where nothing is found, or half a pair, which names the
    argument that was typed.
    """
    if not input_dir or not input_dir.strip():
        raise DataError(f"{argument} is not set: it names the folder of the training data.")
    # A whole path first: its name may hold spaces.
    whole = Path(input_dir.strip())
    # pathlib raises an error where a text is too long for a path.
    if os.path.isdir(whole):
        prefixes = _in_folder(whole, argument)
        weights = (1.0,) * len(prefixes) if len(prefixes) > 1 else None
        written = tuple(os.path.join(input_dir.strip(), prefix.name) for prefix in prefixes)
        return Inputs(prefixes, weights, written)
    if whole.suffix.lower() in ENDINGS and os.path.isfile(whole):
        return _of_blend_file(whole, argument)
    words = input_dir.split()
    if len(words) == 1 or _exists(whole):
        return Inputs(_checked_prefixes([whole], argument), None, (input_dir.strip(),))
    if len(words) % 2:
        raise DataError(
            f'{argument} is "{input_dir}": it must be a folder, a prefix, a YAML file, or pairs of '
            'a weight and a prefix such as "0.7 data/web 0.3 data/books".'
        )
    weights = tuple(_weight(word, input_dir, argument) for word in words[::2])
    if sum(weights) == 0:
        raise DataError(f'{argument} is "{input_dir}": all its weights are 0.')
    prefixes = _checked_prefixes(map(Path, words[1::2]), argument)
    # Otherwise the order could give them a sample where every other dataset has just its share.
    used = [number for number, weight in enumerate(weights) if weight]
    return Inputs(
        tuple(prefixes[number] for number in used),
        tuple(weights[number] for number in used),
        tuple(words[2 * number + 1] for number in used),
        notices=tuple(
            _left_out(str(prefix))
            for prefix, weight in zip(prefixes, weights, strict=True)
            if not weight
        ),
    )


def _of_blend_file(path: Path, argument: str) -> Inputs:
    prefixes: list[Path] = []
    entries: list[Entry] = []
    notices = []
    for entry in read_blend_file(path):
        pairs = _in_folder if entry.path.is_dir() else _matching
        found = pairs(entry.path, argument)
        if entry.amount == 0:
            notices.append(_left_out(f"{entry.name} ({entry.path})"))
            continue
        prefixes.extend(found)
        entries.extend([entry] * len(found))
    return Inputs(
        tuple(prefixes),
        tuple(entry.amount for entry in entries),
        tuple(map(str, prefixes)),
        tuple(entries),
        tuple(notices),
    )


def _left_out(what: str) -> str:
    return f"{what} has the share 0 and is not read."


def open_data(prefix: Path) -> TokenData:
    """Map the files of a prefix; the older form is taken where both are, as PaddleNLP does."""
    try:
        return _open(prefix)
    except OSError as error:
        raise DataError(f"{error.filename or prefix} can't be read: {error.strerror}.") from error


def _open(prefix: Path) -> TokenData:
    if not (ids_path(prefix).exists() and npz_path(prefix).exists()):
        return open_indexed(prefix)
    data = open_npy(prefix)
    if not bin_path(prefix).exists():
        return data
    notice = f"{ids_path(prefix)} is read, and {bin_path(prefix)} beside it is not."
    return replace(data, notices=(*data.notices, notice))


def _exists(prefix: Path) -> bool:
    return any(os.path.exists(path(prefix)) for path in (bin_path, index_path, ids_path, npz_path))


def _in_folder(folder: Path, argument: str) -> tuple[Path, ...]:
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise DataError(f"{argument} {folder} can't be read: {error.strerror}.") from error
    found: set[str] = set()
    for endings in _PAIRS:
        for ending, other in (endings, endings[::-1]):
            for name in names:
                if not name.endswith(ending) or name == ending:
                    continue
                stem = name[: -len(ending)]
                if stem + other not in names:
                    raise DataError(
                        f"{folder / name} has no {stem}{other} beside it; both are needed. "
                        "Preprocess it again, or move it out of the folder."
                    )
                found.add(stem)
    if not found:
        raise DataError(f"{argument} {folder} holds no training data. {EXPECTED}")
    return tuple(folder / stem for stem in sorted(found))


def _matching(path: Path, argument: str) -> tuple[Path, ...]:
    """The prefixes of a glob, or the one prefix that the path is."""
    if _exists(path) or not any(sign in str(path) for sign in "*?["):
        return _checked_prefixes([path], argument)
    files = filter(os.path.isfile, glob.glob(str(path), recursive=True))
    prefixes = {
        name[: -len(ending)]
        for name in files
        for ending in chain.from_iterable(_PAIRS)
        if name.endswith(ending)
    }
    if not prefixes:
        raise DataError(f"{argument} names {path}, which matches no training data. {EXPECTED}")
    return tuple(map(Path, sorted(prefixes)))


def _checked_prefixes(paths: Iterable[Path], argument: str) -> tuple[Path, ...]:
    """The prefixes that the paths are. Raises DataError with all that aren't there."""
    prefixes = tuple(map(_prefix_of, paths))
    missing = [str(prefix) for prefix in prefixes if not _exists(prefix)]
    if missing:
        names = ", ".join(missing)
        missed = f"{argument} names {names}, and there are no such files."
        raise DataError(f"{missed} {EXPECTED}")
    return prefixes


def _prefix_of(path: Path) -> Path:
    """A path without an ending: a user may well name one of the two files."""
    for ending in chain.from_iterable(_PAIRS):
        if path.name.endswith(ending) and os.path.isfile(path):
            return path.with_name(path.name[: -len(ending)])
    return path


def _weight(word: str, input_dir: str, argument: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise DataError(
            f'{argument} is "{input_dir}": "{word}" stands where a weight must be. If this is one '
            "path with spaces in it, there is no such folder."
        )
    return weight
