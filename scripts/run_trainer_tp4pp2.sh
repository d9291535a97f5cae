#!/usr/bin/env bash
# LLaMA-7B with tensor parallel 4 and pipeline parallel 2, on 8 GPUs.
# Without GPUs: the same layout rehearsed by 8 CPU processes, with the demo's model and data.
#
#   scripts/run_trainer_tp4pp2.sh [--key value …]
#
# Arguments given here come last, so they count. The output is kept: a second call resumes from
# the last checkpoint in output/llama_hybrid; remove that folder yourself to start anew.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
task_name=llama_hybrid
# The launcher takes all 8 devices, and stops where this variable is empty.
unset CUDA_VISIBLE_DEVICES

arguments=(
    --output_dir "output/$task_name"
    --split "949,50,1"
    --tensor_parallel_degree 4
    --pipeline_parallel_degree 2
    --virtual_pp_degree 1
    --sequence_parallel 0
    --sharding stage1
    --use_flash_attention 1
    --use_fused_rms_norm 0
    --learning_rate 0.00001
    --min_learning_rate 0.000001
    --weight_decay 0.01
    --warmup_ratio 0.01
    --max_grad_norm 1.0
    --dataloader_num_workers 1
    --report_to visualdl
    --disable_tqdm true
    --recompute 1
    --do_train
    --do_eval
)
if nvidia-smi --list-gpus >/dev/null 2>&1; then
    processes=(--gpus "0,1,2,3,4,5,6,7")
    arguments+=(
        --model_name_or_path facebook/llama-7b
        --tokenizer_name_or_path facebook/llama-7b
        --input_dir ./data
        --max_seq_length 2048
        --per_device_train_batch_size 1
        --per_device_eval_batch_size 4
        --gradient_accumulation_steps 4
        --fp16
        --fp16_opt_level O2
        --scale_loss 512
        --max_steps 10000
        --save_steps 5000
        --logging_steps 10
        --eval_steps 1000
        --device gpu
    )
    # Random weights unless the published ones have been downloaded there.
    if [ -d facebook/llama-7b ]; then arguments+=(--continue_training 1); fi
else
    "$PYTHON" -m llm_pretrain.cli.demo.data
    processes=(--nproc_per_node 8)
    arguments+=(
        --model_name_or_path configs/llama/demo_model
        --tokenizer_name_or_path output/demo/tokenizer
        --input_dir output/demo/data
        --max_seq_length 128
        --per_device_train_batch_size 1
        --per_device_eval_batch_size 4
        --gradient_accumulation_steps 4
        --max_steps 20
        --save_steps 10
        --logging_steps 1
        --eval_steps 10
        --device cpu
    )
fi

exec "$PYTHON" -m paddle.distributed.launch --log_level WARNING "${processes[@]}" \
    --log_dir "output/${task_name}_log" run_pretrain.py "${arguments[@]}" "$@"
