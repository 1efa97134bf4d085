# make demo   sets everything up, trains a small ResNeXt on real scans, evaluates it, predicts a few images
# make test   sets everything up, runs lint, type check and tests
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
USABLE  := $(VENV)/.usable
SERVE   := $(VENV)/.serve
DOCS    := $(VENV)/.docs
READY   := $(VENV)/.ready
DEVICE  ?= cuda
OLDEST  := .venv-oldest
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help demo serve docs test test-all test-oldest test-gpu lint format dist clean
.DEFAULT_GOAL := help

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 12

$(USABLE): pyproject.toml constraints.txt  # the package alone, as a user has it
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed (make PYTHON=python3.12 ...)"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) .
	touch $@

$(READY): $(USABLE)  # with every extra and the developers' tools
	$(INSTALL) '.[dev,object-store-tests]'
	touch $@

demo: $(USABLE)  ## train on handwritten digits, evaluate, predict; one to three minutes after the set-up
	$(BIN)/python examples/demo.py

$(SERVE): $(USABLE)  # what the server needs, with ONNX Runtime as the engine
	$(INSTALL) '.[serve,onnx]'
	touch $@

serve: $(SERVE)  ## serve the newest run in runs/ and open its page in a browser
	@test -d runs || { echo 'there is no run yet: make demo'; exit 2; }
	$(BIN)/resnext serve "$$(ls -dt runs/*/ | head -1)" --runs runs --open

$(DOCS): $(USABLE)
	$(INSTALL) '.[docs]'
	touch $@

docs: $(DOCS)  ## build the documentation site into build/site; dead links and failing notebooks are errors
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m sphinx --color -W --keep-going -q -c docs -d build/site-cache . build/site
	@echo 'open build/site/index.html'

lint: $(READY)  ## ruff (lint and format), mypy, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 src tools  # every text file says its encoding
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

test: lint  ## lint, type check and the tests
	$(PYTEST) -m 'not slow'

test-all: lint  ## the tests and the slow proofs, then the tests with fast paths on, as users have them
	$(PYTEST)
	RESNEXT_FAST=1 $(PYTEST) -m 'not slow'

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt  # 7 GB: the oldest PyTorch with its CUDA libraries
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), "the oldest versions need Python 3.11 (make PYTHON=python3.11 ...)"'
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[all]' \
		pytest pytest-xdist hypothesis faster-coco-eval httpx jsonschema
	touch $@

test-oldest: $(OLDEST)/.ready  ## the quick tests of the core with the oldest versions that pyproject.toml promises
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m 'not slow' \
		tests/model tests/data tests/training tests/weights tests/evaluation tests/commands tests/test_*.py

test-gpu: $(READY)  ## what must hold on every device, on CUDA (DEVICE=cpu: on the CPU)
	RESNEXT_TEST_DEVICES=$(DEVICE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m device tests/test_devices.py tests/bench/test_all.py

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(READY)  ## build the source package and the wheel with compiled kernels into dist/
	rm -rf dist build/bdist.* build/lib* build/temp* build/wheel  # build/site is that of make docs
	$(BIN)/python -m build --sdist --no-isolation
	RESNEXT_PREBUILT=1 $(BIN)/python -m build --wheel --no-isolation --outdir build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --plat manylinux_2_28_x86_64 --only-plat \
		--exclude libtorch_cpu.so --wheel-dir dist build/wheel/*.whl  # PyTorch brings libtorch_cpu.so

clean:  ## remove the virtual environment and caches (runs/ stays)
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
