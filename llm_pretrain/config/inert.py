"""Keys that PaddleNLP has and this program accepts without effect, each with the reason.

The reason completes the sentence "KEY has no effect here: …".
"""

from __future__ import annotations

_FASTEST = "the fastest operator that works on the machine is chosen at start-up"
_ANY_LAYOUT = "checkpoints do not depend on the layout, so there is one kind, read at any layout"
_NO_EXPERTS = "there are no mixture-of-experts models here"
_ONE_ENGINE = "there is one engine, dynamic graphs over Fleet"
_LENGTH = "the length of pretraining is max_steps"
_COLLATED = "samples are cut from the token stream, so there are no columns or labels to name"
_SCHEDULES = "the schedules are linear and cosine, with min_learning_rate as the floor"
_PROFILING = "step times and memory are always in train_log.jsonl"

INERT: dict[str, str] = {
    # Model
    "model_type": "the family is read from the model's config.json",
    "config_name": "the model's config is read from model_name_or_path",
    "use_fast_layer_norm": "use_fused_rms_norm chooses for both kinds of norm",
    "use_fused_linear": _FASTEST,
    "use_fused_dropout_add": _FASTEST,
    "fused_linear": _FASTEST,
    "fused_linear_param_grad_add": _FASTEST,
    "enable_linear_fused_grad_add": _FASTEST,
    "tensor_parallel_output": "logits always stay split over the vocabulary until the loss",
    "tensor_parallel_rank": "ranks come from the launcher",
    "pad_token_id": "samples are full, so nothing is padded",
    # Data
    "skip_warmup": "files are memory-mapped and the system reads ahead by itself",
    "lazy_data_processing": "samples are always cut when they are asked for",
    "dataloader_drop_last": "the data are cut into exactly the batches that the steps take",
    "remove_unused_columns": _COLLATED,
    "label_names": _COLLATED,
    "split_inputs_sequence_dim": "it belongs to the sep axis, which splits its inputs itself",
    # Run
    "do_export": "the trained model is saved in Hugging Face's layout, which needs no export",
    "num_train_epochs": _LENGTH,
    "autotuner_benchmark": "benchmarks/train_step.py measures the speed of a step",
    "local_rank": "ranks come from the launcher",
    "no_cuda": "device cpu says so",
    "run_name": "a run is known by its output_dir",
    "past_index": "a decoder in training has no past states",
    "prediction_loss_only": "evaluation only computes the loss",
    "to_static": _ONE_ENGINE,
    "enable_auto_parallel": _ONE_ENGINE,
    "use_intermediate_api": _ONE_ENGINE,
    "auto_parallel_resume_form_hybrid_parallel": _ONE_ENGINE,
    "fuse_allreduce_split_to_reducescatter": _ONE_ENGINE,
    "eliminate_transpose": _ONE_ENGINE,
    "refined_ops_patterns": _ONE_ENGINE,
    "load_model_with_sharding_tensor_fusion": _ONE_ENGINE,
    "save_model_with_sharding_tensor_fusion": _ONE_ENGINE,
    "job_schedule_profiler_start": _ONE_ENGINE,
    "job_schedule_profiler_end": _ONE_ENGINE,
    "data_parallel_config": "its options are those of another engine",
    "sequence_parallel_config": "its options are those of another engine",
    "sharding_parallel_mesh_dimension": _ONE_ENGINE,
    # Optimizer and precision
    "num_cycles": _SCHEDULES,
    "lr_end": _SCHEDULES,
    "power": _SCHEDULES,
    "offload_optim": "the optimizer's state stays on the device",
    "release_grads": "enable_release_grads in sharding_parallel_config does it",
    "flatten_param_grads": "it is for another kind of device",
    "amp_custom_black_list": "norms, softmax and the loss compute in fp32, the rest in 16 bits",
    "amp_custom_white_list": "norms, softmax and the loss compute in fp32, the rest in 16 bits",
    "fp16_full_eval": "evaluation has the precision of training",
    "bf16_full_eval": "evaluation has the precision of training",
    # Parallelism
    "fuse_sequence_parallel_allreduce": "always on: gradients are summed in flat buffers",
    "ddp_find_unused_parameters": "every parameter is used in every step",
    "use_expert_parallel": _NO_EXPERTS,
    "expert_parallel_degree": _NO_EXPERTS,
    "expert_tensor_parallel_degree": _NO_EXPERTS,
    "expert_max_capacity": _NO_EXPERTS,
    "expert_min_capacity": _NO_EXPERTS,
    # Recompute
    "recompute_use_reentrant": "recompute gives the same gradients either way",
    "refined_recompute": "recompute_granularity and no_recompute_layers say what is computed again",
    "offload_recompute_inputs": "inputs of recomputed blocks stay on the device",
    # Evaluation and reports
    "eval_accumulation_steps": "evaluation keeps only sums of losses, which take no memory",
    "metric_for_best_model": "load_best_model_at_end compares the evaluation loss",
    "greater_is_better": "load_best_model_at_end compares the evaluation loss, lower is better",
    "max_evaluate_steps": "eval_iters is the number of batches of an evaluation",
    "log_on_each_node": "rank 0 reports for the job",
    "skip_memory_metrics": _PROFILING,
    "skip_profile_timer": _PROFILING,
    "metrics_output_path": "all metrics are in output_dir/train_log.jsonl",
    "count_trained_tokens": "consumed_samples is in train_log.jsonl",
    "wandb_api_key": "reports go to train_log.jsonl and VisualDL",
    "wandb_http_proxy": "reports go to train_log.jsonl and VisualDL",
    # Checkpoints
    "output_signal_dir": "a checkpoint is whole or not there, so no signal is needed",
    "save_on_each_node": "every rank writes its own part of a checkpoint",
    "unified_checkpoint": _ANY_LAYOUT,
    "unified_checkpoint_config": _ANY_LAYOUT,
    "save_sharded_model": _ANY_LAYOUT,
    "load_sharded_model": _ANY_LAYOUT,
    "force_reshard_pp": _ANY_LAYOUT,
    "save_sharding_stage1_model_include_freeze_params": _ANY_LAYOUT,
    "ckpt_quant_stage": "checkpoints keep full precision, so that resuming is exact",
    "use_async_save": "a step begins when the checkpoint is safe on disk",
    "ordered_save_group_size": "ranks write their own files, without an order",
    "ignore_load_lr_and_optim": "a resumed run keeps its optimizer; to begin afresh from weights, "
    "use continue_training",
    "ignore_save_lr_and_optim": "a checkpoint always holds all that an exact resume needs",
    "pdc_download_ckpt": "checkpoints are read from directories only",
    "pdc_download_timeout": "checkpoints are read from directories only",
}
