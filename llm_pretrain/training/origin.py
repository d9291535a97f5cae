"""What made a checkpoint, and what of it is different in a run that resumes from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from crc32c import crc32c

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE
from llm_pretrain.config import RunConfig
from llm_pretrain.config.argument_types import shown
from llm_pretrain.config.keys import OF_A_START
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.schedule_arguments import ScheduleArguments, learning_rate_at
from llm_pretrain.data import Sources
from llm_pretrain.data.preprocess.tokenizers import tokenizer_files
from llm_pretrain.models.families import read_model_config
from llm_pretrain.training.preflight import tokenizer_directory

_HOW_NOT_WHAT = (
    "use_flash_attention",
    "use_fused_linear_cross_entropy",
    "fuse_attention_qkv",
    "fuse_attention_ffn",
)
"""Fields of a model's configuration that change how it is computed, and not what."""
_SCHEDULE = tuple(ScheduleArguments.model_fields)
_FILES_LISTED = 64
_BLOCK_BYTES = 4096
_MOST_BLOCKS = 1024
_CONTEXT = 40
"""Characters on each side of where two long values begin to differ."""


def origin_of(
    run: RunConfig, model: ModelConfig, processes: int, sources: Sources
) -> dict[str, Any]:
    """What makes a run's checkpoints, as JSON has it."""
    origin = {
        "model": _fields(model),
        "run": _keys(run),
        "processes": processes,
        "tokenizer": _files(tokenizer_files(tokenizer_directory(run))),
        "data": {
            **_files([path for tokens in sources.files for path in sorted(tokens.files)]),
            "weights": list(sources.inputs.weights or ())[:_FILES_LISTED],
            "stages": _stages(sources),
        },
    }
    return dict(json.loads(json.dumps(origin)))


def _stages(sources: Sources) -> list[tuple[float | None, str]]:
    """Until how many tokens each blend is read, and a checksum of its files' names, sizes and
    shares; data without stages is one."""
    files = tuple(range(len(sources.files)))
    parts = [(stage.until, stage.files, stage.shares) for stage in sources.stages]
    stages = []
    for until, members, shares in parts or [(None, files, sources.shares)]:
        crc = 0
        for file, share in zip(members, shares, strict=True):
            tokens = sources.files[file]
            text = f"{tokens.prefix.name} {len(tokens.sizes)} {len(tokens.tokens)} {share!r}"
            crc = crc32c(text.encode(), crc)
        stages.append((until, f"{crc:08x}"))
    return stages


def _fields(model: ModelConfig) -> dict[str, Any]:
    """Every field that says what is computed; those of parts as "rope.theta"."""
    fields = dict(_flat(asdict(model)))
    # Grows with the samples.
    fields.pop("extrapolation.trained_length", None)
    return {name: value for name, value in fields.items() if name not in _HOW_NOT_WHAT}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _keys(run: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in run.values().items() if key not in OF_A_START}


def _files(paths: list[Path]) -> dict[str, Any]:
    """Names and sizes (of the first files, if there are many), and a fingerprint of all."""
    sizes = {str(path): path.stat().st_size for path in paths}
    return {
        "count": len(paths),
        "bytes": sum(sizes.values()),
        "fingerprint": fingerprint(paths),
        "files": dict(list(sizes.items())[:_FILES_LISTED]),
    }


