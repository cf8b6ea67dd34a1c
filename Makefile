# Every target is one line of `python -m benchmark`; what it needs is installed by whichever target comes first:
# what a run needs by `make setup`, what answers in words beside that by the first run that is answered so, the tools of
# development by `make test` and `make lint`.
PYTHON ?= python3
# Empty, whatever it was: where Python may keep no bytecode, every process compiles 2,000 imported files anew.
export PYTHONDONTWRITEBYTECODE =
PY := .venv/bin/python
UV ?= $(PY) -m uv
METHOD ?=
METHODS ?= $(METHOD)
STREAM ?= phantom8
STREAMS ?= $(STREAM)
BACKBONE ?=
SEED ?= 0
SEEDS ?= $(SEED)
ORDER ?= 0
ORDERS ?= $(ORDER)
BACKEND ?= local
RESULTS ?=
AT = $(if $(RESULTS),--results $(RESULTS))
OPTIONS = $(AT) $(if $(BACKBONE),--backbone $(BACKBONE)) \
	$(if $(LIMIT),--limit $(LIMIT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DATA),--data $(DATA)) \
	$(if $(PRESET),--preset $(PRESET)) $(if $(filter 1,$(FORCE)),--force) $(ARGS)
CELL = $(if $(METHOD),--method $(METHOD)) --stream $(STREAM) --seed $(SEED) --order $(ORDER) $(OPTIONS)
GRID = --methods "$(METHODS)" --streams "$(STREAMS)" --seeds $(SEEDS) --orders $(ORDERS) $(OPTIONS)

.PHONY: help setup extras bench sweep tune tuning plan check smoke methods data streams compare leaderboard claims verify \
	report merge predict export pretrain speed \
	test test-all test-faults lint
.DEFAULT_GOAL := help

help:
	@echo "make bench METHOD=mslora_cr [STREAM= BACKBONE= SEED= ORDER= LIMIT= EPOCHS= DATA= RESULTS= PRESET= FORCE=1 ARGS=]"
	@echo "make bench METHOD=mslora_cr STREAM=smoke_generation      a stream that is answered in words (make streams)"
	@echo 'make sweep METHODS="mslora_cr stacked_lora" [STREAMS=phantom8 SEEDS=0,1,2 ORDERS=0,1 BACKEND=local|slurm|ray JOBS= REDO=stale ...]'
	@echo 'make tune METHODS="ewc lwf" [TRIALS=9 KINDS="classification fusion"]   the same trials for each; then PRESET=tuned'
	@echo "make plan METHOD=... or METHODS=... | check METHOD=... | smoke | methods | streams | leaderboard | claims | report"
	@echo "make data [STREAM=... DATA=dir]                         what data are here; of a stream what is in it, and a page of it"
	@echo 'make compare METHOD=mine [WITH="ncm ranpac" STREAM= PRESET=tuned]   runs it where the table has runs; its row among them'
	@echo 'make verify [METHODS="ncm ranpac" STREAM= RUN=dir]      does this machine reproduce the table?'
	@echo 'make speed [METHODS=all STREAMS=phantom20]           what a run takes, beside the least that it could'
	@echo "make merge FROM=dir | predict RUN=dir IMAGES=dir | export RUN=dir TASK=name TO=dir | pretrain | test | test-all | test-faults | lint"

# A variable that is typed and that nothing here reads would be passed over in silence; those of other programs are
# handed on to them.
TYPED := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
ifneq ($(TYPED),)
READ := $(sort $(shell grep -oE '[$$].[A-Z]+' $(firstword $(MAKEFILE_LIST)) | cut -c3-))
OTHERS := OMP_% MKL_% OPENBLAS_% CUDA_% NCCL_% TORCH% MBIL_% HF_% TRANSFORMERS_% PIP_% UV_% PYTEST_% PYTHON% SLURM_% \
	RAY_% WANDB_% MLFLOW_% XDG_% TMPDIR COLUMNS %_proxy %_PROXY MAKE% .%
UNREAD := $(filter-out $(READ) $(OTHERS),$(TYPED))
NEAREST = import difflib, sys; name, *known = sys.argv[1:]; near = difflib.get_close_matches(name.upper(), known, 1, 0.5); \
	print(f"did you mean {near[0]}?" if near else "other options of a run go into ARGS=\"--name value\"")
