"""Keys of PaddleNLP and PaddleFormers that have no effect here, each with the reason.

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
_ATTENTION = "use_flash_attention chooses; attention has the same values by any operator"
_CHUNKED_LOSS = "use_fused_linear_cross_entropy computes the loss in chunks of the vocabulary"
_OF_THE_MODEL = "the model's config.json says it"
_BOTH_LAYOUTS = "weights are read in either layout, and saved in Hugging Face's"
_FILES_SAY = "data are .bin and .idx files"
_SECOND_SHARE = "the samples of an evaluation are of the second share of split"
_STREAM = "samples are cut from one stream of tokens, so they are always full"
_NO_CHATS = "pretraining reads plain text, without chats"
_BETWEEN_BLOCKS = "stages are cut between blocks, as equal as can be"
_MEMORY = "the memory of a run is the same from its first step on"
_SAFE = "a step begins when the checkpoint is safe on disk"
_NO_AVERAGE = "no moving average of the weights is kept"
_PROFILING = "step times and memory are always in train_log.jsonl"
_ADAMW = "the optimizer is AdamW"
_NO_ADAPTERS = "all weights are trained, without adapters beside them"
_PACKING = """
    packing padding_free binpacking greedy_intokens in_tokens_batching packing_interval
    packed_idx_cache_dir truncate_packing truncation_strategy buffer_size max_prompt_len
    mask_out_eos_token
"""
_MUON = """
    exclude_patterns qkv_update_mode ffn_split extra_scale_factor momentum version ns_steps
    ns_coeff_type ns_coeffs use_symmetric_gemm
"""
_LORA = """
    lora_rank lora_alpha lora_plus_scale lora_use_mixer rslora rslora_plus use_quick_lora use_mora
"""
_MOE = """
    group group_experts gate gate_lr_ratio dropout_prob aux_loss_lambda orthogonal_loss_lambda
    z_loss_lambda use_hard_gate use_aux_free use_aux_free_update_coef with_send_router_loss
    multimodal_dispatch_use_allgather subbatch_token_num_before_dispatch
    subbatch_token_num_after_dispatch deepep_num_sms token_dispatcher_type token_drop_policy
    pad_expert_input_to_capacity expert_capacity_factor expert_fusion router_fusion
    router_force_load_balancing router_load_balancing_type router_bias_update_rate
    router_enable_expert_bias shared_expert_overlap dequant_input grouped_gemm
