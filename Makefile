# Every target is one line of `python -m benchmark`; `make setup` is done by whichever target comes first.
PYTHON ?= python3
PY := .venv/bin/python
METHOD ?=
STREAM ?= phantom8
BACKBONE ?= phantom-clip
SEED ?= 0
ORDER ?= 0
RESULTS ?= results
OPTIONS = --stream $(STREAM) --backbone $(BACKBONE) --seed $(SEED) --order $(ORDER) --results $(RESULTS) \
	$(if $(LIMIT),--limit $(LIMIT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DATA),--data $(DATA)) \
	$(if $(PRESET),--preset $(PRESET)) $(if $(filter 1,$(FORCE)),--force) $(ARGS)

.PHONY: help setup bench plan check smoke methods streams leaderboard pretrain test test-all lint
.DEFAULT_GOAL := help

help:
	@echo "make bench METHOD=mslora_cr [STREAM= BACKBONE= SEED= ORDER= LIMIT= EPOCHS= DATA= RESULTS= PRESET= FORCE=1 ARGS=]"
	@echo "make plan METHOD=... | check METHOD=... | smoke | methods | streams | leaderboard | pretrain | test | test-all | lint"

setup: .venv/.installed
.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@

bench: setup
	@$(PY) -m benchmark run $(if $(METHOD),--method $(METHOD)) $(OPTIONS)
plan: setup
	@$(PY) -m benchmark plan $(if $(METHOD),--method $(METHOD)) $(OPTIONS)
check: setup
	@$(PY) -m benchmark check --method $(or $(METHOD),all)
smoke: setup
	@$(PY) -m benchmark list methods --names | OMP_NUM_THREADS=1 xargs -P 2 -I METHOD \
		$(PY) -m benchmark run --method METHOD --stream smoke --epochs 1 --results build/smoke --force --quiet
methods: setup
	@$(PY) -m benchmark list methods
streams: setup
	@$(PY) -m benchmark list streams
leaderboard: setup
	@$(PY) -m benchmark leaderboard --results $(RESULTS)
pretrain: setup
	$(PY) -m benchmark pretrain
test: setup
	$(PY) -m pytest
test-all: setup
	$(PY) -m pytest -m ''
lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
