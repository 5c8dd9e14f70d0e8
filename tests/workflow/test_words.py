"""What a person types to make or to Snakemake's ``--config`` reaches the program as it was typed, however odd it is."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.cli import parse_config
from snakemake_interface_executor_plugins.utils import format_cli_arg

from pel_core.cli.main import parser
from pel_core.cli.run_commands import settings as setting_words
from pel_core.cli.snakemake import _is_nothing, snakemake_words
from pel_core.common.errors import PelError
from pel_core.common.paths import expand_user, user_path
from pel_core.studies.config import submittable
from pel_core.studies.settings import SETTINGS, apply_settings, typed_settings

ROOT = Path(__file__).parents[2]
NUMBERS = ["2024_01_15", "1.10", "1e3", "007", "0x1F", "1:30", "true", "null", "nan", "[a]", "{a: b}", "'a'", '"a"', "- a"]
ODD = ["it's", "$HOME/a$b", "$(touch pwned)", "`touch pwned`", 'a "b" c', "100%d", "-x", "~", "~/x y", "a;b & c|d", "*?[x]!",
       "a\\", "Zoë 日本", "a=b", "a,b", "a#b", "a: b", "$$", "${HOME}"]  # fmt: skip
STUB = r"""#!/bin/sh
printf '%s\0' "$#" "$@" "${{PEL_DATA-none}}" >> {told}
"""


@pytest.fixture
def make(tmp_path):
    """``make`` with an environment that tells what it is asked; returns the words of each program's call, and PEL_DATA."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    (tmp_path / ".venv").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml", ".venv/installed"):
        (tmp_path / name).touch()
    stub, told = tmp_path / "bin/python", tmp_path / "told"
    stub.write_text(STUB.format(told=shlex.quote(str(told))))
    stub.chmod(0o755)

    def call(target: str, *words: str, **environment: str) -> list:
        told.unlink(missing_ok=True)
        # `make test` itself exports its words to the tests.
        words_of_make = re.search(r"^WORDS := (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
        said = {"PEL_DATA", "MAKEFLAGS", "MAKELEVEL", *words_of_make}
        kept = {key: value for key, value in os.environ.items() if key not in said}
        done = subprocess.run(
            ["make", "--no-print-directory", target, "BIN=bin", *words],
            cwd=tmp_path, env={**kept, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not list(tmp_path.glob("pwned"))
        words, calls = told.read_text().split("\0")[:-1], []
        while words:
            count = int(words[0])
            calls.append((words[1 : count + 1], words[count + 1]))
            words = words[count + 2 :]
        return calls

    return call


@pytest.mark.parametrize("text", [*NUMBERS, *ODD, "# a"])
def test_every_word_that_make_is_given_arrives(make, text):
    said = {name: f"{text}{number}" for number, name in enumerate(("STUDY", "CONFIG", "SEEDS", "BACKBONE", "WEIGHTS", "PLUGINS"))}
    said |= {"RESULTS": text, "FIGURES": text, "DATA": text, "CORES": text, "GPUS": text}
    ((words, data),) = make("study", *(f"{name}={word}" for name, word in said.items()))
    assert words[:3] == ["-m", "pel_core", "run"] and data == text
    assert sorted(words[3:]) == sorted(f"--{name.lower()}={word}" for name, word in said.items() if name != "DATA")


@pytest.mark.parametrize("text", [*NUMBERS, *ODD])
def test_every_word_that_the_program_is_given_reaches_snakemake(text):
    said = {key: f"{text}{number}" for number, key in enumerate(SETTINGS)}
    arguments = parser().parse_args(["run", *(f"--{key}={word}" for key, word in said.items())])
    study = SimpleNamespace(path=Path(said["study"]), config_path=Path(said["config"]))
    assert settings_of(setting_words(arguments, study)[1:]) == said


def test_words_in_the_environment_and_none(make):
    ((plan, _),) = make("plan", RESULTS="a $b's", SEEDS="")
    assert plan == ["-m", "pel_core", "plan", "--measure", "--study=report", "--config=demo", "--results=a $b's"]
    ((run, data),) = make("study")
    assert data == "none" and run[:-1] == ["-m", "pel_core", "run", "--study=report", "--config=demo"]
    assert re.fullmatch(r"--cores=\d+", run[-1])
    ((own, data),) = make("plan", "DATA=~/x", "BACKBONE=clip-mini")
    assert own[4:] == ["--study=own-table", "--config=own-mini", "--backbone=clip-mini"] and data == "~/x"
    ((report, _),) = make("report", "REPORT=~/a $b.html")
    assert report[2:6] == ["run", "--report=~/a $b.html", "--study=report", "--config=demo"]
    for target in ("status", "show", "unlock"):
        assert make(target) == [(["-m", "pel_core", target, "--study=report", "--config=demo"], "none")]


def test_a_makefile_that_asks_for_the_right_study(make):
    def told(*words: str) -> list[str]:
        return make("plan", *words)[0][0][4:]

    assert told("DATA=/some where/it's") == told("DATA=x") == ["--study=own-table", "--config=own"]
    assert told("DATA=x", "CONFIG=images") == ["--study=report", "--config=images"]
    assert told() == ["--study=report", "--config=demo"]
    mini = ["--study=losses", "--config=own-mini", "--backbone=clip-mini"]
    assert told("DATA=x", "STUDY=losses", "BACKBONE=clip-mini") == mini


@pytest.mark.parametrize("text", ["# a", "#", " ", "#a=b"])
def test_what_snakemake_takes_for_a_comment_is_a_path_all_the_same(text):
    with pytest.raises(AssertionError):
        parse_config([f"results={text}"])
    words = snakemake_words(["--config", f"results={text}", "seeds=0"])[1:]
    assert user_path(settings_of(words)["results"]) == Path(text) and words[1] == "seeds=0"


@pytest.mark.parametrize("name", ["DATA", "RESULTS", "SEEDS"])
def test_an_empty_word_is_refused(make, name):
    """``DATA=$UNSET``: the demo's ten minutes do not start."""
    with pytest.raises(AssertionError, match=f"{name} is empty: say what it is"):
        make("plan", f"{name}=")


def settings_of(words: list[str]) -> dict:
    """As the Snakefile reads them."""
    return typed_settings(parse_config(words), words, ["snakemake", "--config", *words])


@pytest.mark.parametrize("key", SETTINGS)
@pytest.mark.parametrize("text", NUMBERS + ODD)
def test_every_setting_of_config_is_as_typed(key, text):
    assert settings_of([f"{key}={text}"]) == {key: text}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SETTINGS), st.text(min_size=1)), max_size=5))
