"""Keys of PaddleFormers' that may mean another training, and those whose default is another."""

from __future__ import annotations

from typing import Any

_ALL_WEIGHTS = "all weights are trained, and in every step"
_NEXT_TOKEN = "a model predicts the next token alone"
_NO_EXPERTS = "models are dense, without experts"
_TEXT_ALONE = "models read text alone"
_FORMATS = "weights are trained in 16 or 32 bits, with moments in 32"
_NORMAL = "random weights are of a normal distribution, as wide as initializer_range"

ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "stage": (("PT",), "this program pretrains, and does nothing else"),
    "dataset_type": (
        ("pretrain",),
        "data are .bin and .idx files, which `llm-pretrain preprocess` makes of text",
    ),
    "fine_tuning": (("full",), _ALL_WEIGHTS),
    "lora": ((False,), _ALL_WEIGHTS),
    "lora_path": ((None,), _ALL_WEIGHTS),
    "pissa": ((False,), _ALL_WEIGHTS),
    "freeze_training": ((False,), _ALL_WEIGHTS),
    "freeze_config": (("", None), _ALL_WEIGHTS),
    "train_emb_only": ((False, None), _ALL_WEIGHTS),
    "train_moe_only": ((False, None), _ALL_WEIGHTS),
    "layerwise_lr_decay_bound": ((1,), "all layers have the same learning rate"),
    "neftune": ((False,), "no noise is added to embeddings"),
    "dropout_warmup_steps": ((0,), "dropout is the same in all steps"),
    "adaptive_norm_clip": ((False,), "gradients are scaled down to max_grad_norm"),
    "train_mtp_only": ((False,), _NEXT_TOKEN),
    "num_nextn_predict_layers": ((0, None), _NEXT_TOKEN),
    "mtp_num_layers": ((0, None), _NEXT_TOKEN),
    "mtp_distillation_loss": ((False,), _NEXT_TOKEN),
    "use_moe": ((False, None), _NO_EXPERTS),
    "multimodal": ((False,), _TEXT_ALONE),
    "vision_model_name_or_path": ((None,), _TEXT_ALONE),
    "multi_latent_attention": ((False,), "attention has queries, keys and values of its own"),
    "softmax_type": (("vanilla",), "attention is softmax(QK)V"),
    "softmax_scale": ((None,), "attention is softmax(QK)V, scaled by the size of a head"),
    "use_fp8": ((False,), _FORMATS),
    "fp8": ((False, None), _FORMATS),
    "weight_quantize_algo": ((None,), _FORMATS),
    "use_lowprecision_moment": ((False,), _FORMATS),
    "new_special_tokens_path": ((None,), "a tokenizer's tokens are all in its own files"),
    "custom_register_path": ((None,), "no code is loaded from configurations"),
    "data_filelist": ((None,), "input_dir names the data"),
    "data_weights": ((None,), "input_dir names the data and their weights"),
    "init_method": ((None,), _NORMAL),
    "output_layer_init_method": ((None,), _NORMAL),
    "embedding_init_method": ((None,), _NORMAL),
    "reshard_save_then_exit": ((False,), "`llm-pretrain convert` writes weights anew"),
    "resume_from_huggingface_ckpt": (
        (None,),
        "continue_training begins from weights in model_name_or_path",
    ),
}
"""Keys of which some values say what is done here anyway, and others ask for another training.

By key, the former, and the reason. It completes "no effect here: …" and "is not available: …".
"""

MEANINGS: dict[str, dict[str, tuple[str, Any]]] = {
    "compute_type": {"bf16": ("bf16", True), "fp16": ("fp16", True)},
    "recompute_method": {"uniform": ("recompute", True), "block": ("recompute", True)},
}
"""By key and value, the key and value that say the same here."""

DEFAULTS: dict[str, Any] = {
    "continue_training": True,
    "max_seq_length": 4096,
    "learning_rate": 1e-5,
    "min_learning_rate": 0.0,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "bf16": True,
    "amp_master_grad": True,
}
"""What keys that are left out are in PaddleFormers, where the training differs by it."""

MARKS = frozenset(
    {"stage", "fine_tuning", "dataset_type", "compute_type", "train_dataset_path", "fuse_rms_norm"}
    | {"_attn_implementation", "recompute_method", "apply_rope_fusion", "save_checkpoint_format"}
    | {"tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"}
)
"""Keys by which a configuration is known to be PaddleFormers'."""

DATASET = ("train_dataset_path", "train_dataset_prob")
"""What is read as input_dir."""

_TEXT = (".json", ".jsonl", ".txt", ".parquet", ".csv", ".tsv")


def input_dir(paths: str, shares: str | None) -> str:
    """The input_dir that means train_dataset_path and train_dataset_prob.

    Raises:
        ValueError: the files are text, or there are more or fewer shares than paths.
    """
    prefixes = [path.strip() for path in paths.split(",") if path.strip()]
    texts = [path for path in prefixes if path.endswith(_TEXT)]
    if texts:
        raise ValueError(
            f"{texts[0]} is text: make .bin and .idx files of it with `llm-pretrain preprocess`, "
            "and name them in input_dir"
        )
    if len(prefixes) == 1:
        return prefixes[0]
    weights = str(shares).split(",") if shares else ["1"] * len(prefixes)
    if len(weights) != len(prefixes):
        raise ValueError(
            f"{len(prefixes)} paths, but train_dataset_prob has {len(weights)} shares; give as many"
        )
    return " ".join(
        f"{weight.strip()} {path}" for weight, path in zip(weights, prefixes, strict=True)
    )
