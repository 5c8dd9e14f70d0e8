"""The command line: a thin door to the package. Snakemake's rules, tests and people all come through it.

Heavy modules are imported inside the commands, so that each starts with what it needs and no more.
"""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pel_core import __version__
from pel_core.cli import run_commands
from pel_core.cli import study_commands as report
from pel_core.cli.compare_command import compare, compare_options
from pel_core.cli.data_options import data_options
from pel_core.cli.export_command import export, export_options
from pel_core.cli.gallery_command import gallery, gallery_options
from pel_core.cli.help_text import Root
from pel_core.cli.init_command import init, init_options
from pel_core.cli.predict_options import predict_options
from pel_core.cli.results_folder import settle_results
from pel_core.common.environment import settle_environment
from pel_core.common.errors import PelError
from pel_core.common.locales import print_anything
from pel_core.common.logs import logger, set_verbosity
from pel_core.common.paths import expand_user, user_path
from pel_core.common.plugins import use_plugins
from pel_core.common.renames import renamed_words
from pel_core.common.shipped import program
from pel_core.common.signals import leaving
from pel_core.models.backbones import backbone_name, expand_weights

Arguments = argparse.Namespace


def backbone(arguments: Arguments) -> None:
    """Convert a backbone's weights for training."""
    from pel_core.models.weights import prepare_backbone
    from pel_core.studies.inputs import write_weights_source
    from pel_core.studies.provenance import backbone_params

    name = backbone_name(arguments.name)
    params = backbone_params(name, arguments.weights)  # before they are read
    prepare_backbone(name, arguments.out, arguments.weights, arguments.cache_dir)
    write_weights_source(arguments.out, params)


def text(arguments: Arguments) -> None:
    """Compute class-text features, one row per class in the data's label order."""
    from pel_core.models.class_texts import prepare_text
    from pel_core.models.text_sets import text_set_of

    folders = arguments.backbone_dir, arguments.data_dir
    source = arguments.weights, arguments.cache_dir, arguments.descriptions, text_set_of(arguments.texts)
    prepare_text(*folders, arguments.prompt, arguments.out, *source, arguments.texts_sha256)


def data(arguments: Arguments) -> None:
    """Fetch, check, describe or prepare a data set."""
    from pel_core.cli.data_commands import run

    run(arguments)


def options(arguments: Arguments) -> None:
    """Print every entry and knob that a study may choose, those of plugins too; or write them into documents."""
    from pel_core.cli.options_text import options_text, write_options

    for path in arguments.write or ():
        write_options(path)
    if not arguments.write:
        print(options_text(), end="")


def train(arguments: Arguments) -> None:
    """Train a run."""
    _threads(arguments.threads)
    from pel_core.hardware.devices import claim, tune_process
    from pel_core.training.run import train_run

    if not 0 <= arguments.checkpoint_seconds < float("inf"):
        raise PelError(f"--checkpoint-seconds {arguments.checkpoint_seconds:g}: expected seconds, or 0 for no checkpoints")
    if arguments.gpus < 1:
        raise PelError(f"--gpus {arguments.gpus}: expected 1 or more")
    alone = "LOCAL_RANK" in os.environ or arguments.gpus == 1  # or one of torchrun's processes
    devices = claim(arguments.device, arguments.gpu_share, 1 if alone else arguments.gpus)
    if not alone:
        from pel_core.training.distributed import launch

        return launch(arguments.words, devices)
    tune_process(devices[0])
    options = arguments.checkpoint_seconds, _loggers(arguments), _cache(arguments)
    train_run(arguments.run, arguments.results, devices[0], *options, compiling=arguments.compile)


def evaluate(arguments: Arguments) -> None:
    """Evaluate a trained run: predict, then score."""
    _threads(arguments.threads)
    from pel_core.evaluation.evaluate import evaluate_run
    from pel_core.hardware.devices import claim, tune_process

    device = claim(arguments.device, arguments.gpu_share)[0]
    tune_process(device)
    from pel_core.data.test_sets import TestSet

    options = arguments.accept, _loggers(arguments), _cache(arguments), arguments.logits, TestSet.read(arguments.test_set)
    evaluate_run(arguments.run, arguments.results, device, *options)


