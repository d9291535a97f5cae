#!/usr/bin/env bash
# A job over several nodes under Slurm: one `llm-pretrain launch` per node, one process per GPU. A
# process that dies is replaced while the others stay.
#
#   sbatch --nodes 4 scripts/slurm.sh CONFIG.json [--key value …]
#
# Submit it from the repository's root, which every node must see. Options of sbatch given on its
# command line win over the lines below. PYTHON names the interpreter; .venv/bin/python is taken
# where there is one.
#
# A node that fails and a preemption put the job back into the queue, and so does the end of its
# time: five minutes before, the run is told to save and end. Started again it goes on from there.
#SBATCH --job-name=llm_pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
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

is_out_of_time=false
# shellcheck disable=SC2329  # the trap calls it
end_in_time() {
    is_out_of_time=true
    # To the step's processes, not to this script.
    scancel --signal=TERM "$SLURM_JOB_ID" || true
}
trap end_in_time USR1

# The inner shell's variables are those of each node.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --cpu-bind=none bash -c '
    exec "$PYTHON" scripts/launch_node.py "$SLURM_NNODES" "$SLURM_NODEID" "$FIRST_HOST" \
        --log_dir "log/$SLURM_JOB_ID/node-$SLURM_NODEID" "$@"
' launch_node "$@" &
step=$!

status=0
wait "$step" || status=$?
if $is_out_of_time; then
    # The signal has ended the wait, and not the step.
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
