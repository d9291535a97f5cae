# Each target does all its own set-up, in virtual environments beside this file.
# Needs Python 3.10 to 3.12 with pip, and a C++ compiler.

PYTHON ?= $(shell for version in 3.12 3.11 3.10; do \
	python$$version -c 'import sys, venv' >/dev/null 2>&1 && command -v python$$version && exit; \
	done; command -v python3 || command -v python)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
# Modules are compiled when they are first imported (most never are), and what that gives is kept
# even where the environment says otherwise: importing Paddle takes three times as long without.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

# pip installs while the operators are compiled, and Paddle's modules while data is made.
ifeq ($(filter-out setup ops demo,$(MAKECMDGOALS)),)
MAKEFLAGS += --jobs=3
endif

.PHONY: setup ops peers lint demo demo-data test test-all capabilities structure storm bench lock \
	gpu-build gpu-test gpu-bench emulated-device

setup: .venv/ready
peers: .venv-transformers/ready .venv-paddlenlp/ready .venv-trackers/ready

.venv/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit(\
	"Python 3.10 to 3.12 is needed, and %s is %d.%d: make PYTHON=..." % ((sys.executable,) + v))'
	$(PYTHON) -m venv .venv
	@touch $@

# What a training needs, of the locked versions; then what checks and tests need besides.
.venv/ready: .venv/made requirements/main.txt pyproject.toml
	$(BIN)/python $(INSTALL) --constraint requirements/main.txt --editable ".[cpu]"
	@touch $@
.venv/dev: .venv/ready
	$(BIN)/python $(INSTALL) --requirement requirements/main.txt
	@touch $@

# The operators in C++ (external_ops), built anew where a source has changed.
OPS := $(wildcard external_ops/csrc/cpu/*) $(wildcard external_ops/*.py) external_ops/pyproject.toml
ops: .venv/ops
# What is compiled makes way for pip, which everything else waits for.
.venv/wheel: .venv/made $(OPS)
	nice $(BIN)/python external_ops/compile_cpu.py
	@rm -rf $@
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $@ ./external_ops
.venv/ops: .venv/ready .venv/wheel
	$(BIN)/python $(INSTALL) --no-deps --force-reinstall .venv/wheel/*.whl
	@touch $@

# The emulated accelerator of the tests, which also build it where it is missing.
emulated-device: .venv/ready
	nice $(BIN)/python -m tests.emulated_device.compile_plugin

# The programs that the tests compare with or report to, each in an environment of its own.
.venv-%/ready: requirements/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(INSTALL) --requirement $<
	@touch $@

# make demo ARGS="--max_steps 100" hands arguments to the training.
COMPILER := $(shell command -v $(CXX) 2>/dev/null)
demo: demo-data .venv/imported $(if $(COMPILER),ops)
	@$(if $(COMPILER),,echo "No C++ compiler ($(CXX)): the demo runs on Paddle's own operators.")
	$(BIN)/python -m llm_pretrain.cli.demo $(ARGS)
demo-data: .venv/ready
	@$(BIN)/python -m llm_pretrain.cli.demo.data
.venv/imported: .venv/ready
	@$(BIN)/python -c 'import llm_pretrain.training.run, paddle.distributed.launch.main'
	@touch $@

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck $(wildcard scripts/*.sh) requirements/lock.sh .ci/run

test: lint ops peers
	$(PYTEST) -m "not slow"

test-all: lint ops peers
	$(PYTEST)
	$(BIN)/python -m tests.parity.capabilities

# Runs the whole grid of layouts, on the emulated accelerator too, and writes
# docs/capabilities.md from what passed.
capabilities: .venv/dev
	rm -rf output/parity
	$(BIN)/python -m pytest tests/parity/test_layouts.py tests/emulated_device/test_training_on_device.py
	$(BIN)/python -m tests.parity.capabilities

# A thousand faults on running jobs, an hour of one job with a fault every minute, and docs/faults.md
# from what became of them.
storm: .venv/dev
	$(BIN)/python -m tests.faults.storm $(ARGS)
	$(BIN)/python -m tests.faults.soak
	$(BIN)/python -m tests.faults.report

bench: .venv/dev peers
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/ops.py
	$(BIN)/python benchmarks/data.py

lock:
	requirements/lock.sh

# The CUDA kernels: compiled, checked and timed.
gpu-build gpu-test gpu-bench:
	$(MAKE) --file external_ops/cuda.mk $@

# The package in figures: files, lines, the largest, the files of a training step.
structure: .venv/dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.structure
