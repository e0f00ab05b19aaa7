# Two commands do everything on a machine with only Python >= 3.11 and make: `make train` and `make test`.
# Each Python version has a virtual environment of its own, and the versions it pins are in constraints/.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')
VENV ?= $(if $(filter file,$(origin PYTHON)),.venv,.venv-py$(VERSION))
BIN := $(VENV)/bin
CONSTRAINTS := $(firstword $(wildcard constraints/py$(VERSION).txt) constraints/py312.txt)
EXTRAS ?= dev
CONFIG ?= configs/tiny.py
WORKDIR ?= runs/tiny

.PHONY: train test check lint types format clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

train: $(VENV)/ready  ## train configs/tiny.py, or CONFIG=... into WORKDIR=...
	$(BIN)/python -m train --config $(CONFIG) --workdir $(WORKDIR)

test: $(VENV)/ready  ## run the tests
	$(BIN)/python -m pytest

check: lint types test  ## what CI runs: lint, format, types, tests

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/ready  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environments; runs and data stay
	rm -rf .venv .venv-py*

# The stamp is written last, so that an interrupted installation is taken up again.
$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Palmette needs Python >= 3.11; say PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@
