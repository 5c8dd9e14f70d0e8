"""Study and configuration files: found by name or path, loaded safely, validated. The one door: Snakemake, CLI, `data` commands.

Torch-free and pandas-free, as all that Snakemake's planning imports.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_text
from pel_core.common.logs import logger
from pel_core.common.paths import expand_user, user_path
from pel_core.common.renames import renamed_keys
from pel_core.common.shipped import STUDIES, WORKFLOW, require
from pel_core.common.yaml_files import load_yaml
from pel_core.data.datasets import DATASETS
from pel_core.data.naming import located
from pel_core.models.backbones import backbone_name, expand_weights
from pel_core.studies import job_options
from pel_core.studies.schema.configuration import Configuration
from pel_core.studies.schema.study_file import study_model
from pel_core.studies.schema.validation import validate

HERE = (Path(), Path("workflow/config"))  # where a user's own studies and configurations are found by name
MOST_SEEDS = 10_000
SIZES = ("full", "small")  # of a configuration: real backbones and budgets, or the demo's


def find(name: str | Path) -> Path:
    """The file of a study or configuration: given as a path, or as the name of a YAML file in this folder or its
    ``workflow/config``, else of one that comes with PEL-Lab. A file of this folder that hides one of ours is told.

    Raises:
        PelError: there is none; the message lists the names there are. Or this folder has two of that name.
    """
    given, ours = user_path(name), STUDIES / f"{name}.yaml"
    if given.is_file():
        return given
    here = [path for folder in HERE if (path := folder / f"{name}.yaml").is_file()]
    own = [path for path in here if not (ours.is_file() and path.samefile(ours))]
    if len(own) > 1 and not own[0].samefile(own[1]):
        raise PelError(f"'{name}' is {own[0]} or {own[1]} here; give the path of the one that is meant")
    if own and ours.is_file() and own[0].read_bytes() != ours.read_bytes():
        logger.warning("'%s': %s is taken, not what comes with PEL-Lab by that name (%s)", name, own[0], shown(ours))
    if found := own or here or [ours] * ours.is_file():
        return found[0]
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        raise PelError(f"the study or config file {name} does not exist (looked from {Path.cwd()})")
    require(STUDIES, "its studies and configurations")
    names = {path.stem for folder in (*HERE, STUDIES) for path in folder.glob("*.yaml")}
    if (given / "study.yaml").is_file():
        raise PelError(f"'{name}' is a folder that holds a study: go there (cd {name}), or give the path {given / 'study.yaml'}")
    raise unknown("study or config", name, names, "Or give the path of a YAML file.")


def default_name(kind: str, name: str) -> str:
    """What is meant where no study or configuration is said: ``study.yaml`` or ``config.yaml`` of this folder, as `pel init`
    writes them, else the one of that name that comes with PEL-Lab."""
    return f"{kind}.yaml" if Path(f"{kind}.yaml").is_file() else name


def shown(path: str | Path) -> str:
    """A path for messages and commands: relative to the working folder where it lies below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def make_results(folder: Path) -> None:
    """Make a results folder that is not there, with a .gitignore of its own, so that git ignores it whatever it is called.

    The repository's own ``results`` follows the repository's rules.
    """
    if not folder.exists() and folder.resolve() != WORKFLOW.parent / "results":
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ".gitignore", "*\n")


