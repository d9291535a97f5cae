"""The files that PaddleNLP's users have load unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.config import (
    check_layout,
    load_run_config,
    resolve_degrees,
    smallest_world_size,
)
from llm_pretrain.models.families import FAMILIES, family_of, load_model_config

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(REPOSITORY.glob("configs/*/*.json"))
BENCHMARKS = sorted(REPOSITORY.glob("configs/*/pretrain-*-tp2sd4_stage2.json"))
OTHERS = sorted(Path(__file__).parent.glob("published/*/*"))

TP4_PP2_SCRIPT = """
--model_type llama --model_name_or_path facebook/llama-7b
--tokenizer_name_or_path facebook/llama-7b --input_dir ./data --output_dir output/llama_hybid
--split 949,50,1 --max_seq_length 2048 --per_device_train_batch_size 1
--per_device_eval_batch_size 4 --gradient_accumulation_steps 4 --use_flash_attention 1
--use_fused_rms_norm 0 --fp16 --fp16_opt_level O2 --scale_loss 512 --tensor_parallel_degree 4
--pipeline_parallel_degree 2 --virtual_pp_degree 1 --sequence_parallel 0 --learning_rate 0.00001
--min_learning_rate 0.000001 --max_steps 10000 --save_steps 5000 --weight_decay 0.01
--warmup_ratio 0.01 --max_grad_norm 1.0 --logging_steps 10 --dataloader_num_workers 1
--eval_steps 1000 --report_to visualdl --sharding stage1 --disable_tqdm false
--continue_training 1 --recompute 1 --do_train --do_eval --device gpu
"""


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_every_config_of_the_repository_loads(path: Path) -> None:
    load_run_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_every_config_fits_its_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    run = load_run_config(path)
    model = load_model_config(
        run.model.model_name_or_path, run.model, max_seq_length=run.data.max_seq_length
    )
    degrees = resolve_degrees(run.training, smallest_world_size(run.training))
    assert check_layout(run, model, degrees) == []


@pytest.mark.parametrize("pattern", ["pretrain*.json", "tiny.json"])
def test_every_family_has_one(pattern: str) -> None:
    found = set()
    for path in REPOSITORY.glob(f"configs/*/{pattern}"):
        run = load_run_config(path)
        name = run.model.model_name_or_path
        found.add(family_of(load_model_config(name, run.model, max_seq_length=64)).__module__)
    assert found == {family.__module__ for family in FAMILIES.values()}


@pytest.mark.parametrize("path", OTHERS, ids=name)
def test_published_files_of_other_families_load(path: Path) -> None:
    load_run_config(path)


@pytest.mark.parametrize(
    "path", [*BENCHMARKS, REPOSITORY / "configs/llama/pretrain_argument.json"], ids=name
)
def test_files_with_two_tensor_ranks_fit_their_models_on_eight_devices(path: Path) -> None:
    run = load_run_config(path)
    degrees = resolve_degrees(run.training, 8)
    model = load_model_config(
        run.model.model_name_or_path, run.model, max_seq_length=run.data.max_seq_length
    )
    assert (degrees.tensor, degrees.sharding, degrees.data) == (2, 4, 1)
    assert check_layout(run, model, degrees) == []


def test_the_benchmark_files_have_the_published_global_batch() -> None:
    assert len(BENCHMARKS) == 10
    for path in BENCHMARKS:
        training = load_run_config(path).training
        per_device = training.per_device_train_batch_size * training.gradient_accumulation_steps
        assert per_device * 4 == 64


def test_arguments_of_the_tp4_pp2_script() -> None:
    run = load_run_config(None, TP4_PP2_SCRIPT.split())
    degrees = resolve_degrees(run.training, 8)
    assert (degrees.tensor, degrees.pipeline, degrees.sharding, degrees.data) == (4, 2, 1, 1)
    assert run.training.fp16
    assert run.training.scale_loss == 512
    assert run.training.warmup == 100
