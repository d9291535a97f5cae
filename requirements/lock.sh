#!/usr/bin/env bash
# Writes the four locks again, for Python 3.10 to 3.12 at once. Needs `uv`.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { # NAME, then arguments of `uv pip compile`
    local name=$1
    shift
    uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-header \
        --no-annotate --output-file "requirements/$name.txt" "$@"
    sed -i "1i # Made by requirements/lock.sh; edit its sources and run it again." \
        "requirements/$name.txt"
}

lock main pyproject.toml --extra cpu --extra dev --extra preprocess
lock paddlenlp pyproject.toml --extra paddlenlp --constraints requirements/paddlenlp.constraints
lock trackers pyproject.toml --extra tensorboard --extra wandb --extra mlflow --extra swanlab \
    --extra ray
# PyTorch's CPU build serves the tests: what its CUDA build adds is left to pip.
lock transformers requirements/transformers.in
sed -i -E '/^(nvidia-|cuda-|triton==)/d' requirements/transformers.txt
