"""docs/studies.md shows tour.yaml, all of it and nothing else; tour.yaml uses every key of a study and every kind there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from pel_core.spec.run_spec import DEFAULTS
from pel_core.studies.config import WORKFLOW, read_study
from pel_core.studies.kinds import FIGURES
from pel_core.studies.schema.generate import json_schemas
from pel_core.studies.schema.study_file import INFO
from pel_core.studies.schema.tune import Tune
from pel_core.studies.study import load

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
TOUR = (WORKFLOW / "config" / "tour.yaml").read_text(encoding="utf-8")
REPORT = (WORKFLOW / "config" / "report.yaml").read_text(encoding="utf-8")
QUOTES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# Files of their own: test_studies.py loads the first.
WHOLE = [
    quote for quote in QUOTES if quote.startswith("title: ") and re.search("^(tables|claims|factorial):", quote, re.MULTILINE)
]


def stands_in(quote: str, text: str) -> bool:
    """Whether lines follow each other in a text, however far they are indented there."""
    wanted, lines = quote.rstrip().splitlines(), text.splitlines()
    pieces = ("\n".join(lines[start : start + len(wanted)]) for start in range(len(lines)))
    return any(dedent(piece).splitlines() == wanted for piece in pieces)


@pytest.mark.parametrize(
    "quote", [quote for quote in QUOTES if quote not in WHOLE], ids=lambda quote: quote.split(":")[0].strip()
)
def test_what_the_page_quotes_stands_in_a_study_that_ships(quote):
    assert stands_in(quote, TOUR) or stands_in(quote, REPORT)


def test_the_page_quotes_the_whole_tour():
    shown = {line.strip() for quote in QUOTES for line in quote.splitlines()}
    assert not [line for line in TOUR.splitlines()[3:] if line.strip() and line.strip() not in shown]


def keys_of(schema: dict[str, Any]) -> set[str]:
    """Every key that a declaration of a schema has, options of runs left out: the tour does not use each of those."""
    keys = {key for model in (schema, *schema["$defs"].values()) for key in model.get("properties", {})}
    return {key for key in keys if key not in DEFAULTS and "." not in key}


def used_keys(value: Any) -> Iterator[str]:
    """Every key of a YAML value, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from used_keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from used_keys(item)


def test_the_tour_uses_every_key_kind_and_word():
    schema = json.loads(json_schemas()["study.schema.json"])
    used = set(used_keys(yaml.safe_load(TOUR)))
    left = keys_of(schema) - used
    tuned = {key for quote in WHOLE if re.search(r"^ *tune:", quote, re.MULTILINE) for key in used_keys(yaml.safe_load(quote))}
    assert {*Tune.model_fields} <= tuned
    # posthoc.yaml; report.yaml; a backbone is the configuration's to name; of a critical-difference diagram; place.yaml; beside a
    # fraction; the demo has no validation split of its own
    assert left <= {"posthoc", "reported", "file", "methods", "backbone", "datasets", "cells", "levels", "exclude"} | tuned, left
    place, steps = (
        yaml.safe_load((WORKFLOW / "config" / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("place", "posthoc")
    )
    assert "posthoc" in set(used_keys(steps)) and "posthoc: {" in PAGE
    assert {"cells", "levels"} <= set(used_keys(place)) and all(f"`{key}:" in PAGE for key in ("cells", "exclude"))
    assert {"reported", "file", "methods"} <= set(used_keys(yaml.safe_load(REPORT)))
    content = read_study(WORKFLOW / "config" / "tour.yaml", "small")
    kinds = {entry.name for entry in FIGURES.entries() if not entry.plugin}
    # A critical-difference diagram takes six data sets, which the demo does not have; the page says how it is written.
    assert {figure["kind"] for figure in content["figures"].values()} == kinds - {"critical-difference"}
    assert "`critical-difference`" in PAGE
    parts = [part for claim in content["claims"].values() for part in claim["parts"]]
    assert {part["expect"] for part in parts} == {"higher", "lower", "equal"}
    assert any("minus" in part for part in parts) and any(len(part["over"]) > 1 for part in parts)
    assert any(len(claim["parts"]) > 1 for claim in content["claims"].values())
    assert all(f"`{word}`" in PAGE for word in INFO)


@pytest.mark.parametrize("config", ["demo", "paper"])
def test_the_study_of_claims_that_the_page_gives_is_one(config, tmp_path):
    (text,) = (quote for quote in WHOLE if quote.startswith("title: My claims"))
    (tmp_path / "mine.yaml").write_text(text)
    study = load(tmp_path / "mine.yaml", config)
    (claims,) = study.artefacts.values()
    assert [len(claim.contrasts[0].pairs) for claim in claims.claims] == [1, 1, 1]
    assert {spec.seed for spec in study.specs.values()} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("config", ["demo", "cifar", "paper"])
def test_the_tuned_study_that_the_page_gives_is_one(config, tmp_path):
    (text,) = (quote for quote in WHOLE if "\ntune:" in quote)
    assert len(text.splitlines()) < 30
    (tmp_path / "mine.yaml").write_text(text)
    study = load(tmp_path / "mine.yaml", config, seeds="0,1,2")
    first, second = study.tunings.values()
    assert [len(first.candidates), len(second.candidates)] == [6, 8]
    assert {spec.epochs for spec in second.specs.values()} == {1 if config == "demo" else 5}
    assert len(study.planned) == 2 * (6 + 8) + 3 * 3


@pytest.mark.parametrize(("config", "sizes"), [("demo", (8, 3)), ("paper", (40, 14, 5))])
def test_the_halved_study_that_the_page_gives_is_one(config, sizes, tmp_path):
    (text,) = (quote for quote in WHOLE if "kind: halving" in quote)
    (tmp_path / "mine.yaml").write_text(text)
    (tuning,) = load(tmp_path / "mine.yaml", config).tunings.values()
    assert tuning.sizes == sizes


@pytest.mark.parametrize("config", ["demo", "paper"])
def test_the_factorial_that_the_page_gives_is_one(config, tmp_path):
    (text,) = (quote for quote in WHOLE if "\nfactorial:" in quote)
    assert len(text.splitlines()) < 30
    (tmp_path / "mine.yaml").write_text(text)
    study = load(tmp_path / "mine.yaml", config, seeds="0")
    assert len(study.specs) == 8 and "loss-ratio-anova" in study.artefacts and "mine-claims" in study.artefacts
