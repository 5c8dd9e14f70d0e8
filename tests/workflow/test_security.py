"""A study, a configuration or a data folder from a stranger runs no code, whatever its files and folders are called.

Every path that reaches a shell is given a name that would run something there; ``pwned`` is the file that it would leave.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.yaml_files import load_yaml
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import read_config, read_study, submittable
from pel_core.studies.study import load, load_settings

ROOT = Path(__file__).parents[2]
# Spaces, both quotes, a command after `;`, `&` or `|`, both substitutions, globs, a comment, a backslash.
HOSTILE = "-a% b'cé\"d; touch pwned; $(touch pwned) `touch pwned` & touch pwned | touch pwned > pwned ~ * ? [x]#x \\ !"
BRACES = HOSTILE + " {wildcards} {{x}} {params.key}"
STUDY = """
title: Hostile
roles: {small: "Toy $(touch pwned) `touch pwned` ; touch pwned"}
tables:
  one:
    title: "T; touch pwned; $(touch pwned)"
    where: {dataset: small-ir20}
    rows: [{label: "a; touch pwned `touch pwned` $(touch pwned) '", method: adaptformer}, {label: Zero, method: zero-shot}]
    columns: [{label: "\\" ; touch pwned", value: overall}]
figures:
  bars:
    kind: bars
    title: "B $(touch pwned)"
    where: {dataset: small-ir20, value: overall}
    bars: [{label: "a; touch pwned", method: adaptformer}]
"""

SLUGS = ("{}-ir20.toy.adaptformer.s0", "toy-ir20.{}.adaptformer.s0", "toy-ir20.toy.{}.s0", "toy-ir20.toy.adaptformer.s{}")
SLUGS += ("toy-ir20.toy.adaptformer.s0.loss={}", "toy-ir20.toy.adaptformer.s0.lr={}")


def dump(**values) -> str:
    """YAML of a configuration on the toy backbone."""
    import yaml

    return yaml.safe_dump({"title": "Hostile", "backbone": "toy", "seeds": [0], "data": {"small": "toy"}, **values})


def snakemake(folder: Path, code: Path, *words: str, **settings: str):
    settings = {"study": "study.yaml", "config": "config.yaml", **settings}
    profile = ROOT / "workflow" / "profiles" / "default"
    command = [sys.executable, "-m", "snakemake", "-s", str(code / "Snakefile"), "--workflow-profile", str(profile), *words]
    command += ["--cores", "2", "--resources", "gpu=2", "--config", *(f"{key}={value}" for key, value in settings.items())]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PEL_DATA")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def fake(tmp_path) -> Path:
    """A copy of the workflow whose commands only write what they would (tests/fake_results.py)."""
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(ROOT / "Snakefile", code)
    for name in ("workflow", "pel_core"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__", "clip-mini", "conformance"))
    shutil.copy(ROOT / "tests/fake_results.py", code / "pel_core/__main__.py")
    return code


def test_hostile_names_pass_through_every_rule_as_they_are(fake, tmp_path):
    work = tmp_path / HOSTILE
    work.mkdir()
    study, config = (
        f"{BRACES}.study.yaml",
        f"{BRACES}.config.yaml",
    )  # no line break: Snakemake reads --config as YAML, which folds it
    (work / study).write_text(STUDY)
    sentences = f"{HOSTILE}.json"
    (work / sentences).write_text("{}")
    (work / config).write_text(dump(recipe={"prompt": "descriptions"}, descriptions={"toy": sentences}))
    done = snakemake(work, fake, study=study, config=config, results=HOSTILE, figures=f"figures {HOSTILE}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert (work / HOSTILE / "tables" / "one.csv").is_file()
    assert (work / f"figures {HOSTILE}" / "bars.pdf").is_file()
    made = {path.name for path in work.iterdir()}
    assert made == {study, config, sentences, HOSTILE, f"figures {HOSTILE}", ".snakemake"}


def test_a_path_to_weights_reaches_its_command_as_one_word(tmp_path):
    weights, cache = tmp_path / BRACES, tmp_path / f"cache {BRACES}"
    weights.write_bytes(b"x")
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(dump(backbone="clip-b16", weights={"clip-b16": str(weights)}, cache_dir=str(cache)))
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml")
    assert shlex.split(study.weights_option("clip-b16")) == [f"--weights={weights}", f"--cache-dir={cache}"]


@pytest.mark.slow
def test_hostile_data_is_data(tmp_path):
    """For real: folders, lists, class names and images of one's own, in a folder with a hostile name."""
    work = tmp_path / HOSTILE
    data = work / "images `touch pwned`; touch pwned"  # no `$`: there it names an environment variable, or is refused
    words = ["a; touch pwned", "$(touch pwned)", "`touch pwned`", "{0.__class__} {wildcards}", "' \" \\ ../../x"]
    lists = {"train": [], "test": []}
    for label, word in enumerate(words):
        for part, lines in lists.items():
            for count in range(4 - label // 2 if part == "train" else 2):
                name = f"{part}/{word.replace('/', '_')} {count}.png"
                (data / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (40 * label, 60 * count, 90)).save(data / name)
                lines.append(f"{name} {label}")
    for part, lines in lists.items():
        (data / f"{part} `touch pwned`.txt").write_text("\n".join(lines))
    (data / "names.txt").write_text("\n".join(words))
    mine = {"root": data.name, "train": "train `touch pwned`.txt", "test": "test `touch pwned`.txt", "names": "names.txt"}
    (work / "study.yaml").write_text(STUDY.replace("-ir20", ""))
    (work / "config.yaml").write_text(
        dump(data={"small": "mine"}, datasets={"mine": mine}, recipe={"epochs": 1, "precision": "fp32"})
    )
    done = snakemake(work, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "results" / "tables" / "one.csv").is_file()
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["results", "figures"])
@pytest.mark.parametrize("text", ["a{run}b", "a\nb", "a\0b", "a\tb", "a\x1b[2Jb"])
def test_folders_that_a_rule_cannot_carry_are_refused(tmp_path, name, text):
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(dump())
    with pytest.raises(PelError, match=f"{name}: the path .* without braces, line breaks"):
        load(tmp_path / "study.yaml", tmp_path / "config.yaml", **{name: text})


@pytest.mark.parametrize("letter", ["$", "`", '"', "\\", "\n"])
def test_a_clusters_command_line_carries_no_substitution(letter):
    submittable(["results of mine; 'x' & (y)", ["a"], 3])
    with pytest.raises(PelError, match="a cluster's shell would read as a command"):
        submittable(["fine", f"a{letter}b"])


def test_so_is_a_working_folder(tmp_path, monkeypatch):
    (tmp_path / BRACES).mkdir()
    monkeypatch.chdir(tmp_path / BRACES)
    with pytest.raises(PelError, match=r"working folder: the path .* without braces"):
        load_settings({})


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch pwned]", "!!python/name:os.system", "!include /etc/passwd"]
)
def test_yaml_builds_plain_values_alone(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(f"title: {tag}\n")
    with pytest.raises(PelError, match="not valid YAML"):
        load_yaml("x.yaml")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "$(x)", "a;b", "a b", "-x", "{run}", "a\nb", ""])
