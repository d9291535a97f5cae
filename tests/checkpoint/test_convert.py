"""`llm-pretrain convert`: there and back bit for bit, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.cli import main
from llm_pretrain.models.families import FAMILIES, SEEDS, read_model_config
from tests.checkpoint.models import TINY, WITHOUT_PADDLENLP, random_tensors, write_random_model


def convert(source: Path, destination: Path, *options: str) -> int:
    return main(["convert", str(source), str(destination), *options])


def assert_same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [name for name in TINY if name not in WITHOUT_PADDLENLP])
def test_to_paddlenlp_and_back(tmp_path: Path, name: str, dtype: str) -> None:
    write_random_model(name, tmp_path / "original", dtype)
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp") == 0
    assert convert(tmp_path / "there", tmp_path / "back", "--to", "huggingface") == 0
    assert_same_files(tmp_path / "original", tmp_path / "back")
    assert json.loads((tmp_path / "there/config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("target", ["huggingface", "checkpoint"])
def test_to_hugging_face_is_the_same_again(tmp_path: Path, name: str, target: str) -> None:
    write_random_model(name, tmp_path / "original")
    assert convert(tmp_path / "original", tmp_path / "again", "--to", target) == 0
    assert_same_files(tmp_path / "original", tmp_path / "again")


@pytest.mark.parametrize("name", WITHOUT_PADDLENLP)
def test_a_family_that_paddlenlp_lacks(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_model(name, tmp_path / "original")
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp") == 1
    assert "PaddleNLP" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def write_changed(name: str, directory: Path, **changes: Any) -> None:
    """Write one of `TINY` with changes in its config, with random weights."""
    published = SEEDS[name] | changes
    config = FAMILIES[published["model_type"]].read_config(published, "config.json")
    write_weights(random_tensors(config).items(), config, directory)


def scaled(kind: str) -> dict[str, Any]:
    """A setting of LLaMA and Qwen2."""
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    return {"rope_scaling": {"rope_type": kind, "factor": 2.0, **bounds}}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tiny/gpt2", {"layer_norm_epsilon": 1e-3}, "GPTForCausalLM has norm_eps 1e-05, not 0.001"),
        ("tiny/gpt2", {"tie_word_embeddings": False}, "has tie_word_embeddings True, not False"),
        ("tiny/opt", {"enable_bias": False}, "OPTForCausalLM has attention_bias True, not False"),
        ("tiny/llama", {"attention_bias": True}, "has attention_bias False, not True"),
        ("tiny/llama", {"mlp_bias": True}, "LlamaForCausalLM has mlp_bias False, not True"),
        ("tiny/llama", {"head_dim": 12}, "has heads of hidden_size / num_attention_heads, 8, not "),
        ("tiny/llama", scaled("yarn"), "does not scale its rotary embedding by 'yarn'"),
        ("tiny/baichuan2-7b", {}, "LlamaForCausalLM has norm_head False, not True"),
        ("tiny/qwen2", {"head_dim": 12}, "has heads of hidden_size / num_attention_heads, 8, not "),
        (
            "tiny/chatglm2",
            {"kv_channels": 4},
            "has heads of hidden_size / num_attention_heads, 8, ",
        ),
        ("tiny/qwen2", scaled("linear"), "does not scale its rotary embedding by 'linear'"),
        ("tiny/qwen2", scaled("dynamic"), "does not scale its rotary embedding by 'dynamic'"),
        ("tiny/qwen2", scaled("llama3"), "does not scale its rotary embedding by 'llama3'"),
        ("tiny/qwen2", scaled("yarn"), "does not scale its rotary embedding by 'yarn'"),
    ],
)
def test_what_paddlenlp_would_compute_otherwise(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    write_changed(name, tmp_path / "original", **changes)
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("kind", "theirs"), [("linear", "linear"), ("dynamic", "dynamic_ntk"), ("llama3", None)]
)
def test_scalings_that_paddlenlp_computes_too(
    tmp_path: Path, kind: str, theirs: str | None
) -> None:
    """Its LLaMA has keys of its own for two of them (tests/peers/paddlenlp_cases.py)."""
    write_changed("tiny/llama", tmp_path / "original", **scaled(kind))
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp") == 0
    written = json.loads((tmp_path / "there/config.json").read_text())
    assert written.get("rope_scaling_type") == theirs
    assert written.get("rope_scaling_factor") == (2.0 if theirs else None)
    assert convert(tmp_path / "there", tmp_path / "back", "--to", "huggingface") == 0
    assert_same_files(tmp_path / "original", tmp_path / "back")


def test_what_a_run_fuses_is_split_in_the_files_and_said_to_be(tmp_path: Path) -> None:
    fusions = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
    write_changed("tiny/qwen-7b", tmp_path / "original", **fusions)
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp") == 0
    written = json.loads((tmp_path / "there/config.json").read_text())
    assert {key: written[key] for key in fusions} == dict.fromkeys(fusions, False)


def test_what_is_said_and_what_comes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_random_model("tiny/llama", tmp_path / "original")
    along = ["chat_template.jinja", "generation_config.json", "tokenizer.json"]
    for name in (*along, "trainer_state.json"):
        (tmp_path / "original" / name).write_text("{}")
    arguments = ("--to", "paddlenlp", "--dtype", "bfloat16")
    assert convert(tmp_path / "original", tmp_path / "there", *arguments) == 0
    said = capsys.readouterr().out
    for expected in (f"{config.parameter_count():,} parameters", "PaddleNLP", "as bfloat16"):
        assert expected in said
    names = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert names == sorted([*along, "config.json", "model.safetensors"])
    weights = PublishedWeights(tmp_path / "there", read_model_config(tmp_path / "there"))
    rounded = weights.read("norm.weight", (slice(None),))
    exact = random_tensors(config)["norm.weight"]
    assert 0 < np.abs(rounded - exact).max() < 0.01 * np.abs(exact).max()


def write_with(directory: Path, name: str, value: float, dtype: str = "float32") -> None:
    """Write a random model, one value of which is `value`."""
    config = write_random_model("tiny/llama", directory)
    tensors = random_tensors(config)
    tensors[name].flat[5] = value
    write_weights(tensors.items(), config, directory, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "value", "is_held"),
    [
        ("float16", 1e5, False),
        ("float16", -65520.0, False),
        ("float16", 65519.99, True),
        ("float16", np.inf, True),
        ("float16", np.nan, True),
        ("bfloat16", 3.4e38, False),
        ("bfloat16", 3.39e38, True),
        ("bfloat16", -np.inf, True),
    ],
)
def test_values_that_the_type_cannot_hold_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dtype: str,
    value: float,
    is_held: bool,
) -> None:
    write_with(tmp_path / "original", "head.weight", value)
    (tmp_path / "there").mkdir()
    for place in ("there", "new"):
        arguments = ("--to", "huggingface", "--dtype", dtype)
        status = convert(tmp_path / "original", tmp_path / place, *arguments)
        said = capsys.readouterr().err
        assert status == (0 if is_held else 1), said
        if not is_held:
            assert f"lm_head.weight has values up to {abs(value):.6g} in size" in said
            assert f"{dtype} holds none beyond" in said
    if not is_held:
        assert {path.name for path in tmp_path.iterdir()} == {"original", "there"}
        assert not list((tmp_path / "there").iterdir()), "something is left"


def test_bfloat16_reaches_beyond_float16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_with(tmp_path / "original", "embedding.weight", 2.0**100, "bfloat16")
    arguments = ("--to", "paddlenlp", "--dtype", "float16")
    assert convert(tmp_path / "original", tmp_path / "there", *arguments) == 1
    assert "llama.embed_tokens.weight has values up to 1.26765e+30" in capsys.readouterr().err


def test_linear_weights_are_turned(tmp_path: Path) -> None:
    write_random_model("tiny/llama", tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp")
    theirs = load_file(tmp_path / "there/model.safetensors")
    ours = load_file(tmp_path / "original/model.safetensors")
    name = "layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(theirs[f"llama.{name}"], ours[f"model.{name}"].T)


def test_memory_holds_a_few_tensors_at_most(tmp_path: Path) -> None:
    published = SEEDS["tiny/llama"] | {"num_hidden_layers": 12, "hidden_size": 256}
    config = FAMILIES["llama"].read_config(published, "deep")
    write_weights(random_tensors(config).items(), config, tmp_path / "original")
    tracemalloc.start()
    convert(tmp_path / "original", tmp_path / "there", "--to", "paddlenlp")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensor = 4 * 256 * 256
    assert config.parameter_count() * 4 > 16 * tensor
    assert peak < 6 * tensor


def test_unusable_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_random_model("tiny/llama", tmp_path / "original")
    assert convert(tmp_path / "original", tmp_path / "there") == 2
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "onnx") == 2
    capsys.readouterr()
    assert convert(tmp_path / "original", tmp_path / "original", "--to", "huggingface") == 1
    assert "is not an empty directory" in capsys.readouterr().err
    assert convert(tmp_path / "nothing", tmp_path / "there", "--to", "huggingface") == 1
    assert "nothing" in capsys.readouterr().err
    (tmp_path / "original/model.safetensors").unlink()
    assert convert(tmp_path / "original", tmp_path / "there", "--to", "huggingface") == 1
    assert "holds none of model.safetensors" in capsys.readouterr().err
    assert convert(tmp_path / "original", tmp_path / "there", "--help") == 0


def test_paddle_is_not_needed(tmp_path: Path) -> None:
    write_random_model("tiny/llama", tmp_path / "original")
    arguments = ["convert", str(tmp_path / "original"), str(tmp_path / "there")]
    script = (
        "import sys; from llm_pretrain.cli import main; "
        f"assert main({[*arguments, '--to', 'paddlenlp']}) == 0; "
        "assert 'paddle' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
