# `make demo` and `make test` need only Python 3.11 or newer: each prepares .venv by itself, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An unpinned torch brings gigabytes of CUDA libraries along: always install under the constraints.
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP_INSTALL := $(BIN)/python $(INSTALL) -c constraints.txt
# `make upstream TORCH=torch` takes the newest torch too.
TORCH ?= $(shell grep '^torch==' constraints.txt)
NEWEST := build/upstream

.PHONY: demo test test-all quick lint types pytest upstream format docs clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/ditmesh generate demo --parallel ulysses2 --verify --save-path demo.png
	@echo "The picture: $(CURDIR)/demo.png"

test: lint types pytest

# Two files of tests at a time: most ranks wait for each other half of the time. The longest files go first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Every test function that takes no more than a moment, on the first and the last of its cases.
quick: $(VENV)/.installed-dev
	$(PYTEST) -q --cases quick

# Every cell of the large matrices, of which `make test` has a sample.
test-all: lint types $(VENV)/.installed-dev
	$(PYTEST) --cases all

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/.installed-dev
	$(PYTEST) --cases sample $(if $(SEED),--sample-seed $(SEED))

# The seam's own tests on the newest releases of what it leans on: a name that changed there is one red line here.
upstream: $(NEWEST)/.installed
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q tests/upstream

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The pages: $(CURDIR)/build/site/index.html"

clean:
	rm -rf $(VENV) build dist

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[docs]'
	touch $@

# Not pyproject's bounds, which keep users from what has not been tried.
$(NEWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) '$(TORCH)'
	$(NEWEST)/bin/python $(INSTALL) --upgrade diffusers transformers peft accelerate safetensors huggingface_hub
	$(NEWEST)/bin/python $(INSTALL) --upgrade torchao bitsandbytes optimum-quanto gguf
	$(NEWEST)/bin/python $(INSTALL) ftfy sentencepiece protobuf imageio imageio-ffmpeg scikit-image typer pydantic pyyaml
	$(NEWEST)/bin/python $(INSTALL) pytest pytest-timeout hypothesis
	$(NEWEST)/bin/python $(INSTALL) --no-deps -e .
	touch $@
