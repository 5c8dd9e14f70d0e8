"""``pel run``: what Snakemake is asked, which profile, what is refused; and the help of the whole program."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pel_core.cli import run_commands
from pel_core.cli.help_text import GROUPS
from pel_core.cli.main import main, parser
from pel_core.common.errors import PelError
from pel_core.common.shipped import PROFILES, SNAKEFILE

STUDY = SimpleNamespace(path=Path("s.yaml"), config_path=Path("c.yaml"), config={})
DEFAULT = ["--workflow-profile", str(PROFILES / "default")]
CONFIG = ["--config", "study=s.yaml", "config=c.yaml"]


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A folder outside the checkout; six cores, of which three may train at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_commands, "usable_cpus", lambda: 6)
    monkeypatch.setattr(run_commands, "slots", lambda config, cores: cores // 2)


def called(*words: str) -> list[str]:
    """What follows ``snakemake -s FILE``, for the words of ``pel run``."""
    ours, _, after = run_commands.divided(["run", *words])
    arguments = parser().parse_args(ours)
    arguments.snakemake = after
    call = run_commands.snakemake_call(arguments, STUDY)
    assert call[:5] == [sys.executable, "-m", "snakemake", "-s", str(SNAKEFILE)] and SNAKEFILE.is_file()
    return call[5:]


QUIET = list(run_commands.QUIET)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [*DEFAULT, "--cores", "6", "--resources", "gpu=3", *QUIET, *CONFIG]),
        (["--cores", "2"], [*DEFAULT, "--cores", "2", "--resources", "gpu=1", *QUIET, *CONFIG]),
        (["--gpus", "4"], [*DEFAULT, "--cores", "6", "--resources", "gpu=4", *QUIET, *CONFIG]),
        (["--", "-n"], ["-n", *DEFAULT, "--cores", "6", "--resources", "gpu=3", *QUIET, *CONFIG]),
        # What is said after -- is not said by us.
        (["--", "-c2", "-q", "all"], ["-c2", "-q", "all", *DEFAULT, "--resources", "gpu=3", *CONFIG]),
        (["--", "--jobs=9", "--res", "gpu=8"], ["--jobs=9", "--res", "gpu=8", *DEFAULT, *QUIET, *CONFIG]),
        # Another executor: a limit would be of the whole cluster.
        (["--", "--executor", "slurm", "-j", "9"], ["--executor", "slurm", "-j", "9", *DEFAULT, *QUIET, *CONFIG]),
        (["--", "-e", "slurm"], ["-e", "slurm", *DEFAULT, *QUIET, *CONFIG]),
        # Files to make stand last, where no list of options takes them.
        (["--", "-n", "--", "results/x"],
         ["-n", *DEFAULT, "--cores", "6", "--resources", "gpu=3", *QUIET, *CONFIG, "--", "results/x"]),
        (["--report"], [*DEFAULT, "--cores", "6", "--resources", "gpu=3", *QUIET, *CONFIG, "--", "provenance"]),
    ],
)  # fmt: skip
def test_what_snakemake_is_asked(words, expected):
    assert called(*words) == expected


def test_a_profile_elsewhere_has_its_own_limits():
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("jobs: 7\n")
    assert called("--profile", "./mine") == ["--workflow-profile", "mine", *QUIET, *CONFIG]
    assert called("--profile", "mine")[:2] == ["--workflow-profile", "mine"]
    Path("profiles/default").mkdir(parents=True)  # as Snakemake has it, a folder's own comes first
    Path("profiles/default/config.yaml").write_text("keep-going: true\n")
    assert called()[:2] == ["--workflow-profile", "profiles/default"]
    with pytest.raises(PelError, match=r"unknown profile 'slrm'; known: default, generic, slurm. Did you mean 'slurm'\?"):
        called("--profile", "slrm")


def test_an_executor_that_is_not_installed_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(run_commands, "find_spec", lambda name: None)
    with pytest.raises(PelError, match=r"executor slurm, which is not installed: pip install 'pel-lab\[slurm\]'"):
        called("--profile", "slurm")
    with pytest.raises(PelError, match=r"pip install 'pel-lab\[generic\]'"):
        called("--profile", "generic")
    monkeypatch.setattr(run_commands, "find_spec", lambda name: name)
    assert called("--profile", "slurm") == ["--workflow-profile", str(PROFILES / "slurm"), *QUIET, *CONFIG]


@pytest.mark.parametrize("words", [["--config", "seeds=1"], ["-C", "seeds=1"], ["--config=a=b"], ["--snakefile", "x"], ["-sx"]])
def test_what_would_take_the_place_of_ours_is_refused(words):
    with pytest.raises(PelError, match=r"after --: "):
        called("--", *words)
    with pytest.raises(PelError, match="expected a number of CPU cores"):
        called("--cores", "two")


def test_a_study_is_named_once(capsys):
    assert main(["plan", "losses", "--study", "tour"]) == 1
    assert capsys.readouterr().err == "error: two studies are named: losses and --study tour; leave one of them out\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_snakemake_which_ends_in_its_own_time(tmp_path, number):
    """INT comes from a terminal to both; TERM to this one alone."""
    child = f"""
import signal, sys, time
from pathlib import Path
def end(number, frame):
    time.sleep(0.5)
    Path({str(tmp_path / "ended")!r}).touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)
Path({str(tmp_path / "begun")!r}).touch()
time.sleep(60)
"""
    code = f"import sys; from pel_core.cli.run_commands import start; sys.exit(start([sys.executable, '-c', {child!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number and (tmp_path / "ended").exists()


def test_help_lists_every_command_in_order_of_use_on_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    lines = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", text, re.M))
    assert set(lines) == set(parser().commands.choices) and all(line.endswith(".") for line in lines.values())
    assert list(lines)[:7] == list(next(iter(GROUPS.values()))) == ["init", "data", "plan", "run", "status", "show", "report"]
    assert max(map(len, text.splitlines())) <= 150
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"pel-lab \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", sorted(parser().commands.choices))
def test_help_of_each_command(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0 and name in capsys.readouterr().out


def test_where_the_workflow_lies(capsys):
    assert main(["where"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "Snakefile") == SNAKEFILE


def test_a_reader_that_is_gone_ends_a_command_quietly():
    """`status | head -3` ended in "error: Broken pipe"."""
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", "pel_core", "options"]
    done = subprocess.run(words, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "--study", "losses"], "losses.yaml has no reported values .*compare RUN_A RUN_B"),
        (["claims", "--study", "losses"], "losses.yaml has no claims"),
        (["report", "page.html"], "page.html is no study; .* --out page.html"),
    ],
)
def test_what_a_command_cannot_be_asked_for_says_what_can(words, told, capsys):
    assert main(words) == 1
    assert re.search(told, capsys.readouterr().err)