def score(arguments: Arguments) -> None:
    """Compute metrics and tables of runs from their stored predictions, where they are out of date."""
    from pel_core.evaluation.score import score_runs

    runs = [run for word in arguments.run for run in (listed(word[1:]) if word.startswith("@") else [word])]
    outcome = score_runs(arguments.results, runs, arguments.accept, arguments.threads, arguments.stamp)
    print(f"{len(outcome.done)} runs scored{f', {len(outcome.failed)} could not be' if outcome.failed else ''}")
    if runs and outcome.failed:
        raise PelError(f"{len(outcome.failed)} of {len(runs)} runs could not be scored (each is named above)")


def listed(file: str) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]


def predict(arguments: Arguments) -> None:
    """Classify images of your own with a trained run."""
    _threads(arguments.threads)
    from pel_core.evaluation.new_images import predict_files
    from pel_core.hardware.devices import claim, tune_process

    among = None
    if arguments.study or arguments.config:
        from pel_core.studies.study import load

        among = load(arguments.study or "report", arguments.config or "demo", results=str(arguments.results)).specs.values()
    device = claim(arguments.device, 1.0)[0]
    tune_process(device)
    which = arguments.evaluation, among
    predict_files(arguments.run, arguments.images, arguments.results, arguments.out, arguments.top, device, *which)


def _loggers(arguments: Arguments) -> dict[str, bool]:
    return {"tensorboard": arguments.tensorboard, "wandb": arguments.wandb}


def _cache(arguments: Arguments) -> float:
    if not 0 <= arguments.prefix_cache_gb < float("inf"):
        raise PelError(f"--prefix-cache-gb {arguments.prefix_cache_gb:g}: expected GB, or 0 for no cache")
    return arguments.prefix_cache_gb


