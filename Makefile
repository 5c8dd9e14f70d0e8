# make study | plan | status | unlock | show | report | test | test-fast | test-cluster | bench | lint | clean   (see README.md)
PYTHON ?= python3
BIN    := .venv/bin
# make study DATA=path/to/images makes a table of them (docs/own-data.md), unless CONFIG says what the data are for.
OWN    := $(if $(DATA),$(if $(filter undefined,$(origin CONFIG)),yes))
STUDY  ?= $(if $(OWN),own-table,report)
CONFIG ?= $(if $(OWN),$(if $(filter clip-mini,$(BACKBONE)),own-mini,own),demo)
SEEDS  ?=
FIGURES ?= $(if $(RESULTS),$(RESULTS)/figures)
CORES  ?= $(shell getconf _NPROCESSORS_ONLN)
# Jobs that may train at once. Unless given: what fits on the GPUs (each job takes a free one), without one a job per core.
GPUS   ?=
AT_ONCE = $(or $(GPUS),$$($(BIN)/python -m pel_core slots $(CORES) $(ARGS)))
REPORT ?= report.html
# A worker per core; the tests of a file share its fixtures, so they stay together.
PARALLEL ?= -n auto --dist loadfile
# What may be said besides, to Snakemake and to the program; the path of the images goes through the environment, as it is.
CHOICE := study=$(STUDY) config=$(CONFIG) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(BACKBONE),backbone=$(BACKBONE)) \
    $(if $(WEIGHTS),weights='$(WEIGHTS)') $(if $(PLUGINS),plugins='$(PLUGINS)') $(if $(RESULTS),results='$(RESULTS)') $(if $(FIGURES),figures='$(FIGURES)')
ARGS   := --study $(STUDY) --config $(CONFIG) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(BACKBONE),--backbone $(BACKBONE)) \
    $(if $(WEIGHTS),--weights '$(WEIGHTS)') $(if $(RESULTS),--results '$(RESULTS)') $(if $(FIGURES),--figures '$(FIGURES)') $(if $(PLUGINS),--plugins '$(PLUGINS)')
ifneq ($(DATA),)
export PEL_DATA := $(DATA)
else ifeq ($(origin DATA),command line)
$(error DATA is empty: say where your images are (DATA=path/to/images), or leave it out for the demo)
endif

.PHONY: study plan status unlock report show setup test test-fast test-cluster bench lint clean

study: setup  ## train and evaluate what is missing, then build every table and figure
	$(BIN)/python -m pel_core plan $(ARGS)
	$(BIN)/snakemake --cores $(CORES) --resources gpu=$(AT_ONCE) $$(test -t 2 && echo --logger rich || echo --quiet rules reason host) \
	    --config $(CHOICE)
	$(BIN)/python -m pel_core show $(ARGS)

plan: setup  ## what would run, and what it would cost on this machine, whose speed is measured in seconds where no run has shown it
	$(BIN)/python -m pel_core measure-throughput $(ARGS)
	$(BIN)/python -m pel_core plan $(ARGS)

status: setup  ## what is done, running and failed, and how long the rest will take
	$(BIN)/python -m pel_core status $(ARGS)

unlock: setup  ## after Snakemake itself was killed ("Directory cannot be locked"), and no other one works here
	$(BIN)/snakemake --unlock --config $(CHOICE)

report: setup  ## report.html: every table and figure with captions, and where each run comes from; runs what is missing
	$(BIN)/snakemake provenance --cores $(CORES) --resources gpu=$(AT_ONCE) --quiet rules reason host --config $(CHOICE)
	$(BIN)/snakemake provenance --report $(REPORT) --quiet all --config $(CHOICE)

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
