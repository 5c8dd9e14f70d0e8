"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
import tomllib
from importlib.metadata import distributions, metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pel_core.studies.settings import SETTINGS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
    )
}
INSTALLED = {canonicalize_name(each.metadata["Name"]) for each in distributions()}


def pins() -> dict[str, str]:
    """The pip pins of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def test_every_declared_dependency_is_locked_within_its_range():
    extras = PROJECT["optional-dependencies"]
    declared = PROJECT["dependencies"] + extras["test"] + extras["hf"] + extras["heic"]
    for requirement in map(Requirement, declared):
        version = LOCK[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but locked {version}"


def test_the_executor_plugins_are_pinned_apart_from_the_base_environment():
    lines = (ROOT / "workflow/profiles/requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and line[0] != "#")
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["slurm"] + PROJECT["optional-dependencies"]["generic"]):
        assert requirement.specifier.contains(pinned[requirement.name])
    assert not {canonicalize_name(name) for name in pinned} & LOCK.keys()  # with SLURM's, every call asks the controller


def test_environment_yml_has_the_same_pins():
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert declared <= pins().keys()
    assert pins() == {name: LOCK[name] for name in pins()}


def test_torch_and_torchvision_are_a_matching_pair():
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.15.0", "0.29.2")


def test_the_lock_names_no_host_and_no_path():
    for name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile"):
        assert not re.search(r"file:|--find-links|index-url|@ ", (ROOT / name).read_text()), name


def test_every_locked_package_may_be_had_by_the_oldest_python():
    """Debian 12 has 3.11.2, where pip finds no soupsieve 4.1.3: it wants 3.11.5."""
    wants = {name: metadata(name).get("Requires-Python") or ">=3" for name in LOCK if name in INSTALLED}
    assert len(wants) > len(LOCK) - 20  # but for what this platform has no use for
    assert [name for name, want in wants.items() if not SpecifierSet(want).contains("3.11.0")] == []


def test_python_versions_agree():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in entries
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_workflow_catalogue_finds_what_it_asks_for():
    """Of a workflow of standardised usage (the catalogue's page "Adding workflows"): these files, and these keys."""
    assert (ROOT / "workflow/Snakefile").is_file() and list((ROOT / "workflow/rules").glob("*.smk"))
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda", "report"}
    page = (ROOT / "config/README.md").read_text()
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())  # what a deployment copies
    assert settings == {"study": "report", "config": "demo"}
    assert all(f"`{key}`" in page for key in SETTINGS if key != "plugins")
