"""Small models drawn at random, of every family, within what the family has settings for.

A function that is named as a family draws a case of it; the same seed always gives the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, PADDLENLP
from tests.peers.comparison import Case

Published = dict[str, Any]
Draw = Callable[[Random], Case]


def random_cases(draw: Draw, seeds: Iterable[int]) -> dict[str, Case]:
    """A case per seed, which its name tells; the same number is another draw in another family."""
    cases = {seed: draw(Random(f"{draw.__name__} {seed}")) for seed in seeds}
    return {
        f"random-{seed}": replace(case, seed=seed, tolerance=5e-5) for seed, case in cases.items()
    }


def coin(random: Random) -> bool:
    return random.random() < 0.5


def batch(random: Random, least: int = 4) -> dict[str, int]:
    """Arguments of a case."""
    return {"samples": random.randint(1, 3), "length": random.randint(least, 70)}


def fusion(random: Random) -> Published:
    return {"fuse_attention_qkv": coin(random), "fuse_attention_ffn": coin(random)}


def common(random: Random) -> Published:
    return {
        "vocab_size": random.randint(20, 150),
        "num_hidden_layers": random.randint(1, 4),
        "initializer_range": random.choice([0.02, 0.006]),
    }


def epsilon(random: Random) -> float:
    return random.choice([1e-3, 1e-5, 1e-6, 1e-12])


def equal_heads(random: Random, multiple: int = 1) -> tuple[int, int]:
    """The number of heads, and the size of each: several multiples of a number, or one of four."""
    return random.randint(1, 9), multiple * random.randint(4 // multiple, 16 // multiple)


def llama_like(random: Random, **changes: Any) -> Published:
    """What LLaMA, Qwen2 and Qwen3 of transformers share."""
    key_heads, group, half = random.randint(1, 3), random.randint(1, 4), random.randint(2, 8)
    heads = key_heads * group
    positions = random.randint(8, 90)
    published = {
        **common(random),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "hidden_size": heads * 2 * half,
        "intermediate_size": random.randint(1, 90),
        "max_position_embeddings": positions,
        "rms_norm_eps": epsilon(random),
        "tie_word_embeddings": coin(random),
        **rope(random, positions),
        **changes,
    }
    if coin(random):
        published |= {"head_dim": 2 * half, "hidden_size": heads * random.randint(4, 9)}
    return published


def rope(random: Random, positions: int) -> Published:
    """Rotary embedding of any scaling, in the older spelling or the present one."""
    kind = random.choice(["default", "linear", "dynamic", "llama3", "yarn"])
    scaling = {"rope_type": kind, **SCALINGS[kind](random, positions)}
    if coin(random):
        return {"rope_parameters": {**scaling, "rope_theta": theta(random)}}
    return {"rope_theta": theta(random), "rope_scaling": scaling}


def theta(random: Random) -> float:
    return float(round(10 ** random.uniform(2, 6)))


def factor(random: Random) -> dict[str, float]:
    return {"factor": round(random.uniform(1, 8), 2)}


def llama3(random: Random, positions: int) -> dict[str, float]:
    low = random.uniform(0.5, 2)
    return {
        **factor(random),
        "low_freq_factor": low,
        "high_freq_factor": low + random.uniform(0.5, 4),
        "original_max_position_embeddings": random.randint(4, positions),
    }


def yarn(random: Random, positions: int) -> Published:
    settings: Published = {
        **factor(random),
        "original_max_position_embeddings": random.randint(4, positions),
    }
    if coin(random):
        settings |= {"beta_fast": random.uniform(8, 40), "beta_slow": random.uniform(0.5, 4)}
    if coin(random):
        settings |= {"mscale": random.uniform(0.5, 2), "mscale_all_dim": random.uniform(0.5, 2)}
    elif coin(random):
        settings |= {"attention_factor": random.uniform(0.5, 2)}
    if coin(random):
        settings |= {"truncate": coin(random)}
    return settings


SCALINGS: dict[str, Callable[[Random, int], Published]] = {
    "default": lambda random, positions: {},
    "linear": lambda random, positions: factor(random),
    "dynamic": lambda random, positions: factor(random),
    "llama3": llama3,
    "yarn": yarn,
}


def llama(random: Random) -> Case:
    biases = {"attention_bias": coin(random), "mlp_bias": coin(random)}
    published = llama_like(random, model_type="llama", **biases)
    return Case(published, fusion(random), **batch(random))


def qwen2(random: Random) -> Case:
    if coin(random):
        return Case(llama_like(random, model_type="qwen2"), fusion(random), **batch(random))
    published = llama_like(random, model_type="qwen3", attention_bias=coin(random))
    # Its heads are of 128 where the config does not say.
    heads = published["num_attention_heads"]
    published.setdefault("head_dim", published["hidden_size"] // heads)
    return Case(published, fusion(random), **batch(random))


def gpt2(random: Random) -> Case:
    heads, size = equal_heads(random)
    shape = batch(random)
    published = {
        **common(random),
        "model_type": "gpt2",
        "n_embd": heads * size,
        "n_head": heads,
        "n_inner": random.choice([None, random.randint(1, 90)]),
        "n_positions": shape["length"] + random.randint(0, 30),
        "activation_function": random.choice(["gelu_new", "gelu_pytorch_tanh"]),
        "layer_norm_epsilon": epsilon(random),
        "tie_word_embeddings": coin(random),
        **dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], 0.0),
    }
    published["n_layer"] = published.pop("num_hidden_layers")
    return Case(published, fusion(random), **shape)


def opt(random: Random) -> Case:
    heads, size = equal_heads(random)
    shape = batch(random)
    published = {
        **common(random),
        "model_type": "opt",
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "ffn_dim": random.randint(1, 90),
        "max_position_embeddings": shape["length"] + random.randint(0, 30),
        "enable_bias": coin(random),
        "tie_word_embeddings": coin(random),
        "dropout": 0.0,
        # Theirs keeps the row of a padding token from learning; here a sample has no padding.
        "pad_token_id": None,
    }
    published["init_std"] = published.pop("initializer_range")
    return Case(published, fusion(random), **shape)


def bloom(random: Random) -> Case:
    heads, size = equal_heads(random)
    published = {
        **common(random),
        "model_type": "bloom",
        "hidden_size": heads * size,
        "n_head": heads,
        "layer_norm_epsilon": epsilon(random),
        "tie_word_embeddings": coin(random),
    }
    published["n_layer"] = published.pop("num_hidden_layers")
    return Case(published, fusion(random), **batch(random))


def gpt(random: Random) -> Case:
    heads, size = equal_heads(random)
    shape = batch(random)
    published = {
        **common(random),
        "model_type": "gpt",
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "intermediate_size": random.randint(1, 90),
        "max_position_embeddings": shape["length"] + random.randint(0, 30),
        "hidden_activation": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    chosen = random.choice([HUGGING_FACE, PADDLENLP])
    return Case(published, fusion(random), format=chosen, **shape)


def paddlenlp_llama(random: Random) -> Case:
    """With PaddleNLP's scalings and without what its LLaMA has no setting for."""
    published = llama_like(random, model_type="llama", rope_scaling=None, rope_parameters=None)
    published.pop("head_dim", None)
    heads, size = published["num_attention_heads"], 2 * random.randint(2, 8)
    published |= {"hidden_size": heads * size, "rope_theta": theta(random)}
    shape = batch(random)
    kind = random.choice([None, "linear", "ntk", "dynamic_ntk", "llama3"])
    if kind != "dynamic_ntk":
        # Beyond these, PaddleNLP's reads what lies behind its table.
        published["max_position_embeddings"] = shape["length"] + random.randint(0, 30)
    if kind == "llama3":
        scaling = llama3(random, published["max_position_embeddings"])
        published["rope_scaling"] = {"rope_type": kind, **scaling}
    elif kind is not None:
        published |= {"rope_scaling_type": kind, "rope_scaling_factor": factor(random)["factor"]}
    chosen = random.choice([HUGGING_FACE, PADDLENLP])
    return Case(published, fusion(random), format=chosen, **shape)


