#!/usr/bin/env bash
# A job over several nodes under Slurm: one launcher per node, one process per GPU.
#
#   sbatch --nodes 4 scripts/slurm.sh CONFIG.json [--key value …]
#
# Submit it from the repository's root, which every node must see. Options of sbatch given on its
# command line win over the lines below. PYTHON names the interpreter; .venv/bin/python is taken
# where there is one.
#SBATCH --job-name=llm_pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
export PYTHON
# The launcher takes all GPUs of its node, and stops where this variable is empty.
if [ -z "${CUDA_VISIBLE_DEVICES:-}" ]; then unset CUDA_VISIBLE_DEVICES; fi

# Not piped into `head`, whose early end would fail the pipe.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export FIRST_HOST=${hosts%%$'\n'*}

# The inner shell's variables are those of each node.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 --cpu-bind=none bash -c '
    exec "$PYTHON" scripts/launch_node.py "$SLURM_NNODES" "$SLURM_NODEID" "$FIRST_HOST" \
        --log_dir "log/$SLURM_JOB_ID/node-$SLURM_NODEID" run_pretrain.py "$@"
' launch_node "$@"
