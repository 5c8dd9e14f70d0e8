"""Logging: how much is said, where, and that a log which cannot be written stops nothing."""

import os
import subprocess
import sys

import pytest

from pel_core.cli.main import main, parser
from pel_core.common.errors import PelError
from pel_core.common.logs import logger, set_verbosity
from pel_core.common.progress import Progress


@pytest.fixture(autouse=True)
def usual():
    yield
    set_verbosity()


@pytest.mark.parametrize(
    ("steps", "said"),
    [(-9, "e"), (-2, "e"), (-1, "we"), (0, "iwe"), (1, "diwe"), (9, "diwe")],
)
def test_levels_of_verbosity(steps, said, capsys):
    set_verbosity(steps)
    logger.debug("d"), logger.info("i"), logger.warning("w"), logger.error("e")
    lines = {"d": "debug: d", "i": "i", "w": "warning: w", "e": "error: e"}
    assert capsys.readouterr() == ("", "".join(f"{lines[each]}\n" for each in said))


@pytest.mark.parametrize(
    ("options", "shown"), [([], "iw"), (["-q"], "w"), (["--quiet"], "w"), (["-qq"], ""), (["-v"], "diw"), (["-v", "-q"], "iw")]
)
def test_every_command_takes_the_options(options, shown, capsys, monkeypatch):
    def command(arguments):
        logger.debug("d"), logger.info("i"), logger.warning("w")
        print("asked for")
        raise PelError("wrong")

    monkeypatch.setattr("pel_core.cli.study_commands.COMMANDS", ((command, ()),))
    assert main(["command", *options]) == 1
    told = capsys.readouterr()
    lines = {"d": "debug: d", "i": "i", "w": "warning: w"}
    assert told.out == "asked for\n"  # neither more nor less of it
    assert told.err == "".join(f"{lines[each]}\n" for each in shown) + "error: wrong\n"


def test_no_command_lacks_them():
    [commands] = [action for action in parser()._actions if action.choices]
    for name, command in commands.choices.items():
        assert {"-v", "--verbose", "-q", "--quiet"} <= set(command._option_string_actions), name


def test_epochs_are_notes(capsys):
    record = {"epoch": 1, "lr": 0.1, "loss": 2.0, "accuracy": 50.0}
    Progress("run", 10).epoch(record)
    assert capsys.readouterr().err.startswith("epoch 1  loss 2.0000")
    set_verbosity(-1)
    Progress("run", 10).epoch(record)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_log_stops_nothing():
    code = "from pel_core.common.logs import logger\nlogger.warning('x' * 9999)\nlogger.info('y')\nprint('went on')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.returncode == 0 and done.stdout == "went on\n"


def test_more_is_said_where_it_is_asked_for(toy_results, capsys):
    words = ["train", "toy-ir20.toy.ln.s77.epochs=1", "--results", str(toy_results)]
    assert main([*words, "-v"]) == 0
    told = capsys.readouterr().err
    assert "debug: checkpoint saved in" in told and "debug: train took" in told
    assert main([*words, "-q"]) == 0
    assert "debug:" not in capsys.readouterr().err