def fingerprint(paths: Iterable[Path]) -> str:
    """CRC-32C of names, sizes, and blocks of 4 KiB that are spread evenly over the contents.

    Files up to 4 MiB go in whole; where there are many files, at least three blocks of each.
    """
    paths = list(paths)
    blocks = max(_MOST_BLOCKS // max(len(paths), 1), 3)
    crc = 0
    for path in paths:
        size = path.stat().st_size
        crc = crc32c(f"{path.name} {size}".encode(), crc)
        last = max(-(-size // _BLOCK_BYTES) - 1, 0)
        count = min(blocks, last + 1)
        with path.open("rb", buffering=0) as file:
            for number in range(count):
                file.seek(last * number // max(count - 1, 1) * _BLOCK_BYTES)
                crc = crc32c(file.read(_BLOCK_BYTES), crc)
    return f"{crc:08x}"


def model_differences(checkpoint: Path, state: Mapping[str, Any], model: ModelConfig) -> list[str]:
    """How the model of a run differs from that of a checkpoint: "name: old → new" for each.

    The names are those of config.json where it has one for what differs.

    Args:
        state: the contents of the checkpoint's trainer_state.json.
    """
    now = dict(json.loads(json.dumps(_fields(model))))
    origin = state.get("origin")
    if origin is None:
        if not (checkpoint / "config.json").is_file():  # on another node's disk
            return []
        before = dict(json.loads(json.dumps(_fields(read_model_config(checkpoint)))))
    else:
        # What an earlier version of this program didn't know has its default.
        before = {**_defaults(now), **origin["model"]}
    fields = list(_differences(before, now))
    return list(_published_differences(checkpoint, model)) or fields if fields else []


def _defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    known = ModelConfig.__dataclass_fields__
    return {name: known[name].default for name in fields if name in known}


def _published_differences(checkpoint: Path, model: ModelConfig) -> Iterator[str]:
    try:
        before = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    before.pop(HUGGING_FACE.dtype_key, None)
    now = json.loads(json.dumps(HUGGING_FACE.write_config(model)))
    # Some values stand in a part and beside it.
    inner = ({name.rpartition(".")[2]: value for name, value in _flat(c)} for c in (before, now))
    yield from _differences(*inner)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new:
            yield f"{name}: {_change(old, new)}"


def _change(old: Any, new: Any) -> str:
    """Both values, cut short; where they are long and alike, the part from where they differ."""
    texts = shown(old), shown(new)
    if texts[0] == texts[1]:
        old, new = str(old), str(new)
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
        )
        part = slice(max(same - _CONTEXT, 0), same + _CONTEXT)
        texts = f"…{old[part]}…", f"…{new[part]}…"
    return f"{texts[0]} → {texts[1]}"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What else is different between two origins, a line each.

    Args:
        before: of the checkpoint; {} where an earlier version of this program has noted none.
    """
    if not before:
        return []
    # A key that only one of two versions of this program has tells of no change.
    keys = before["run"].keys() & now["run"].keys()
    lines = list(
        _differences(
            *(
                {key: run[key] for key in now["run"] if key in keys}
                for run in (before["run"], now["run"])
            )
        )
    )
    for name, serving in now.get("operators", {}).get("serving", {}).items():
        old = before.get("operators", {}).get("serving", {}).get(name, serving)
        first, last = ([*names, "reference"][0] for names in (old, serving))
        if first != last:
            lines.append(f"operator {name}: {first} → {last}")
    if before["processes"] != now["processes"]:
        lines.append(f"processes: {before['processes']} → {now['processes']}")
    for name in ("tokenizer", "data"):
        old, new = before[name], now[name]
        if old["fingerprint"] != new["fingerprint"]:
            lines.append(f"{name}: {_summary(old)} → {_summary(new)}")
    old, new = before["data"]["weights"], now["data"]["weights"]
    is_staged = any(origin["run"].get("data_stages") for origin in (before, now))
    if old != new and not is_staged:
        lines.append(f"weights of the data: {_change(old, new)}")
    return lines


def _summary(files: Mapping[str, Any]) -> str:
    if not files["count"]:
        return "none"
    noun = "file" if files["count"] == 1 else "files"
    return f"{files['count']} {noun} of {files['bytes']:,} bytes ({files['fingerprint']})"


def late_decay(run: RunConfig, checkpoint: Path, state: Mapping[str, Any]) -> list[str]:
    """Why the rate can't begin to fall where `decay_from` says: the checkpoint is beyond, and its
    steps had another rate.

    Args:
        state: of the checkpoint.
    """
    begin, step = run.training.decay_from, int(state["progress"]["global_step"])
    known = state.get("origin", {}).get("run", {}).get("decay_from")
    is_used = run.training.do_train and run.training.lr_scheduler_type == "warmup_stable_decay"
    if begin is None or begin == known or begin >= step or not is_used:
        return []
    return [
        f"decay_from: {checkpoint} is beyond step {begin}, and its steps had another rate; resume "
        f"from a checkpoint of step {begin} or before, or set decay_from to {step}"
    ]


def repeated_decay(run: RunConfig, checkpoint: Path, state: Mapping[str, Any]) -> list[str]:
    """What a user should know whose rate is to fall by `decay_from`, and has fallen before the
    checkpoint already: it rises again first.

    Args:
        state: of the checkpoint.
    """
    training, before = run.training, state.get("origin", {}).get("run", {})
    step = int(state["progress"]["global_step"])
    begin = training.decay_from
    is_used = training.do_train and training.lr_scheduler_type == "warmup_stable_decay"
    if not before or begin is None or begin == before.get("decay_from") or not is_used:
        return []
    schedule = ScheduleArguments(**{key: before[key] for key in _SCHEDULE if key in before})
    old, new = learning_rate_at(step, schedule), learning_rate_at(step, training)
    has_fallen = step > schedule.warmup and old < schedule.learning_rate
    if not has_fallen or old >= new:
        return []
    return [
        f"decay_from: the rate of {checkpoint} had fallen to {old:g} already and goes up to "
        f"{new:g} again, from which it falls after step {begin}; a checkpoint from before the "
        "decay spares that"
    ]
