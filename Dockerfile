# An image that trains: this repository at /workspace, with the locked versions.
#
#   docker build --tag llm-pretrain .
#   docker run --rm --volume "$PWD/run:/run-folder" llm-pretrain llm-pretrain check /run-folder/config.json
#
# The user in it has the number 1000, who must be able to write to what is mounted. For GPUs, of
# Paddle's build for CUDA 12.6 (to run it takes `--gpus all` and shared memory, `--ipc host`):
#
#   docker build --build-arg GPU_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/ --tag llm-pretrain .

FROM python:3.11-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends --yes g++ libgomp1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /workspace
COPY pyproject.toml README.md ./
COPY requirements requirements
COPY llm_pretrain llm_pretrain
ARG GPU_INDEX=
RUN if [ -n "$GPU_INDEX" ]; then \
        python -m pip install "paddlepaddle-gpu>=3.3,<3.4" -i "$GPU_INDEX" \
        && python -m pip install --constraint requirements/main.txt ".[preprocess]"; \
    else \
        python -m pip install --constraint requirements/main.txt ".[cpu,preprocess]"; \
    fi
# The operators in C++, as `make ops` builds them.
COPY external_ops external_ops
RUN python external_ops/compile_cpu.py \
    && python -m pip install --no-deps ./external_ops

FROM python:3.11-slim
# Paddle asks for the system's OpenMP when it is imported.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home trainer
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /workspace
COPY --chown=1000 run_pretrain.py ./
COPY --chown=1000 configs configs
COPY --chown=1000 scripts scripts
RUN chown 1000 /workspace
# By number, for clusters that ask whether it is root.
USER 1000
CMD ["llm-pretrain", "--help"]
