# make study | plan | test | test-fast | lint | clean   (see README.md)
PYTHON ?= python3
BIN    := .venv/bin
STUDY  ?= report
CONFIG ?= demo
SEEDS  ?=
CORES  ?= $(shell getconf _NPROCESSORS_ONLN)
# Jobs that may train at once. One where there is a GPU: Snakemake assigns no devices. On a CPU, one per core.
GPUS   ?= $(if $(shell command -v nvidia-smi 2>/dev/null && nvidia-smi -L 2>/dev/null),1,$(CORES))
CHOICE := study=$(STUDY) config=$(CONFIG) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(DATA),root=$(DATA))
ARGS   := --study $(STUDY) --config $(CONFIG) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: study plan show setup test test-fast lint clean

study: setup  ## train and evaluate what is missing, then build every table and figure
	$(BIN)/python -m pel_core plan $(ARGS)
	$(BIN)/snakemake --cores $(CORES) --resources gpu=$(GPUS) $$(test -t 2 && echo --logger rich || echo --quiet rules reason host) \
	    --config $(CHOICE)
	$(BIN)/python -m pel_core show $(ARGS)

plan: setup  ## what would run, and what it would cost
	$(BIN)/python -m pel_core plan $(ARGS)

show: setup  ## the finished tables on screen
	$(BIN)/python -m pel_core show $(ARGS)

test: setup lint  ## every test, the slow ones too
	$(BIN)/python -m pytest -q

test-fast: setup
	$(BIN)/python -m pytest -q -m "not slow"

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PEL-Lab needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:  ## remove results and figures (runs are lost; the environment stays)
	rm -rf results figures .snakemake