def qwen(random: Random) -> Case:
    heads, size = equal_heads(random, multiple=2)
    published = {
        **common(random),
        "model_type": "qwen",
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "kv_channels": size,
        "intermediate_size": 2 * random.randint(1, 45),
        "seq_length": random.randint(8, 90),
        "use_dynamic_ntk": coin(random),
        "use_logn_attn": coin(random),
        "layer_norm_epsilon": epsilon(random),
        "rotary_emb_base": theta(random),
    }
    chosen = random.choice([HUGGING_FACE, PADDLENLP])
    return Case(published, fusion(random), format=chosen, **batch(random))


def baichuan(random: Random) -> Case:
    """Baichuan 1: of 7B, with rotation, or of 13B, with linear biases."""
    is_turned = coin(random)
    heads, size = equal_heads(random, multiple=2 if is_turned else 1)
    published = {
        **common(random),
        "model_type": "baichuan",
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "intermediate_size": random.randint(1, 90),
        "rms_norm_eps": epsilon(random),
        "max_position_embeddings" if is_turned else "model_max_length": 128,
    }
    return Case(published, fusion(random), format=PADDLENLP, **batch(random))


def baichuan2(random: Random) -> Case:
    """Either Baichuan."""
    case = baichuan(random)
    is_second = {"z_loss_weight": 0} if coin(random) else {}
    return replace(case, published=case.published | is_second, format=HUGGING_FACE)


def chatglm(random: Random) -> Case:
    case = glm_130b(random, multiple=4)
    changes = {"activation": "gelu", "position_encoding_2d": True}
    published = {**case.published, **changes, "shrink_embedding_gradient_alpha": 1.0}
    return replace(case, published=published, format=PADDLENLP)


def glm_130b(random: Random, multiple: int = 2) -> Case:
    heads, size = equal_heads(random, multiple)
    sizes = common(random)
    tokens = random.sample(range(sizes["vocab_size"]), 4)
    names = ("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id")
    published = {
        **sizes,
        **dict(zip(names, tokens, strict=True)),
        "model_type": "chatglm",
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "inner_hidden_size": random.randint(1, 90),
        "max_sequence_length": 128,
        "layernorm_epsilon": epsilon(random),
        "activation": "geglu",
        "position_encoding_2d": False,
        "shrink_embedding_gradient_alpha": round(random.uniform(0.01, 1), 2),
        "gpt_prob": random.choice([0.0, 0.5, 1.0]),
    }
    published["num_layers"] = published.pop("num_hidden_layers")
    return Case(published, fusion(random), **batch(random, least=16))


def chatglm2(random: Random) -> Case:
    groups, size = random.randint(1, 3), 4 * random.randint(1, 4)
    heads = groups * random.randint(1, 4)
    published = {
        **common(random),
        "model_type": "chatglm_v2",
        "hidden_size": heads * size,
        "ffn_hidden_size": random.randint(1, 90),
        "num_attention_heads": heads,
        "kv_channels": size,
        "multi_query_group_num": groups,
        "seq_length": 128,
        "layernorm_epsilon": epsilon(random),
        "add_qkv_bias": coin(random),
        "add_bias_linear": coin(random),
    }
    published["padded_vocab_size"] = published.pop("vocab_size")
    published["num_layers"] = published.pop("num_hidden_layers")
    return Case(published, fusion(random), format=PADDLENLP, **batch(random))
