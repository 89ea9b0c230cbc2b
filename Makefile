# Every target does its own set-up: a .venv with the pinned, hash-checked packages of constraints/, built once.
# All that is needed beforehand is make and Python 3.11 or newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PY := $(VENV)/bin/python
SETUP := $(VENV)/.set-up
PINNED := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes
UNPINNED := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation

# The first of these that runs and is new enough. Another one: make PYTHON=/path/to/python3 test
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)

# What is linted: everything that is Python and ours.
SOURCES := clients inference_server registry_server server_kit tests

PYTEST_ARGS ?=
# Files of tests that run at a time; 0: all of them in one process, with their names as they run.
WORKERS ?= 2
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help
help: ## Say what the targets are
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(SETUP) ## Run the pair on a video made for it: two servers, a hot swap, a table and pictures
	$(PY) -m demo

.PHONY: test
test: $(SETUP) ## Run all the tests (PYTEST_ARGS="tests/clients -x" for some of them)
	$(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# How often to kill, and what else to tell the harness: make test-crash N=200 CRASH_ARGS="--servers 2"
N ?= 1000
CRASH_ARGS ?=

.PHONY: test-crash
test-crash: $(SETUP) ## Kill writing registry servers N=1000 times and check what is left
	$(PY) tests/crash/crash.py --kills $(N) $(CRASH_ARGS)

# What else to tell the fuzzer: make fuzz FUZZ_ARGS="--only 1234567" sends one input again.
FUZZ_ARGS ?=
fuzz: N = 10000

.PHONY: fuzz
fuzz: $(SETUP) ## Send N=10000 mutated videos, sources and requests to an inference server and check all that follows
	$(PY) tests/fuzz/fuzz.py --cases $(N) $(FUZZ_ARGS)

fuzz-models: N = 500

.PHONY: fuzz-models
fuzz-models: $(SETUP) ## Put N=500 mutated model files into production and check that each is served or refused
	$(PY) tests/fuzz/model_files.py --cases $(N) $(FUZZ_ARGS)

# The exporters' own packages, torch among them, are a download of 3 GB: they get an environment of their own.
EXPORTERS := build/exporters
EXPORTERS_PY := $(EXPORTERS)/venv/bin/python
EXPORTERS_RUN := YOLO_CONFIG_DIR=$(abspath $(EXPORTERS)) YOLO_OFFLINE=true YOLO_AUTOINSTALL=false $(EXPORTERS_PY) tests/exporters

.PHONY: test-exporters
test-exporters: $(SETUP) $(EXPORTERS)/venv/.set-up ## Export detectors and compare the service with the exporters' own answers (3 GB)
	$(EXPORTERS_RUN)/export.py $(EXPORTERS)
	$(EXPORTERS_RUN)/expect.py $(EXPORTERS)
	$(PY) -m pytest tests/exporters/compare.py $(PYTEST_ARGS)

.PHONY: check
check: $(SETUP) ## Lint, types, protos, and stubs that match them
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint protos
	$(PY) clients/stubs.py --check

.PHONY: bench
bench: $(SETUP) ## Run the benchmarks, one after the other
	@found=0; for benchmark in tests/benchmarks/bench_*.py; do \
		[ -e "$$benchmark" ] || continue; found=1; echo "== $$benchmark"; $(PY) "$$benchmark"; \
	done; [ $$found = 1 ] || echo "there are no benchmarks in tests/benchmarks/"

.PHONY: stubs
stubs: $(SETUP) ## Generate clients/videoai/*/v1/ from protos/
	$(PY) clients/stubs.py

.PHONY: constraints
constraints: $(SETUP) ## Pin the newest versions that pyproject.toml allows; review the difference before committing it
	$(COMPILE) --upgrade --extra dev pyproject.toml --output-file constraints/dev.txt
	$(COMPILE) --constraints constraints/dev.txt pyproject.toml --output-file constraints/client.txt
	$(COMPILE) --extra registry --extra rest --constraints constraints/dev.txt pyproject.toml --output-file constraints/registry.txt
	$(COMPILE) --extra inference --constraints constraints/dev.txt pyproject.toml --output-file constraints/inference.txt
	printf '%s\n' onnx onnxruntime onnxslim ultralytics | $(COMPILE) --upgrade - --output-file constraints/exporters.txt
	printf '%s\n' hatchling setuptools | $(COMPILE) --constraints constraints/dev.txt - --output-file constraints/build.txt

.PHONY: setup
setup: $(SETUP) ## Only build the .venv
	@echo "$(VENV) is up to date"

.PHONY: clean
clean: ## Remove the .venv and everything else that the targets made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamp is written last: a .venv without it was interrupted, or is someone else's, and is built from nothing.
# With one, packages are only brought up to date.
$(SETUP): pyproject.toml constraints/dev.txt constraints/build.txt
	@[ -n "$(PYTHON)" ] || { echo "set-up needs Python 3.11 or newer; found: $$(python3 --version 2>&1)." \
		"Name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"$(PYTHON) is Python {sys.version.split()[0]}: 3.11 or newer is needed")'
	@[ -e $@ ] || rm -rf $(VENV)
	@[ -e $@ ] || echo "building $(VENV), this takes a minute or two"
	@[ -e $@ ] || "$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment:" \
		"on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
	@$(PINNED) -r constraints/build.txt
	@$(PINNED) --no-build-isolation -r constraints/dev.txt
	@$(UNPINNED) --editable .
	@touch $@

# What was exported with other versions is exported again.
$(EXPORTERS)/venv/.set-up: constraints/exporters.txt | $(SETUP)
	@rm -rf $(EXPORTERS)
	@echo "building $(EXPORTERS)/venv, this takes a few minutes"
	@"$(PY)" -m venv $(EXPORTERS)/venv
	@$(EXPORTERS_PY) -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
