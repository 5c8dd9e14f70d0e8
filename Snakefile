"""PEL-Lab: a study -> runs -> tables and figures. Paths and resources live in workflow/rules, everything else in pel_core.

    snakemake --cores 1 --resources gpu=1                                  # the default study: report on the embedded demo
    snakemake --cores 8 --resources gpu=1 --config config=paper seeds=0,1  # another configuration, other seeds
"""

import inspect
import os
import sys
import time
from shlex import quote

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import checkpoint_target
from snakemake.logging import logger

# So that the rules and the jobs they start find the pel_core that lies beside this file, installed or not.
sys.path.insert(0, str(workflow.basedir))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))

from pel_core.studies import job_options
from pel_core.fork_server import client as fork_server
from pel_core.studies.config import make_results, submittable
from pel_core.common.environment import settle_environment
from pel_core.common.errors import PelError
from pel_core.studies.failures import failures
from pel_core.spec.results import OUTPUTS, metrics_file, slug_of
from pel_core.studies.job_lines import tell_jobs
from pel_core.studies.inputs import told
from pel_core.studies.migrate import migrate
from pel_core.studies.registered import register_claims
from pel_core.studies.settings import typed_settings
from pel_core.studies.study import load_settings
from pel_core.studies.tuning_checks import seal
from pel_core.studies.tuning_words import tuning_lines

try:
    SETTINGS = typed_settings(config, workflow.config_settings.config_args or [], sys.argv)
    STUDY = load_settings(SETTINGS, compare=workflow.is_main_process)
except PelError as error:
    raise WorkflowError(str(error)) from None


STARTED = time.time()
PYTHON, RESULTS, FIGURES = sys.executable, STUDY.results, STUDY.figures

if workflow.is_main_process:
    settle_environment()
    tell_jobs(logger, [about.name.lower() for about in workflow.output_settings.quiet or ()], lambda: workflow.dryrun)
    for line in migrate(RESULTS):
        print(line, file=sys.stderr)
    STUDY.check_scores()
    os.environ["PEL_COMPARED"] = "yes"
    STALE = STUDY.stale()
    for line in [*told(STALE), *(tuning_lines(STUDY) if STUDY.pending else [])]:
        print(line, file=sys.stderr)


def compared(inputs):
    """The inputs of a rule, once Snakemake knows which files are of other data or weights than there are now: these are made
    again whatever it remembers, as if --forcerun named them. Settings of the call are not there yet when this file is read."""
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(STALE)
    return inputs


def described(function):
    """A rule's function, its arguments written down: Snakemake looks them up for every job, of 10,000 runs half a million times."""
    function.__signature__ = inspect.signature(function)
    return function


def uncompared(value):
    """A param that changes no number: a function of the first wildcard. Snakemake compares params between calls, and runs a job
    again where one changes, but not those of functions that ask for `threads`."""
    return described(lambda wc, threads: value(wc[0]))


def grows(amount):
    """A resource of which a job that is tried again gets more."""
    return described(lambda wc, attempt: amount * attempt)


def chosen(names):
    """Wait until settings are chosen, by the checkpoint `select`: what runs they lead to is not known before. STUDY knows then."""
    for name in names:
        wait(name)
    if names:
        STUDY.decide()
        if workflow.is_main_process and not workflow.dryrun:
            STUDY.write_names()


def wait(name, before=None):
    """Wait for the steps of one tuning, in order, or for those before one: who is on a rung is known after the rung before it."""
    for step in STUDY.waits_for(name):
        if step == before:
            return
        checkpoints.select.get(selection=step)
        if name == step and len(STUDY.tunings[name].steps) == 1:
            return
        STUDY.decide()
        # Snakemake takes a checkpoint that waits for another for done where its file is there, though that is of an earlier choice.
        if not all(map(os.path.exists, STUDY.tried(step))):
            target = checkpoint_target(f"{RESULTS}/selections/{step}.json")
            raise IncompleteCheckpointException(checkpoints.select.rule, target)


def all_chosen(wc):
    """What the study makes, once all settings are chosen."""
    chosen(STUDY.pending)
    return STUDY.targets()


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/report.smk"


onstart:
    if workflow.is_main_process:
        make_results(RESULTS)
        STUDY.write_names()
        seal(STUDY)
        for name in register_claims(STUDY):  # before the first run that they use
            print(f"Claim registered: {name}", file=sys.stderr)
    # Small jobs on this machine's CPU share what they import; a cluster's nodes cannot.
    if workflow.is_main_process and workflow.local_exec:
        fork_server.offer(workflow.snakemake_tmp_dir)
    elif workflow.is_main_process:
        try:
            submittable([*SETTINGS.values(), workflow.basedir, os.getcwd()])
        except PelError as error:
            raise WorkflowError(str(error)) from None


onerror:
    # Once more at the end: `--quiet rules` shows no log of a failed job, and among the output of many jobs it is hard to find.
    if workflow.is_main_process:
        print("", *failures(STUDY.results / "logs", STARTED), sep="\n", file=sys.stderr)
        # What failed is a blank in what is drawn; in a process of its own, since Snakemake itself imports no matplotlib.
        log = STUDY.results / "logs" / "partial.log"
        shell("{PYTHON:q} -m pel_core partial {ASK} >&2 2> {log:q} || true")


rule all:
    default_target: True
    input:
        lambda wc: STUDY.targets(),
        all_chosen,
