"""Runs in the environment of the trackers: a run that begins and one that goes on, and what each
tracker has of them afterwards.

Usage: tracked_run.py DIRECTORY. Writes DIRECTORY/found.json: by tracker its runs, each with the
steps and values of train/loss and what it knows of the learning rate.
"""

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from llm_pretrain.monitor.reporter import Reporter

STARTS = ([(1, 4.0), (2, 3.0)], [(2, 3.0), (3, 2.5)])
NAMES = ["tensorboard", "wandb", "mlflow", "swanlab", "visualdl"]


def report(output_dir: Path) -> None:
    for steps in STARTS:
        reporter = Reporter(output_dir, None, NAMES, max_steps=3)
        reporter.hyper_parameters({"learning_rate": 1e-3, "bf16": True, "sharding": ["stage1"]})
        for step, loss in steps:
            reporter.step({"global_step": step, "loss": loss, "mfu": None})
        reporter.evaluation({"global_step": steps[-1][0], "eval_loss": 2.75})
        reporter.close()


def of_tensorboard(directory: Path) -> list[dict]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    found = EventAccumulator(str(directory))
    found.Reload()
    (start,) = (
        metadata.parse_session_start_info_plugin_data(each.plugin_data.content)
        for tag, each in found.summary_metadata.items()
        if tag == metadata.SESSION_START_INFO_TAG
    )
    return [
        {
            "loss": [[point.step, point.value] for point in found.Scalars("train/loss")],
            "learning_rate": start.hparams["learning_rate"].number_value,
        }
    ]


def of_visualdl(directory: Path) -> list[dict]:
    from visualdl import LogReader

    return [
        {
            "loss": [
                [point.id, point.value]
                for point in LogReader(file_path=str(file)).get_data("scalar", "train/loss")
            ],
            "learning_rate": 1e-3,
        }
        for file in directory.glob("vdlrecords*")
    ]


def of_mlflow() -> list[dict]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("llm_pretrain")
    return [
        {
            "loss": [
                [point.step, point.value]
                for point in client.get_metric_history(run.info.run_id, "train/loss")
            ],
            "learning_rate": float(run.data.params["learning_rate"]),
        }
        for run in client.search_runs([experiment.experiment_id])
    ]


def of_wandb(directory: Path) -> list[dict]:
    """Starts of one run are files of their own until `wandb sync` joins them by its id."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, dict] = {}
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        for content in records_of_wandb(file.read_bytes()):
            record = Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = runs.setdefault(record.run.run_id, {"loss": []})
            elif kind == "config":
                values = {item.key: json.loads(item.value_json) for item in record.config.update}
                run["learning_rate"] = values.get("learning_rate", run.get("learning_rate"))
            elif kind == "history":
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                if "train/loss" in values:
                    run["loss"].append([values["global_step"], values["train/loss"]])
    return list(runs.values())


def records_of_wandb(content: bytes) -> Iterator[bytes]:
    """What a file holds: after 7 bytes LevelDB's log, blocks of 32 KiB with pieces of records."""
    block, header = 1 << 15, struct.Struct("<IHB")
    position, record = 7, b""
    while position + header.size <= len(content):
        room = block - position % block
        if room < header.size:
            position += room
            continue
        _, size, kind = header.unpack_from(content, position)
        position += header.size
        record += content[position : position + size]
        position += size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def of_swanlab(directory: Path) -> list[dict]:
    """As W&B's: `swanlab sync` joins them."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    runs: dict[str, dict] = {}
    for file in sorted(directory.glob("run-*/*.swanlab")):
        reader = DataStoreReader()
        reader.open(str(file))
        while (content := reader.scan()) is not None:
            record = Record.FromString(content)
            if record.HasField("start"):
                run = runs.setdefault(record.start.id, {"loss": []})
            elif record.HasField("scalar") and record.scalar.key == "train/loss":
                run["loss"].append([record.scalar.step, record.scalar.value.number])
        config = yaml.safe_load((file.parent / "files" / "config.yaml").read_text())
        run["learning_rate"] = config["learning_rate"]["value"]
    return list(runs.values())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ |= {
        "WANDB_MODE": "offline",
        "SWANLAB_MODE": "offline",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "HOME": str(folder),
    }
    report(folder / "run")
    (directory,) = (folder / "run" / "runs").iterdir()
    found = {
        "tensorboard": of_tensorboard(directory),
        "visualdl": of_visualdl(directory),
        "mlflow": of_mlflow(),
        "wandb": of_wandb(directory),
        "swanlab": of_swanlab(directory),
    }
    (folder / "found.json").write_text(json.dumps(found))
