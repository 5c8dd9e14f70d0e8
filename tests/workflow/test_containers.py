"""The container definitions take the Makefile's steps and copy what a study needs. They are not built: that needs an engine."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {name: (ROOT / "workflow" / "containers" / name).read_text() for name in ("Dockerfile", "Apptainer.def")}
# What is installed, read by planning, or run; and the link by which Snakemake finds the default profile.
NEEDED = {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "Snakefile", "pel_core", "workflow"}


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