def test_settings_are_as_typed_here_and_in_the_jobs_of_a_cluster(pairs):
    """Executors pass the words on through a shell; those that it would change are refused before (`submittable`)."""
    words, expected = [f"{key}={text}" for key, text in pairs if not _is_nothing(text)], {}
    expected.update((key, text) for key, text in pairs if not _is_nothing(text))
    assert settings_of(words) == expected
    try:
        submittable(expected.values())
    except PelError:
        return
    assert settings_of(shlex.split(format_cli_arg("--config", words))[1:]) == expected


def test_what_a_profile_or_file_has_made_a_number_of_is_refused():
    with pytest.raises(PelError, match=r"results: .* gives 20240115, .*--config results=\.\.\."):
        typed_settings({"results": 20240115}, [], ["snakemake", "--configfile", "c.yaml"])
    with pytest.raises(PelError, match="gives 20240115"):
        typed_settings(parse_config(["results=20240115"]), ["results=20240115"], ["snakemake"])
    with pytest.raises(PelError, match=r"gives 1\.1"):  # a profile's "1.10"
        typed_settings(parse_config(["results='1.10'"]), ["results='1.10'"], ["snakemake"])
    plain = {"results": "mine", "seeds": [0, 1], "plugins": ["a.py"]}
    assert typed_settings(plain, [], ["snakemake"]) == plain
    with pytest.raises(PelError, match="results= is empty"):
        settings_of(["results="])


def test_tilde_is_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PEL_DATA", "~/images")
    values = {"backbone": "toy"}
    apply_settings(values, {"results": "~/r", "weights": "~/w.pt"})
    assert values["results"] == f"{tmp_path}/r" and values["figures"] == f"{tmp_path}/r/figures"
    assert values["weights"] == {"toy": f"{tmp_path}/w.pt"} and os.environ["PEL_DATA"] == f"{tmp_path}/images"
    apply_settings(values, {"root": "~/other", "figures": "~/f", "weights": "local-dir:~/w"})
    assert os.environ["PEL_DATA"] == f"{tmp_path}/other" and values["figures"] == f"{tmp_path}/f"
    assert values["weights"] == {"toy": f"local-dir:{tmp_path}/w"}


@pytest.mark.parametrize("text", ["./~", "./~x", "~nobody-here/x", "~/x", "a~b", "$HOME", "%s", "-x", "./-x"])
def test_expanding_twice_is_expanding_once(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    once = user_path(text)
    assert user_path(str(once)) == once
    assert (once == (tmp_path / "home/x" if text == "~/x" else once) and "$HOME" in str(once)) or text != "$HOME"
    assert not text.startswith("./~") or once == tmp_path / text


def test_an_empty_path_is_not_this_folder():
    with pytest.raises(PelError, match="empty path"):
        expand_user("")