def parse_seeds(given: Any) -> list[int]:
    """Seeds from a command line or YAML: ``"0,1,2"``, ``"0, 1"``, ``"0 1"``, ``"0..4"`` (0 to 4), ``[0, 1]`` or ``3``.

    Raises:
        PelError: something else, a negative or a repeated seed.
    """
    parts = re.split(r"\s*,\s*|\s+", given.strip()) if isinstance(given, str) else given if isinstance(given, list) else [given]
    ranges = [re.fullmatch(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", str(part)) for part in parts]
    ends = [(int(found[1]), int(found[2] or found[1])) for found in ranges if found]
    count = sum(last - first + 1 for first, last in ends)
    seeds = [seed for first, last in ends for seed in range(first, last + 1)] if count <= MOST_SEEDS else []
    if len(ends) != len(parts) or any(last < first for first, last in ends) or len(set(seeds)) != len(seeds) or not seeds:
        raise PelError(f"seeds={given}: expected different whole numbers, e.g. seeds=0,1,2 or seeds=0..4; at most {MOST_SEEDS:,}")
    return seeds


def sized(value: Any, size: str) -> Any:
    """A study's content at one size: a mapping of exactly ``full`` and ``small``, wherever it stands, becomes one of the two."""
    if isinstance(value, dict):
        return sized(value[size], size) if set(value) == set(SIZES) else {key: sized(item, size) for key, item in value.items()}
    return [sized(item, size) for item in value] if isinstance(value, list) else value


def carried(name: str, path: str | Path) -> str:
    """A path that becomes a rule's input or output, as text.

    Raises:
        PelError: a name that Snakemake's rules (braces) or a log (line breaks) could not carry; ``name`` is its key.
    """
    text = str(path)
    if bad := [letter for letter in text if letter in "{}" or not letter.isprintable()]:
        raise PelError(f"{name}: the path {text!r} holds {bad[0]!r}; choose a name without braces, line breaks and the like")
    return text


def submittable(words: Iterable[object]) -> None:
    """Refuse words that a cluster's shell would take for more: executor plugins put Snakemake's own command line, ``--config``
    and paths, between double quotes.

    Raises:
        PelError: naming the word.
    """
    for word in map(str, words):
        if bad := [letter for letter in word if letter in '$`"\\' or not letter.isprintable()]:
            raise PelError(
                f"{word!r} holds {bad[0]!r}, which a cluster's shell would read as a command; rename it, or say it in a file"
            )


def read_study(path: Path, size: str = "full") -> dict[str, Any]:
    """A study file at a configuration's size, validated.

    Raises:
        PelError: the first violation.
    """
    content = _loaded(path)
    content = sized(content, size)
    validate(content, study_model(), shown(path))
    lists = ["compare"] * ("reported" in content) + ["claims"] * ("claims" in content)
    names = [name for section in ("tables", "figures", "factorial", "variance") for name in content.get(section, {})] + lists
    for name in names:
        if names.count(name) > 1:
            raise PelError(
                f"{shown(path)}: the name '{name}' is given twice; tables, figures, compare and claims share their names"
            )
    return content


def read_config(path: Path, complete: bool = True) -> dict[str, Any]:
    """A configuration file, validated: keys by their names of today, paths that it names found.

    ``complete=False`` is for the commands about data, which need none of the keys that a study does (backbone, seeds, ...).

    Raises:
        PelError: the first violation.
    """
    values = renamed_keys(_loaded(path), shown(path))
    validate(values, Configuration, shown(path), complete)
    try:
        _check_together(values)
    except PelError as error:
        raise PelError(f"{shown(path)}: {error}") from None
    if "weights" in values:
        values["weights"] = {name: expand_weights(os.path.expandvars(file)) for name, file in values["weights"].items()}
    if "cache_dir" in values:
        values["cache_dir"] = expand_user(os.path.expandvars(values["cache_dir"]))
    values.update({key: expand_user(values[key]) for key in ("results", "figures") if key in values})
    return located(values, path)


def _loaded(path: Path) -> dict[str, Any]:
    content = load_yaml(path)
    if "plugins" in content:
        raise PelError(
            f"{shown(path)}: the key 'plugins' may not stand here, for a study or configuration cannot run code; "
            "name a plugin on the command line (--plugins FILE, snakemake --config plugins=FILE), or install it"
        )
    return content


def _check_together(values: Mapping[str, Any]) -> None:
    """What no key says alone: names that must be known, keys that need or exclude each other."""
    if not values.get("comparable", True) and not values.get("notice"):
        raise PelError("comparable is false; say why in the key 'notice'")
    try:
        if "weights" in values:
            values["weights"] = {backbone_name(name): given for name, given in values["weights"].items()}
    except PelError as error:
        raise PelError(f"weights: {error}") from None
    job_options.check(values)
    every = {*DATASETS, *values.get("datasets", {})}
    listed = (("roots", DATASETS), ("lists", DATASETS), ("user_lists", DATASETS), ("descriptions", every))
    listed += (("naming", every), ("texts", every))
    for key, known in listed:
        for name in values.get(key, {}):
            if name not in known:
                raise PelError(f"{key}: {unknown('data set', name, known, '(without -irRATIO)')}")
