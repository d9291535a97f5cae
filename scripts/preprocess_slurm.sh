#!/usr/bin/env bash
# A corpus in parts under Slurm: an array of jobs, each of which does one part, and a job that joins
# them when all are done.
#
#   scripts/preprocess_slurm.sh 8 --model_name_or_path … --input_path … --output_prefix …
#
# The arguments after the number of parts are those of `llm-pretrain preprocess`; all nodes must see
# inputs and output. SBATCH_OPTIONS are further words for both, such as "--partition cpu --time 4:00:00".
# A part that failed is done again, and the rest left as it is, by the same command once more.
# PYTHON names the interpreter; .venv/bin/python is taken where there is one.
set -euo pipefail

parts=$1
shift
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
command=$(printf '%q ' "$PYTHON" -m llm_pretrain preprocess "$@")
read -ra options <<< "${SBATCH_OPTIONS:-}"

array=$(sbatch --parsable --job-name=preprocess --array="1-$parts" --requeue \
    ${options[@]+"${options[@]}"} --wrap "$command--part \$SLURM_ARRAY_TASK_ID/$parts")
sbatch --job-name=join_parts --dependency="afterok:${array%%;*}" --kill-on-invalid-dep=yes \
    ${options[@]+"${options[@]}"} --wrap "$command--join_parts $parts"