ifneq ($(UNREAD),)
$(error unknown variable $(firstword $(UNREAD)): $(shell $(PYTHON) -c '$(NEAREST)' $(firstword $(UNREAD)) $(READ)))
endif
endif

PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt
# uv does not read pip's configuration: an index that was set there is handed to it.
define install
	@index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	{ $(PIP_INSTALL) uv && \
		UV_SYSTEM_CERTS=1 $(UV) pip install --quiet --python $(PY) -c .ci/constraints.txt -e '$(1)'; } || \
	{ echo "uv failed: pip installs the same, in several times the time"; $(PIP_INSTALL) -e '$(1)'; }
	@touch $@
endef

setup: .venv/.installed
.venv/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(call install,.)
.venv/.developed: .venv/.installed
	$(call install,.[dev])
# The run itself says what is missing where it cannot be installed here.
extras: setup
	@for extra in $$($(PY) -m benchmark needs --streams "$(STREAMS)" $(if $(BACKBONE),--backbone $(BACKBONE)) \
		$(if $(DATA),--data $(DATA)) 2>/dev/null); do $(MAKE) --no-print-directory .venv/.extra-$$extra || true; done
.venv/.extra-%: .venv/.installed
	$(call install,.[$*])

bench: extras
	@$(PY) -m benchmark run $(CELL)
sweep: extras
	@$(PY) -m benchmark sweep $(GRID) --engine $(BACKEND) $(if $(JOBS),--jobs $(JOBS)) $(if $(REDO),--redo $(REDO))
tune: STREAMS := $(if $(filter-out classification fusion retrieval,$(or $(KINDS),generation)),smoke_generation,smoke)
tune: extras
	@$(PY) -m benchmark tune --methods "$(METHODS)" $(AT) $(if $(KINDS),--kinds "$(KINDS)") \
		$(if $(TRIALS),--trials $(TRIALS)) --engine $(BACKEND) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)
tuning: setup
	@$(PY) -m benchmark tuning $(AT)
plan: extras
	@$(PY) -m benchmark plan $(if $(filter command line,$(origin METHODS)),$(GRID),$(CELL))
check: STREAMS := smoke_generation
check: extras
	@$(PY) -m benchmark check --method $(or $(METHOD),all)
smoke: setup
	@$(PY) -m benchmark sweep --methods all --streams smoke --epochs 1 --redo all --results build/smoke
speed: METHODS := $(or $(METHODS),sequential_lora mslora_cr)
speed: extras
	@$(PY) -m benchmark speed $(GRID)
methods: setup
	@$(PY) -m benchmark list methods
data: setup
	@$(PY) -m benchmark data $(if $(filter command line environment,$(origin STREAM)),--stream $(STREAM)) \
		$(if $(DATA),--data $(DATA)) $(if $(BACKBONE),--backbone $(BACKBONE)) $(ARGS)
streams: setup
	@$(PY) -m benchmark list streams
verify: extras
	@$(PY) -m benchmark verify $(AT) $(if $(METHODS),--methods "$(METHODS)") \
		$(if $(filter-out file,$(origin STREAM)),--stream $(STREAM)) $(if $(RUN),--run $(RUN)) \
		$(if $(DATA),--data $(DATA)) $(ARGS)
compare: extras
	@$(PY) -m benchmark compare $(if $(METHOD),--method $(METHOD)) --stream $(STREAM) $(if $(WITH),--with $(WITH)) $(OPTIONS)
leaderboard: setup
	@$(PY) -m benchmark leaderboard $(AT) $(ARGS)
claims: setup
	@$(PY) -m benchmark claims $(AT)
report: setup
	@$(PY) -m benchmark report $(AT) $(if $(RUN),--run $(RUN)) $(ARGS)
merge: setup
	@$(PY) -m benchmark merge --from $(FROM) $(AT) $(ARGS)
predict: setup
	@$(PY) -m benchmark predict --run $(RUN) --images $(IMAGES) $(if $(TASK),--task $(TASK)) $(ARGS)
export: setup
	@$(PY) -m benchmark export --run $(RUN) --task $(TASK) --to $(TO) $(ARGS)
pretrain: setup
	$(PY) -m benchmark pretrain $(ARGS)
test: .venv/.developed
	$(PY) -m pytest
test-all: .venv/.developed
	$(PY) -m pytest -m '' --hypothesis-profile all
test-faults: .venv/.developed
	$(PY) -m pytest -m '' tests/faults
lint: .venv/.developed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