"""

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
    "fuse_linear": _FASTEST,
    "fuse_swiglu": _FASTEST,
    "fuse_softmax_mask": _FASTEST,
    "fuse_gate_detach_matmul": _FASTEST,
    "_attn_implementation": _ATTENTION,
    "attn_impl": _ATTENTION,
    "attn_implementation": _ATTENTION,
    "fa_version": _ATTENTION,
    "use_mem_eff_attn": _ATTENTION,
    "use_flash_attn_with_mask": _ATTENTION,
    "use_sparse_flash_attn": _ATTENTION,
    "use_attn_mask_startend_row_indices": _ATTENTION,
    "use_sparse_head_and_loss_fn": "every token of a sample is predicted",
    "use_filtered_label_loss": "every token of a sample is predicted",
    "loss_subbatch_seqlen": _CHUNKED_LOSS,
    "loss_subbatch_sequence_length": _CHUNKED_LOSS,
    "use_recompute_loss_fn": _CHUNKED_LOSS,
    "from_scratch": "continue_training says whether weights are read",
    "max_position_embeddings": "the model's config.json says it, and max_seq_length is made room",
    "bos_token_id": _OF_THE_MODEL,
    "eos_token_id": _OF_THE_MODEL,
    "position_embedding_type": _OF_THE_MODEL,
    "gated_linear_unit": _OF_THE_MODEL,
    "normalization": _OF_THE_MODEL,
    "no_rope_freq": _OF_THE_MODEL,
    "rope_3d": _OF_THE_MODEL,
    "fp32_residual_connection": "the format of activations follows fp16 and bf16",
    "embedding_init_method_std": "initializer_range is of all random weights",
    "use_huggingface_model": "the family is read from the model's config.json",
    "download_hub": "models are read from directories only",
    "convert_from_hf": _BOTH_LAYOUTS,
    "load_from_hf": _BOTH_LAYOUTS,
    "save_safetensors": _BOTH_LAYOUTS,
    "use_cache": "a decoder in training has no past states",
    # Data
    "train_dataset_type": _FILES_SAY,
    "eval_dataset_type": _FILES_SAY,
    "eval_dataset_path": _SECOND_SHARE,
    "eval_dataset_prob": _SECOND_SHARE,
    "offline_dataset_path": "input_dir names the data",
    "dataset_name": "input_dir names the data",
    "dataset_batch_size": _FILES_SAY,
    "dataset_kwargs": _FILES_SAY,
    "dataset_text_field": _FILES_SAY,
    "dataset_output_dir": _FILES_SAY,
    "make_offline_data": _FILES_SAY,
    "pretokenized_dataset": _FILES_SAY,
    "pretokenized_pad_token_id": _FILES_SAY,
    "processor_use_fast": _NO_CHATS,
    "num_comparisons": _NO_CHATS,
    "use_cls": _NO_CHATS,
    **dict.fromkeys(_PACKING.split(), _STREAM),
    "mix_strategy": "data are mixed by the weights in input_dir",
    "random_shuffle": "samples are always shuffled, by seed",
    "dataloader_shuffle": "samples are always shuffled, by seed",
    "num_samples_each_epoch": _LENGTH,
    "dataset_num_proc": "input_dir names the data, whose index is made once",
    "prefetch_factor": "dataloader_num_workers reads ahead",
    "warmup_only_rank0": "files are memory-mapped and the system reads ahead by itself",
    "template": _NO_CHATS,
    "template_backend": _NO_CHATS,
    "use_template": _NO_CHATS,
    "encode_one_turn": _NO_CHATS,
    "split_multi_turn": _NO_CHATS,
    "eval_with_do_generation": "evaluation only computes the loss",
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
    "parallel_mode": "the degrees say how work is spread over processes",
    "benchmark": "benchmarks/train_step.py measures the speed of a step",
    "batch_size": "per_device_train_batch_size is the key of it",
    "deterministic_mode": "FLAGS_cudnn_deterministic in the environment does it",
    "profile": _PROFILING,
    "profile_step_start": _PROFILING,
    "profile_step_end": _PROFILING,
    "pre_alloc_memory": _MEMORY,
    "gc_interval": _MEMORY,
    "nccl_comm_group_config": "groups of processes are made from the degrees alone",
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
    "dp_allreduce_avg_in_gradinent_scale": "losses are divided, then gradients are summed",
    "sp_allreduce_avg_in_gradinent_scale": "losses are divided, then gradients are summed",
    "gradient_sync_after_accumulate": "gradients are always reduced once, after the last "
    "micro-step",
    # Optimizer and precision
    **{f"muon_{key}": _ADAMW for key in _MUON.split()},
    "sharding_comm_group_call_opt": _ADAMW,
    "sharding_machine_balanced_2d_partition": _ADAMW,
    "neftune_noise_alpha": "no noise is added to embeddings",
    **dict.fromkeys(_LORA.split(), _NO_ADAPTERS),
    "fp8_wgrad": "weights are trained in 16 or 32 bits",
    "lr_scheduler": "lr_scheduler_type is the key of it",
    "decay_function": _SCHEDULES,
    "tensorwise_offload_optimizer": "the optimizer's state stays on the device",
    "sharding_offload_opt_buffersize_GB": "the optimizer's state stays on the device",
    "optim_shard_num": "sharding says how the optimizer's state is split",
    "split_norm_comm": "the norm of the gradients is summed over all ranks at once",
    "num_cycles": _SCHEDULES,
    "lr_end": _SCHEDULES,
    "power": _SCHEDULES,
    "offload_optim": "the optimizer's state stays on the device",
    "flatten_param_grads": "it is for another kind of device",
    "amp_custom_black_list": "norms, softmax and the loss compute in fp32, the rest in 16 bits",
    "amp_custom_white_list": "norms, softmax and the loss compute in fp32, the rest in 16 bits",
    "fp16_full_eval": "evaluation has the precision of training",
    "bf16_full_eval": "evaluation has the precision of training",
    # Parallelism
    "virtual_pipeline_seg_method": _BETWEEN_BLOCKS,
    "pp_seg_method": _BETWEEN_BLOCKS,
    "num_layers_in_first_pipeline_stage": _BETWEEN_BLOCKS,
    "num_layers_in_last_pipeline_stage": _BETWEEN_BLOCKS,
    "add_tail_layers": _BETWEEN_BLOCKS,
    "disable_pipeline_warmup": "the schedule is the same in all steps",
    "reorder_pipeline_priority": "hybrid_parallel_topo_order says the order of ranks",
    "variable_seq_lengths": "all samples of a run have one length",
    "dynamic_shape": "all samples of a run have one length",
    "pp_need_data": "distributed_dataloader says which ranks read",
    "pp_need_data_degree": "distributed_dataloader says which ranks read",
    "cp_comm_type": "context_parallel_degree passes keys round a ring",
    "cp_balance_mode": "context_parallel_degree gives each rank two pieces of a sequence",
    "use_sp_callback": "always on: gradients are summed in flat buffers",
    "server_tp_degree": "a trained model is saved whole, for any number of devices",
    "fuse_sequence_parallel_allreduce": "always on: gradients are summed in flat buffers",
    "ddp_find_unused_parameters": "every parameter is used in every step",
    "use_expert_parallel": _NO_EXPERTS,
    "expert_parallel_degree": _NO_EXPERTS,
    "expert_tensor_parallel_degree": _NO_EXPERTS,
    "expert_max_capacity": _NO_EXPERTS,
    "expert_min_capacity": _NO_EXPERTS,
    "hybrid_parallel_expert_grad_scale": _NO_EXPERTS,
    "router_aux_loss_coef": _NO_EXPERTS,
    "router_z_loss_coef": _NO_EXPERTS,
    "use_unified_moe": _NO_EXPERTS,
    "using_fake_gate": _NO_EXPERTS,
    "using_sonic_moe": _NO_EXPERTS,
    "ep_communication_type": _NO_EXPERTS,
    **{f"moe_{key}": _NO_EXPERTS for key in _MOE.split()},
    "use_recompute_moe": _NO_EXPERTS,
    "offload_fp8_expert_master_weight": _NO_EXPERTS,
    "use_ortho_loss_callback": _NO_EXPERTS,
    "enable_mtp_magic_send": "a model predicts the next token alone",
    "mtp_loss_scaling_factor": "a model predicts the next token alone",
    "multi_token_pred_lambda": "a model predicts the next token alone",
    # Recompute
    "recompute_use_reentrant": "recompute gives the same gradients either way",
    "refined_recompute": "recompute_granularity and no_recompute_layers say what is computed again",
    "sr": "no_recompute_layers says which layers are not computed again",
    "recompute_num_layers": "no_recompute_layers and pp_recompute_interval say which layers are "
    "computed again",
    "recompute_modules": "recompute_granularity says what is computed again",
    "recompute_mtp_granularity": "a model predicts the next token alone",
    "recompute_mtp_method": "a model predicts the next token alone",
    "recompute_mtp_modules": "a model predicts the next token alone",
    "use_recompute_mtp": "a model predicts the next token alone",
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
    "log_global_grad_norm": "the norm of the gradients is always in train_log.jsonl",
    "enable_global_training_logs": "all metrics are in output_dir/train_log.jsonl",
    "global_logging_interval": "logging_steps is the number of steps between reports",
    "record_optimizer_stat": "the norm of the gradients is always in train_log.jsonl",
    "output_signal_dir": "a checkpoint is whole or not there, so no signal is needed",
    "save_on_each_node": "every rank writes its own part of a checkpoint",
    "unified_checkpoint": _ANY_LAYOUT,
    "unified_checkpoint_config": _ANY_LAYOUT,
    "save_sharded_model": _ANY_LAYOUT,
    "load_sharded_model": _ANY_LAYOUT,
    "force_reshard_pp": _ANY_LAYOUT,
    "save_sharding_stage1_model_include_freeze_params": _ANY_LAYOUT,
    "ckpt_quant_stage": "checkpoints keep full precision, so that resuming is exact",
    "save_checkpoint_format": _ANY_LAYOUT,
    "load_checkpoint_format": _ANY_LAYOUT,
    "save_flex_checkpoint": _ANY_LAYOUT,
    "load_flex_checkpoint": _ANY_LAYOUT,
    "flex_ckpt_comm_method": _ANY_LAYOUT,
    "aoa_config": _ANY_LAYOUT,
    "load_via_cpu": _ANY_LAYOUT,
    "load_sharded_model_remap_parameter_name": _ANY_LAYOUT,
    "replicate_saved_into_local": "every rank writes its own part of a checkpoint",
    "save_hf_steps": "every checkpoint holds the weights in Hugging Face's layout",
    "save_hf_total_limit": "every checkpoint holds the weights in Hugging Face's layout",
    "save_hf_memory_growth_threshold": "weights are written one tensor at a time",
    "save_tokenizer": "a tokenizer always goes along with the weights",
    "save_rng_states": "a checkpoint always holds all that an exact resume needs",
    "save_last_step": "the last step is saved where save_strategy is not 'no'",
    "disable_ckpt_quant": "checkpoints keep full precision, so that resuming is exact",
    "same_data": "a resumed run goes on with the data where it stood",
    "enable_zero_cost_checkpoint": _SAFE,
    "use_flex_async_save": _SAFE,
    "flash_device_save_steps": _SAFE,
    "zcc_workers_num": _SAFE,
    "zcc_pipeline_hooks_capacity_usage": _SAFE,
    "zcc_save_ema_coef": _NO_AVERAGE,
    "zcc_ema_interval": _NO_AVERAGE,
    "zcc_ema_loss_threshold": _NO_AVERAGE,
    "online_merge_ema": _NO_AVERAGE,
    "sharded_model_from_ema": _NO_AVERAGE,
    "use_async_save": _SAFE,
    "ordered_save_group_size": "ranks write their own files, without an order",
    "ignore_load_lr_and_optim": "a resumed run keeps its optimizer; to begin afresh from weights, "
    "use continue_training",
    "ignore_save_lr_and_optim": "a checkpoint always holds all that an exact resume needs",
    "pdc_download_ckpt": "checkpoints are read from directories only",
    "pdc_download_timeout": "checkpoints are read from directories only",
}
