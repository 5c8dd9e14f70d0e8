"""A toy study on disk, stage by stage, for fault injection: what each stage reads, writes, and must end with."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"
OTHER = "toy-ir20.toy.head-only.s0"
AGGREGATE = ("table", "figure", "claims")
CACHE = ("data", "backbone", "text")
STAGES = ("train", "evaluate", *(f"aggregate {name}" for name in AGGREGATE), *(f"cache {name}" for name in CACHE))
STUDY = """
title: Small
roles: {small: Toy set}
tables:
  one:
    title: Toy
    where: {dataset: small-ir20}
    rows: [{label: Both, method: "adaptformer@2:4+vpt-shallow"}, {label: Head, method: head-only}]
    columns: [{label: Overall, value: overall}, {label: Tail, value: tail}]
figures:
  bars: {kind: bars, title: Bars, where: {dataset: small-ir20, value: overall}, bars: [{label: Head, method: head-only}]}
claims:
  better:
    statement: Adapters help
    source: here
    parts:
      - {a: {method: "adaptformer@2:4+vpt-shallow"}, b: {method: head-only}, over: [{dataset: small-ir20}],
         value: overall, expect: higher}
"""
CONFIG = """
title: Toy
mark: TOY
notice: Made images
comparable: false
backbone: toy
seeds: [0]
data: {small: toy}
"""
TIMES = {"environment", "seconds", "images_per_second", "peak_memory_mb"}


@dataclass(frozen=True)
class ToyStudy:
    """A folder with a study, a configuration, results and figures."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @staticmethod
    def make(folder: Path, run: Callable[[list[str]], Any]) -> "ToyStudy":
        """An undisturbed one, finished."""
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text(STUDY)
        (folder / "config.yaml").write_text(CONFIG)
        world = ToyStudy(folder)
        for stage in ("cache backbone", "cache data", "cache text", "train"):
            world._done(run(world.words(stage)))
        shutil.copytree(world.results / "checkpoints", folder / "checkpoints")
        for words in (world.words("train", OTHER), world.words("evaluate", OTHER), *map(world.words, STAGES[1:5])):
            world._done(run(words))
        return world

    @staticmethod
    def _done(end: Any) -> None:
        assert end.status == 0, end.told

    def words(self, stage: str, slug: str = SLUG) -> list[str]:
        """The command of a stage."""
        name, r = stage.split()[-1], str(self.results)
        ask = ["--study", str(self.folder / "study.yaml"), "--config", str(self.folder / "config.yaml"), "--results", r]
        ask += ["--figures", str(self.folder / "figures")]
        return {
            "train": ["train", slug, "--results", r, "--checkpoint-seconds", "1e-9"],
            "evaluate": ["evaluate", slug, "--results", r],
            "table": ["table", "one", *ask],
            "figure": ["figure", "bars", *ask],
            "claims": ["claims", *ask],
            "data": ["data", "prepare", "toy", "--out", f"{r}/data/toy"],
            "backbone": ["backbone", "toy", "--out", f"{r}/backbones/toy"],
            "text": ["text", "--backbone-dir", f"{r}/backbones/toy", "--data-dir", f"{r}/data/toy",
                     "--out", f"{r}/text/toy/toy.default.safetensors"],
        }[name]  # fmt: skip

    def places(self, stage: str) -> list[Path]:
        """Files and folders that a stage makes."""
        r, name = self.results, stage.split()[-1]
        return {
            "train": [r / "runs" / SLUG / file for file in ("delta.safetensors", "train.json")],
            "evaluate": [r / "runs" / SLUG / file for file in ("metrics.json", "predict.json", "logits.safetensors",
                                                               "predictions.parquet", "confusion.csv", "classes.csv")],
            "table": [r / "tables" / f"one.{suffix}" for suffix in ("csv", "md", "tex", "tabular.tex", "long.csv")],
            "figure": [self.folder / "figures"],
            "claims": [r / "tables" / f"study-claims.{suffix}" for suffix in ("csv", "md")],
            "data": [r / "data" / "toy"],
            "backbone": [r / "backbones" / "toy"],
            "text": [r / "text" / "toy"],
        }[name]  # fmt: skip

    def copy(self, folder: Path, stage: str) -> "ToyStudy":
        """A world as it is before a stage: what it reads is linked, what it writes is not there."""
        world = ToyStudy(folder)
        world.results.mkdir(parents=True)
        for name in ("study.yaml", "config.yaml"):
            shutil.copy(self.folder / name, folder / name)
        for name in ("data", "backbones", "text"):
            if stage != {"data": "cache data", "backbones": "cache backbone", "text": "cache text"}[name]:
                (world.results / name).symlink_to(self.results / name)
        if stage.startswith("aggregate"):
            (world.results / "runs").symlink_to(self.results / "runs")
        if stage == "evaluate":
            (world.results / "runs" / SLUG).mkdir(parents=True)
            for path in self.places("train"):
                shutil.copy(path, world.results / "runs" / SLUG)
            shutil.copytree(self.folder / "checkpoints", world.results / "checkpoints")
        return world

    def own_files(self, stage: str) -> list[Path]:
        """What a stage left, leases, checkpoints and temporaries too."""
        given = {path.name for path in self.places("train")} if stage == "evaluate" else set()
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name not in given]
        return [path for path in found if path.suffix != ".yaml" and path.name != "README.md" and not self._linked(path)]

    def _linked(self, path: Path) -> bool:
        return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(self.folder))

    def reader(self, stage: str) -> list[str] | None:
        """The command that reads what a stage made."""
        after = {"train": "evaluate", "cache data": "train", "cache backbone": "train", "cache text": "train"}.get(stage)
        return self.words(after) if after else None

    def move_lease(self) -> None:
        """Make a lease that was left another host's, which nobody can ask whether its process lives."""
        for path in (self.results / "checkpoints").glob("*.lease"):
            try:
                path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
            except ValueError:
                continue


def timeless(value: Any) -> Any:
    """JSON without times and environment."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    return timeless(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def different(good: ToyStudy, world: ToyStudy, stage: str) -> list[str]:
    """What a stage's end differs in from an undisturbed one's: files that are absent, other or left over."""
    found = []
    for place, model in zip(world.places(stage), good.places(stage), strict=True):
        models = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else [model]
        for path in models:
            own = place / path.relative_to(model) if model.is_dir() else place
            if not own.is_file():
                found.append(f"{own.name} is absent")
            elif content(own) != content(path):
                found.append(f"{own.name} is other")
        if model.is_dir() and (more := {p.name for p in place.rglob("*")} - {p.name for p in model.rglob("*")}):
            found.append(f"more: {sorted(more)}")
    left = [path.name for path in world.own_files(stage) if path.name.startswith(".") or path.suffix == ".lease"]
    return found + [f"left over: {name}" for name in left]