@pytest.mark.parametrize("section", ["tables", "figures", "roles"])
def test_names_that_become_files_or_wildcards_are_refused(tmp_path, section, name):
    import yaml

    content = yaml.safe_load(STUDY)
    content[section][name] = next(iter(content[section].values()))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(PelError, match="not a possible name"):
        read_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("name", ["../x", "a/b", "$(x)", "a;b", "a b", "-x", "{base}", "a\nb", "a.b"])
def test_names_of_data_sets_too(tmp_path, name):
    (tmp_path / "config.yaml").write_text(dump(datasets={name: {"root": ".", "train": "a", "test": "b", "names": "c"}}))
    with pytest.raises(PelError, match="not a possible name"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("part", ["../../x", "$(touch pwned)", "a b", "x;y", "`x`", "a/b", "a\nb"])
@pytest.mark.parametrize("slug", SLUGS)
def test_a_runs_name_is_its_one_spelling_or_refused(slug, part):
    with pytest.raises(PelError):
        RunSpec.parse(slug.format(part))


@pytest.mark.parametrize(
    "words", [["train", "--", "-x"], ["evaluate", "--", "--results=/"], ["train", "../../x"], ["table", "--", "-x"]]
)
def test_names_that_look_like_options_are_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert re.fullmatch(r"error: .*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_every_value_in_a_shell_command_is_quoted():
    """``{x:q}``, or text that was quoted where it was put together."""
    made = {
        "ASK",
        "params.weights",
        "params.sentences",
        "params.options",
        "params.test_set",
    }  # quoted in studies/study.py, study_files.py, report.smk, job_options.py
    fixed = {"params.check", "params.accept", "params.kind", "threads"}  # words of ours, and a number
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        commands = re.findall(r"^    shell:\n((?:        .*\n?)+)", path.read_text(), flags=re.M)
        assert len(commands) == len(re.findall(r"^    shell:", path.read_text(), flags=re.M))
        for field in re.findall(r"(?<!\{)\{([^{}]+)\}", "".join(commands)):
            assert field.endswith(":q") or field in made | fixed, f"{path.name}: {{{field}}}"


def test_nothing_is_unpickled_but_what_is_checked():
    """``pickle`` in cifar.py alone, ``torch.load`` of tensors alone, NumPy files without objects, no shell, no eval; code is run
    from a file in plugins.py alone, which is what a plugin is, and never named by a study."""
    for path in (ROOT / "pel_core").rglob("*.py"):
        text = path.read_text()
        assert "pickle" not in re.findall(r"^(?:import|from) (\w+)", text, flags=re.M) or path.name == "cifar.py", path
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\([^\n]*", text)), path
        assert "allow_pickle=True" not in text, path
        shell, code = r"shell=True|os\.system|os\.popen", r"(?<![.\w])(?:eval|exec)\((?!compile\(content, path)"
        assert not re.search(rf"{shell}|{code}|yaml\.(?:unsafe_|full_)?load\((?!.*_Loader)", text), path
        assert "exec(compile(" not in text or path.name == "plugins.py", path
