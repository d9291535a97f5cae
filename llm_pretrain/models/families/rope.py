"""Rotary embedding in a published config.json, in three spellings.

Older: "rope_theta" and "rope_scaling" {"type" or "rope_type", "factor", …} at the top level.
Present: "rope_parameters" {"rope_type", "rope_theta", "factor", …}.
PaddleNLP's: "rope_theta", "rope_scaling_type" and "rope_scaling_factor" at the top level.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from llm_pretrain.config.model_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rope,
    RopeScaling,
    YarnScaling,
)
from llm_pretrain.models.families.fields import Fields

SCALING_NAMES: dict[type[RopeScaling], str] = {
    LinearScaling: "linear",
    DynamicScaling: "dynamic",
    Llama3Scaling: "llama3",
    YarnScaling: "yarn",
}


def read_rope(fields: Fields, max_position_embeddings: int, head_dim: int) -> Rope:
    """The rotary embedding that a config.json describes; problems go to `fields`."""
    rope = _read_object(fields, max_position_embeddings)
    if not fields.has("rope_scaling_type"):
        return rope
    # To PaddleNLP this object counts before its own keys if it is of the type llama3.
    if fields.has("rope_scaling") and isinstance(rope.scaling, Llama3Scaling):
        return rope
    return _read_paddlenlp(fields, rope, head_dim)


def _read_object(fields: Fields, max_position_embeddings: int) -> Rope:
    theta = read_theta(fields)
    # The older key wins where both stand, as it does for transformers.
    key = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    values = fields.values.get(key)
    if not values:
        return Rope(theta)
    if not isinstance(values, dict):
        fields.problem(key, f"{values!r} is not an object")
        return Rope(theta)
    inner = Fields(values, fields.source, inside=f"{key}.", problems=fields.problems)
    inner.require_supported({"partial_rotary_factor": (1, None)})
    return Rope(read_theta(inner, default=theta), _read_scaling(inner, max_position_embeddings))


def read_theta(fields: Fields, key: str = "rope_theta", default: float = 10000.0) -> float:
    """The base of the angles."""
    theta = fields.number(key, default)
    if theta <= 1:
        fields.problem(key, f"{theta} is not above 1")
        return default
    return theta


def _read_scaling(fields: Fields, max_position_embeddings: int) -> RopeScaling | None:
    kind = fields.values.get("rope_type") or fields.values.get("type") or "default"
    if kind == "default":
        return None
    if kind not in SCALING_NAMES.values():
        fields.problem(
            "rope_type",
            f"{kind!r} is not supported; this program computes default, "
            + ", ".join(SCALING_NAMES.values()),
        )
        return None
    factor = _read_factor(fields, "factor")
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "dynamic":
        return DynamicScaling(factor)
    original = fields.positive_integer("original_max_position_embeddings", max_position_embeddings)
    if kind == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if not 0 < low < high:
            fields.problem("low_freq_factor", f"{low} must lie between 0 and high_freq_factor")
        return Llama3Scaling(factor, low, high, original)
    beta_fast, beta_slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    if not 0 < beta_slow <= beta_fast:
        fields.problem("beta_slow", f"{beta_slow} must lie between 0 and beta_fast")
    return YarnScaling(
        factor,
        original,
        attention_factor=fields.optional_number("attention_factor"),
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        mscale=fields.optional_number("mscale"),
        mscale_all_dim=fields.optional_number("mscale_all_dim"),
        truncate=fields.flag("truncate", True),
    )


def _read_paddlenlp(fields: Fields, rope: Rope, head_dim: int) -> Rope:
    """What PaddleNLP's keys make of `rope`, which the others describe."""
    kind = fields.values["rope_scaling_type"]
    factor = _read_factor(fields, "rope_scaling_factor", 1.0)
    # bloc97's NTK-aware scaling. The only pair of a head of two turns alike, whatever the base.
    larger_base = rope.theta * factor ** (head_dim / max(head_dim - 2, 1))
    known = {
        "linear": replace(rope, scaling=LinearScaling(factor)),
        "ntk": Rope(larger_base),
        "dynamic_ntk": replace(rope, scaling=DynamicScaling(factor)),
    }
    if kind not in tuple(known):
        fields.problem("rope_scaling_type", f"{kind!r} is none of {', '.join(known)}")
        return rope
    if rope.scaling is not None and rope != known[kind]:
        fields.problem(
            "rope_scaling_type",
            f"{kind!r} by {factor} is not what rope_scaling or rope_parameters says",
        )
    return known[kind]


def _read_factor(fields: Fields, key: str, default: float | None = None) -> float:
    factor = fields.number(key, default)
    if factor < 1:
        fields.problem(key, f"{factor} is below 1")
    return factor


def write_rope(rope: Rope) -> dict[str, Any]:
    """Keys for a config.json, in Hugging Face's spellings, the older and the present one."""
    scaling: dict[str, Any] = {"rope_type": "default"}
    if rope.scaling is not None:
        values = {key: value for key, value in asdict(rope.scaling).items() if value is not None}
        scaling = {"rope_type": SCALING_NAMES[type(rope.scaling)], **values}
    return {
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.scaling is None else scaling,
        "rope_parameters": {"rope_theta": rope.theta, **scaling},
    }
