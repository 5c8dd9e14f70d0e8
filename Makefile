# make study | plan | status | unlock | show | report | test | test-fast | test-cluster | bench | pages | docs | lint | clean   (see README.md)
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
# What is said to Snakemake and to the program; the path of the images goes through the environment.
CHOICE := "study=$$STUDY" "config=$$CONFIG" $${SEEDS:+"seeds=$$SEEDS"} $${BACKBONE:+"backbone=$$BACKBONE"} \
    $${WEIGHTS:+"weights=$$WEIGHTS"} $${PLUGINS:+"plugins=$$PLUGINS"} $${RESULTS:+"results=$$RESULTS"} $${FIGURES:+"figures=$$FIGURES"}
ARGS   := "--study=$$STUDY" "--config=$$CONFIG" $${SEEDS:+"--seeds=$$SEEDS"} $${BACKBONE:+"--backbone=$$BACKBONE"} \
    $${WEIGHTS:+"--weights=$$WEIGHTS"} $${PLUGINS:+"--plugins=$$PLUGINS"} $${RESULTS:+"--results=$$RESULTS"} $${FIGURES:+"--figures=$$FIGURES"}
ifneq ($(DATA),)
export PEL_DATA := $(DATA)
endif
# Jobs that may train at once: GPUS, or what fits on the GPUs (each job takes a free one), without one a job per core.
SNAKEMAKE := $(BIN)/python -m pel_core.cli.snakemake
JOBS      := --cores "$$CORES" --resources "gpu=$${GPUS:-$$($(BIN)/python -m pel_core slots "$$CORES" $(ARGS))}"
QUIET     := --quiet rules reason host
# A candidate of `tune` that diverges ends Snakemake's call, but is an outcome: the next call chooses among the others.
CALL       = $(SNAKEMAKE) $(1) $(JOBS) $(QUIET) --config $(CHOICE)
# On another rung others may: as long as there is something else to go on with. The second call for the same stands for its error.
GOES_ON    = $(BIN)/python -m pel_core goes-on $(ARGS)
RUN        = ( was=; until $(CALL); do now="$$($(GOES_ON))" && [ "$$now" != "$$was" ] || exit 1; was="$$now"; echo "$$now"; done )

.PHONY: study plan status unlock report show setup test test-fast test-cluster bench pages docs lint clean

study: setup  ## train and evaluate what is missing, then build every table and figure
	$(BIN)/python -m pel_core plan $(ARGS)
	$(call RUN)
	$(BIN)/python -m pel_core show $(ARGS)

plan: setup  ## what would run, and what it would cost on this machine, whose speed is measured in seconds where no run has shown it
	$(BIN)/python -m pel_core measure-throughput $(ARGS)
	$(BIN)/python -m pel_core plan $(ARGS)

status: setup  ## what is done, running and failed, and how long the rest will take
	$(BIN)/python -m pel_core status $(ARGS)

unlock: setup  ## after Snakemake itself was killed ("Directory cannot be locked"), and no other one works here
	$(SNAKEMAKE) --unlock --config $(CHOICE)

report: setup  ## report.html: tables, figures, claims, runs on one page; runs what is missing, and names what failed
	status=0; $(call RUN,provenance) || status=$$?; \
	    $(BIN)/python -m pel_core report $(ARGS) --out="$$REPORT" || exit; exit $$status

show: setup  ## the finished tables on screen
	$(BIN)/python -m pel_core show $(ARGS)

test: setup lint  ## every test, the slow ones too
	$(BIN)/python -m pytest -q $(PARALLEL)

test-fast: setup
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

test-cluster: .venv/cluster/installed  ## a real SLURM on this host: node failure, cancelling, time limit, preemption, requeueing
	tests/cluster/install.sh
	.venv/cluster/bin/python -m pytest -q -rs -s -m cluster tests/cluster

bench: setup  ## speed and memory on this machine, into docs/benchmarks; half an hour of all cores (BENCH=step: one part)
	$(BIN)/python -m pel_core.bench $(BENCH)

pages: setup  ## the tables, figures and verdicts that docs/ablations.md and docs/studies.md show (STUDIES="losses tour": those alone)
	$(BIN)/python -m pel_core.bench.pages $(STUDIES)

docs: setup  ## the documentation as a site, docs/_build/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

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