def _threads(count: int) -> None:
    """Set before torch is imported: OpenMP reads it once."""
    if count < 0:
        raise PelError(f"--threads {count}: expected 1 or more, or 0 for torch's own choice")
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
        if "torch" in sys.modules:  # in a child of the fork server it is too late for that
            sys.modules["torch"].set_num_threads(count)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    root = Root(prog=program(), description="PEL-Lab: ablation studies of parameter-efficient long-tailed recognition.")
    root.add_argument("--version", action="version", version=f"pel-lab {__version__}")
    common = argparse.ArgumentParser(add_help=False)  # options of every command
    told = "a Python file that adds entries (docs/extending.md); may be given again"
    common.add_argument("--plugins", action="append", default=[], metavar="FILE", help=told)
    common.add_argument("-v", "--verbose", action="count", default=0, help="log more: details too")
    common.add_argument("-q", "--quiet", action="count", default=0, help="log less: warnings alone; twice: errors alone")
    root.commands = commands = root.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)

    def command(function, *positional: str) -> argparse.ArgumentParser:
        words = {"help": function.__doc__, "description": function.__doc__}
        sub = commands.add_parser(function.__name__.replace("_", "-"), parents=[common], **words)
        sub.set_defaults(function=function)
        for name in positional:
            sub.add_argument(name)
        return sub

    sub = command(backbone, "name")
    sub.add_argument("--out", required=True, type=user_path, help="folder to write")
    sub.add_argument(
        "--weights", type=expand_weights, help="a local file or folder, or hf-hub:owner/name, instead of the registry's source"
    )
    sub.add_argument("--cache-dir", type=expand_user, help="where downloads are kept")
    sub = command(text)
    sub.add_argument("--backbone-dir", required=True, type=user_path)
    sub.add_argument("--data-dir", required=True, type=user_path)
    sub.add_argument("--prompt", default="default", help="a prompt of docs/options.md, or texts:NAME with --texts")
    sub.add_argument(
        "--descriptions", type=expand_user, help="JSON file of sentences for each class name, with --prompt descriptions"
    )
    sub.add_argument("--texts", default="", help="JSON: the text set of --prompt texts:NAME, as a configuration has it")
    sub.add_argument("--texts-sha256", default="", help="the digest that the texts have to have")
    sub.add_argument("--out", required=True, type=user_path)
    sub.add_argument("--weights", type=expand_weights, help="the weights the backbone was made from, as there")
    sub.add_argument("--cache-dir", type=expand_user, help="where downloads are kept")
    data_options(command(data))
    told = "put them between the marks of these Markdown files"
    command(options).add_argument("--write", type=user_path, nargs="+", metavar="FILE", help=told)
    for function in (train, evaluate):
        sub = command(function, "run")
        sub.add_argument("--results", default="results", type=user_path)
        sub.add_argument("--device", default="auto", help="auto (a free GPU, locked; else the CPU), cpu, cuda or cuda:N")
        sub.add_argument("--gpu-share", type=float, default=1.0, help="the part of a GPU it needs, with --device auto (1)")
        sub.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's own choice)")
        sub.add_argument("--no-tensorboard", dest="tensorboard", action="store_false", help="write no TensorBoard events")
        sub.add_argument("--wandb", action="store_true", help="report to Weights & Biases, which must be installed")
        told = "GB that what runs share of an evaluation may take under the results (4; 0: keep nothing)"
        sub.add_argument("--prefix-cache-gb", type=float, default=4.0, metavar="GB", help=told)
        if function is train:
            sub.add_argument("--gpus", type=int, default=1, help="train data-parallel on so many GPUs (1)")
            told = "seconds between two checkpoints within an epoch (300; 0: none)"
            sub.add_argument("--compile", default="off", choices=("auto", "off"), help="auto: torch.compile, on CUDA (off)")
            sub.add_argument("--checkpoint-seconds", type=float, default=300.0, metavar="SECONDS", help=told)
    sub.add_argument("--accept", action="store_true", help="take a checkpoint of another version, and its number into the result")
    sub.add_argument(
        "--logits",
        default="compact",
        choices=("compact", "full"),
        help="how logits are stored: fp16 and what scores need exactly (compact), or fp32",
    )
    told = "of a run with evaluate_on: its entry of `test_sets` in a configuration, as JSON (the test split, classes by name)"
    sub.add_argument("--test-set", default="", metavar="JSON", help=told)
    sub = command(score)
    sub.add_argument("run", nargs="*", metavar="RUN", help="runs by name, or @FILE with one a line (all that are out of date)")
    sub.add_argument("--results", default="results", type=user_path)
    sub.add_argument("--accept", action="append", default=[], metavar="RUN", help="a run whose result of another version stays")
    sub.add_argument("--threads", type=int, default=1, help="runs that are scored at once (1)")
    sub.add_argument("--stamp", type=user_path, help="a file to write at the end (snakemake's)")
    predict_options(command(predict))
    init_options(command(init))
    export_options(command(export))
    gallery_options(command(gallery))
    compare_options(command(compare))
    command(run_commands.where)
    for function, positional in (*report.COMMANDS, *run_commands.COMMANDS):
        run_commands.study_options(function, command(function, *positional))
    sub = command(report.schema)
    sub.add_argument("--write", action="store_true", help="write the files of workflow/schemas")
    return root


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; what a user can mend is one line on standard error and exit status 1, an interruption 130.

    A training that a signal stopped has 128 + its number, and has saved where it was.
    """
    print_anything()
    words = renamed_words(sys.argv[1:] if words is None else words)
    try:
        ours, _, after = run_commands.divided(words) if words[:1] == ["run"] else (words, [], [])
        arguments = parser().parse_args(ours)
        arguments.words, arguments.snakemake = words, after  # Snakemake's own, of `run`
        set_verbosity(arguments.verbose - arguments.quiet)
        settle_environment()
        use_plugins(arguments.plugins)
        settle_results(arguments)
        clock = time.monotonic()
        arguments.function(arguments)
        logger.debug("%s took %.1f s", arguments.function.__name__, time.monotonic() - clock)
        sys.stdout.flush()  # here, where a reader that is gone is noticed
    except PelError as error:
        return _fail(str(error), getattr(error, "status", 1))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return 128 + signal.SIGPIPE
        if error.filename is None and error.errno is None:
            raise  # not about a file: a defect of ours
        return _fail(f"{error.strerror or error}: {error.filename or 'while reading or writing'}")
    except Exception as error:
        if leaving:
            return 128 + leaving[0]
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which only some commands import
            raise
        return _fail(f"the device's memory is full: {str(error).splitlines()[0]} Use one with more that is free")
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-done was kept", 130)
    return 0


def _unread() -> bool:
    """Whether nobody reads standard output any more, as after ``| head``; then it leads nowhere from here on."""
    ready = select.poll()
    ready.register(1, select.POLLOUT)
    if gone := any(event & select.POLLERR for _, event in ready.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes it again at its end
    return gone


def _fail(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
