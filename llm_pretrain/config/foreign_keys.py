"""Keys of PaddleNLP and PaddleFormers that are no arguments here, and what becomes of each."""

from __future__ import annotations

from typing import Any

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
"""Other spellings of keys: older ones of PaddleNLP's, and PaddleFormers'."""

INERT: dict[str, str] = {
    key: reason
    for reason, keys in {
        "the family is read from the model's config.json": "model_type use_huggingface_model",
        "the model's config is read from model_name_or_path": "config_name",
        "use_fused_rms_norm chooses for both kinds of norm": "use_fast_layer_norm",
        "the fastest operator that works on the machine is chosen at start-up": (
            "use_fused_linear use_fused_dropout_add fused_linear fused_linear_param_grad_add "
            "enable_linear_fused_grad_add fuse_linear fuse_swiglu fuse_softmax_mask "
            "fuse_gate_detach_matmul"
        ),
        "logits always stay split over the vocabulary until the loss": "tensor_parallel_output",
        "ranks come from the launcher": "tensor_parallel_rank local_rank",
        "samples are full, so nothing is padded": "pad_token_id",
        "use_flash_attention chooses; attention has the same values by any operator": (
            "_attn_implementation attn_impl attn_implementation fa_version use_mem_eff_attn "
            "use_flash_attn_with_mask use_sparse_flash_attn use_attn_mask_startend_row_indices"
        ),
        "every token of a sample is predicted": (
            "use_sparse_head_and_loss_fn use_filtered_label_loss"
        ),
        "use_fused_linear_cross_entropy computes the loss in slices of the vocabulary": (
            "loss_subbatch_seqlen loss_subbatch_sequence_length use_recompute_loss_fn"
        ),
        "continue_training says whether weights are read": "from_scratch",
        "the model's config.json says it, and max_seq_length is made room": (
            "max_position_embeddings"
        ),
        "the model's config.json says it": (
            "bos_token_id eos_token_id position_embedding_type gated_linear_unit normalization "
            "no_rope_freq rope_3d"
        ),
        "the format of activations follows fp16 and bf16": "fp32_residual_connection",
        "initializer_range is of all random weights": "embedding_init_method_std",
        "models are read from directories only": "download_hub",
        "weights are read in either layout, and saved in Hugging Face's": (
            "convert_from_hf load_from_hf save_safetensors"
        ),
        "a decoder in training has no past states": "use_cache past_index",
        "data are .bin and .idx files": (
            "train_dataset_type eval_dataset_type dataset_batch_size dataset_kwargs "
            "dataset_text_field dataset_output_dir make_offline_data pretokenized_dataset "
            "pretokenized_pad_token_id"
        ),
        "evaluation takes the second share of split, or eval_data": (
            "eval_dataset_path eval_dataset_prob"
        ),
        "input_dir names the data": "offline_dataset_path dataset_name",
        "pretraining reads plain text, without chats": (
            "processor_use_fast num_comparisons use_cls template template_backend use_template "
            "encode_one_turn split_multi_turn"
        ),
        "samples are cut from one stream of tokens, so they are always full": (
            "packing padding_free binpacking greedy_intokens in_tokens_batching "
            "packing_interval packed_idx_cache_dir truncate_packing truncation_strategy "
            "buffer_size max_prompt_len mask_out_eos_token"
        ),
        "data are mixed by the weights in input_dir": "mix_strategy",
        "samples are always shuffled, by seed": "random_shuffle dataloader_shuffle",
        "the length of pretraining is max_steps": "num_samples_each_epoch num_train_epochs",
        "input_dir names the data, whose index is made once": "dataset_num_proc",
        "dataloader_num_workers reads ahead": "prefetch_factor",
        "files are memory-mapped and the system reads ahead by itself": (
            "warmup_only_rank0 skip_warmup"
        ),
        "evaluation only computes the loss": "eval_with_do_generation prediction_loss_only",
        "samples are always cut when they are asked for": "lazy_data_processing",
        "the data are cut into exactly the batches that the steps take": "dataloader_drop_last",
        "samples are cut from the token stream, so there are no columns or labels to name": (
            "remove_unused_columns label_names"
        ),
        "it belongs to the sep axis, which splits its inputs itself": "split_inputs_sequence_dim",
        "the trained model is saved in Hugging Face's layout, which needs no export": "do_export",
        "benchmarks/train_step.py measures the speed of a step": "autotuner_benchmark benchmark",
        "device cpu says so": "no_cuda",
        "a run is known by its output_dir": "run_name",
        "the degrees say how work is spread over processes": "parallel_mode",
        "per_device_train_batch_size is the key of it": "batch_size",
        "FLAGS_cudnn_deterministic in the environment does it": "deterministic_mode",
        "step times and memory are always in train_log.jsonl": (
            "profile profile_step_start profile_step_end skip_memory_metrics skip_profile_timer"
        ),
        "the memory of a run is the same from its first step on": "pre_alloc_memory gc_interval",
        "groups of processes are made from the degrees alone": "nccl_comm_group_config",
        "there is one engine, dynamic graphs over Fleet": (
            "to_static enable_auto_parallel use_intermediate_api "
            "auto_parallel_resume_form_hybrid_parallel fuse_allreduce_split_to_reducescatter "
            "eliminate_transpose refined_ops_patterns load_model_with_sharding_tensor_fusion "
            "save_model_with_sharding_tensor_fusion job_schedule_profiler_start "
            "job_schedule_profiler_end sharding_parallel_mesh_dimension"
        ),
        "its options are those of another engine": "data_parallel_config sequence_parallel_config",
        "losses are divided, then gradients are summed": (
            "dp_allreduce_avg_in_gradinent_scale sp_allreduce_avg_in_gradinent_scale"
        ),
        "gradients are always reduced once, after the last micro-step": (
            "gradient_sync_after_accumulate"
        ),
        "the optimizer is AdamW": (
            "muon_exclude_patterns muon_qkv_update_mode muon_ffn_split muon_extra_scale_factor "
            "muon_momentum muon_version muon_ns_steps muon_ns_coeff_type muon_ns_coeffs "
            "muon_use_symmetric_gemm sharding_comm_group_call_opt "
            "sharding_machine_balanced_2d_partition"
        ),
        "no noise is added to embeddings": "neftune_noise_alpha",
        "all weights are trained, without adapters beside them": (
            "lora_rank lora_alpha lora_plus_scale lora_use_mixer rslora rslora_plus "
            "use_quick_lora use_mora"
        ),
        "weights are trained in 16 or 32 bits": "fp8_wgrad",
        "lr_scheduler_type is the key of it": "lr_scheduler",
        "lr_scheduler_type and decay_type say it, with min_learning_rate as the floor": (
            "decay_function lr_end power"
        ),
        "the optimizer's state stays on the device": (
            "tensorwise_offload_optimizer sharding_offload_opt_buffersize_GB offload_optim"
        ),
        "sharding says how the optimizer's state is split": "optim_shard_num",
        "the norm of the gradients is summed over all ranks at once": "split_norm_comm",
        "it is for another kind of device": "flatten_param_grads",
        "norms, softmax and the loss compute in fp32, the rest in 16 bits": (
            "amp_custom_black_list amp_custom_white_list"
        ),
        "evaluation has the precision of training": "fp16_full_eval bf16_full_eval",
        "stages are cut between blocks, as equal as can be": (
            "virtual_pipeline_seg_method pp_seg_method num_layers_in_first_pipeline_stage "
            "num_layers_in_last_pipeline_stage add_tail_layers"
        ),
        "the schedule is the same in all steps": "disable_pipeline_warmup",
        "hybrid_parallel_topo_order says the order of ranks": "reorder_pipeline_priority",
        "all samples of a run have one length": "variable_seq_lengths dynamic_shape",
        "distributed_dataloader says which ranks read": "pp_need_data pp_need_data_degree",
        "context_parallel_degree passes keys round a ring": "cp_comm_type",
        "context_parallel_degree gives each rank two parts of a sequence": "cp_balance_mode",
        "always on: gradients are summed in flat buffers": (
            "use_sp_callback fuse_sequence_parallel_allreduce"
        ),
        "a trained model is saved whole, for any number of devices": "server_tp_degree",
        "every parameter is used in every step": "ddp_find_unused_parameters",
        "there are no mixture-of-experts models here": (
            "use_expert_parallel expert_parallel_degree expert_tensor_parallel_degree "
            "expert_max_capacity expert_min_capacity hybrid_parallel_expert_grad_scale "
            "router_aux_loss_coef router_z_loss_coef use_unified_moe using_fake_gate "
            "using_sonic_moe ep_communication_type moe_group moe_group_experts moe_gate "
            "moe_gate_lr_ratio moe_dropout_prob moe_aux_loss_lambda moe_orthogonal_loss_lambda "
            "moe_z_loss_lambda moe_use_hard_gate moe_use_aux_free moe_use_aux_free_update_coef "
            "moe_with_send_router_loss moe_multimodal_dispatch_use_allgather "
            "moe_subbatch_token_num_before_dispatch moe_subbatch_token_num_after_dispatch "
            "moe_deepep_num_sms moe_token_dispatcher_type moe_token_drop_policy "
            "moe_pad_expert_input_to_capacity moe_expert_capacity_factor moe_expert_fusion "
            "moe_router_fusion moe_router_force_load_balancing moe_router_load_balancing_type "
            "moe_router_bias_update_rate moe_router_enable_expert_bias "
            "moe_shared_expert_overlap moe_dequant_input moe_grouped_gemm use_recompute_moe "
            "offload_fp8_expert_master_weight use_ortho_loss_callback"
        ),
        "a model predicts the next token alone": (
            "enable_mtp_magic_send mtp_loss_scaling_factor multi_token_pred_lambda "
            "recompute_mtp_granularity recompute_mtp_method recompute_mtp_modules "
            "use_recompute_mtp"
        ),
        "recompute gives the same gradients either way": "recompute_use_reentrant",
        "recompute_granularity and no_recompute_layers say what is computed again": (
            "refined_recompute"
        ),
        "no_recompute_layers says which layers are not computed again": "sr",
        "no_recompute_layers and pp_recompute_interval say which layers are computed again": (
            "recompute_num_layers"
        ),
        "recompute_granularity says what is computed again": "recompute_modules",
        "inputs of recomputed blocks stay on the device": "offload_recompute_inputs",
        "evaluation keeps only sums of losses, which take no memory": "eval_accumulation_steps",
        "load_best_model_at_end compares the evaluation loss": "metric_for_best_model",
        "load_best_model_at_end compares the evaluation loss, lower is better": "greater_is_better",
        "eval_iters is the number of batches of an evaluation": "max_evaluate_steps",
        "rank 0 reports for the job": "log_on_each_node",
        "all metrics are in output_dir/train_log.jsonl": (
            "metrics_output_path enable_global_training_logs"
        ),
        "consumed_samples is in train_log.jsonl": "count_trained_tokens",
        "the trackers' own variables (WANDB_API_KEY, HTTPS_PROXY, …) say it": (
            "wandb_api_key wandb_http_proxy"
        ),
        "the norm of the gradients is always in train_log.jsonl": (
            "log_global_grad_norm record_optimizer_stat"
        ),
        "logging_steps is the number of steps between reports": "global_logging_interval",
        "a checkpoint is whole or not there, so no signal is needed": "output_signal_dir",
        "every rank writes its own part of a checkpoint": (
            "save_on_each_node replicate_saved_into_local"
        ),
        "checkpoints do not depend on the layout, so there is one kind, read at any layout": (
            "unified_checkpoint unified_checkpoint_config save_sharded_model load_sharded_model "
            "force_reshard_pp save_sharding_stage1_model_include_freeze_params "
            "save_checkpoint_format load_checkpoint_format save_flex_checkpoint "
            "load_flex_checkpoint flex_ckpt_comm_method aoa_config load_via_cpu "
            "load_sharded_model_remap_parameter_name"
        ),
        "checkpoints keep full precision, so that resuming is exact": (
            "ckpt_quant_stage disable_ckpt_quant"
        ),
        "every checkpoint holds the weights in Hugging Face's layout": (
            "save_hf_steps save_hf_total_limit"
        ),
        "weights are written one tensor at a time": "save_hf_memory_growth_threshold",
        "a tokenizer always goes along with the weights": "save_tokenizer",
        "a checkpoint always holds all that an exact resume needs": (
            "save_rng_states ignore_save_lr_and_optim"
        ),
        "the last step is saved where save_strategy is not 'no'": "save_last_step",
        "a resumed run goes on with the data where it stood": "same_data",
        "a step begins when the checkpoint is safe on disk": (
            "enable_zero_cost_checkpoint use_flex_async_save flash_device_save_steps "
            "zcc_workers_num zcc_pipeline_hooks_capacity_usage"
        ),
        "no moving average of the weights is kept": (
            "zcc_save_ema_coef zcc_ema_interval zcc_ema_loss_threshold online_merge_ema "
            "sharded_model_from_ema"
        ),
        "ranks write their own files, without an order": "ordered_save_group_size",
        "a resumed run keeps its optimizer; to begin afresh from weights, use continue_training": (
            "ignore_load_lr_and_optim"
        ),
        "checkpoints are read from directories only": "pdc_download_ckpt pdc_download_timeout",
    }.items()
    for key in keys.split()
}
"""Keys of PaddleNLP and PaddleFormers that have no effect here, each with the reason.

It completes the sentence "KEY has no effect here: …".
"""

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
