# make study | plan | status | unlock | show | report | test | test-fast | test-cluster | bench | pages | docs | notebooks | lint | clean   (see README.md)
BIN   := .venv/bin
WORDS := STUDY CONFIG SEEDS BACKBONE WEIGHTS PLUGINS RESULTS FIGURES DATA CORES GPUS REPORT PYTHON
# A word on the command line that says nothing was meant to say something: an unset variable of a shell, for one.
$(foreach name,$(WORDS),$(if $(filter command,$(firstword $(origin $(name)))),$(if $(value $(name)),,\
    $(error $(name) is empty: say what it is, or leave it out))))
# What is said reaches the programs as it was typed: make fills in no dollar signs, and the shell reads it from the environment.
$(foreach name,$(WORDS),$(if $(value $(name)),$(eval override $(name) := $$(value $(name)))$(eval export $(name))))
# make study DATA=path/to/images makes a table of them (docs/own-data.md), unless CONFIG says what the data are for.
OWN    := $(if $(DATA),$(if $(CONFIG),,yes))
export PYTHON ?= python3
export STUDY  ?= $(if $(OWN),own-table,report)
export CONFIG ?= $(if $(OWN),$(if $(filter clip-mini,$(BACKBONE)),own-mini,own),demo)
export CORES  ?= $(shell getconf _NPROCESSORS_ONLN)
export REPORT ?= report.html
# A worker per core; the tests of a file share its fixtures, so they stay together.
PARALLEL ?= -n auto --dist loadfile
# What is said to the program; the path of the images goes through the environment.
ARGS   := "--study=$$STUDY" "--config=$$CONFIG" $${SEEDS:+"--seeds=$$SEEDS"} $${BACKBONE:+"--backbone=$$BACKBONE"} \
    $${WEIGHTS:+"--weights=$$WEIGHTS"} $${PLUGINS:+"--plugins=$$PLUGINS"} $${RESULTS:+"--results=$$RESULTS"} $${FIGURES:+"--figures=$$FIGURES"}
ifneq ($(DATA),)
export PEL_DATA := $(DATA)
endif
# The command `pel` by its longer name (docs/command.md). GPUS: jobs that may train at once.
PEL  := $(BIN)/python -m pel_core
JOBS := "--cores=$$CORES" $${GPUS:+"--gpus=$$GPUS"}

.PHONY: study plan status unlock report show setup test test-fast test-cluster bench pages docs notebooks lint clean

study: setup  ## train and evaluate what is missing, then build every table and figure
	$(PEL) run $(ARGS) $(JOBS)

plan: setup  ## what would run, and what it would cost on this machine, whose speed is measured in seconds where no run has shown it
	$(PEL) plan --measure $(ARGS)

status: setup  ## what is done, running and failed, and how long the rest will take
	$(PEL) status $(ARGS)

unlock: setup  ## after Snakemake itself was killed ("Directory cannot be locked"), and no other one works here
	$(PEL) unlock $(ARGS)

report: setup  ## report.html: tables, figures, claims, runs on one page; runs what is missing, and names what failed
	$(PEL) run "--report=$$REPORT" $(ARGS) $(JOBS)

show: setup  ## the finished tables on screen
	$(PEL) show $(ARGS)

test: setup lint  ## every test, the slow ones too
	$(BIN)/python -m pytest -q $(PARALLEL)

test-fast: setup
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

test-cluster: .venv/cluster/installed  ## a real SLURM on this host: node failure, cancelling, time limit, preemption, requeueing
	tests/cluster/install.sh
	.venv/cluster/bin/python -m pytest -q -rs -s -m cluster tests/cluster

bench: setup  ## speed and memory on this machine, into docs/benchmarks; half an hour of all cores (BENCH=step: one part)
	$(BIN)/python -m pel_core.bench $(BENCH)

notebooks: setup  ## execute docs/notebooks, and write what comes out; not a test
	$(BIN)/python -m pel_core.bench.notebooks

pages: setup  ## the tables, figures and verdicts that docs/ablations.md and docs/studies.md show (STUDIES="losses tour": those alone)
	$(BIN)/python -m pel_core.bench.pages $(STUDIES)

docs: setup  ## the documentation as a site, docs/_build/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PEL-Lab needs Python 3.11 or newer")'
	"$$PYTHON" -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The environment and the executor plugins, which are apart from it: with SLURM's, every call of snakemake asks the controller.
.venv/cluster/installed: .venv/installed workflow/profiles/requirements.txt
	$(BIN)/python -m venv --without-pip .venv/cluster
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > "$$(.venv/cluster/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	$(BIN)/pip --python .venv/cluster/bin/python install --quiet --disable-pip-version-check --no-deps \
	    -r workflow/profiles/requirements.txt
	touch $@

clean:  ## remove results and figures (runs are lost; the environment stays)
	rm -rf results figures .snakemake
