"""Other spellings of keys: older ones of PaddleNLP's, and PaddleFormers'."""

from __future__ import annotations

SPELLINGS: dict[str, str] = {
    "sharding_degree": "sharding_parallel_degree",
    "cp_parallel_degree": "context_parallel_degree",
    "rope_fusion_level": "use_fused_rope",
    "max_seq_len": "max_seq_length",
    "eval_strategy": "evaluation_strategy",
    "min_lr": "min_learning_rate",
    "tensor_model_parallel_size": "tensor_parallel_degree",
    "pipeline_model_parallel_size": "pipeline_parallel_degree",
    "virtual_pipeline_model_parallel_size": "virtual_pp_degree",
    "sharding_parallel_size": "sharding_parallel_degree",
    "sep_parallel_size": "sep_parallel_degree",
    "context_parallel_size": "context_parallel_degree",
    "apply_rope_fusion": "use_fused_rope",
    "fuse_rope": "use_fused_rope",
    "fuse_rms_norm": "use_fused_rms_norm",
    "use_fused_head_and_loss_fn": "use_fused_linear_cross_entropy",
    "expert_model_parallel_size": "expert_parallel_degree",
    "expert_tensor_model_parallel_size": "expert_tensor_parallel_degree",
}
