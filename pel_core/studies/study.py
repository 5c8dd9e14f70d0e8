"""A study (which tables, figures, claims) on a configuration (which data, backbone, seeds) -> artefacts -> runs.

Torch-free and pandas-free: Snakemake's planning imports it. Both files are validated whole before anything is planned.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import read_json
from pel_core.common.fingerprints import canonical, fingerprint
from pel_core.common.paths import user_path
from pel_core.common.plugins import use_plugins
from pel_core.common.versions import STAGES, TRAIN, made_by, stale
from pel_core.data.datasets import require_factors, split_name
from pel_core.data.image_cache import cache_folder
from pel_core.data.roots import tell_roots
from pel_core.ingest.identity import data_params
from pel_core.ingest.notes import data_notes, text_notes
from pel_core.ingest.sources import Size, open_source, require_split
from pel_core.ingest.user_outline import Outline
from pel_core.models.backbones import local_weights
from pel_core.spec.outcomes import diverged, failed_file
from pel_core.spec.results import OUTPUTS, invalid_reason, metrics_file, needs_score, read_record, run_folder, scoring
from pel_core.spec.run_spec import RunSpec
from pel_core.studies import inputs, provenance
from pel_core.studies.artefacts import make_artefacts, make_bindings
from pel_core.studies.cells import Artefact, Bindings
from pel_core.studies.config import carried, find, read_config, read_study, shown
from pel_core.studies.data_sizes import check_factors
from pel_core.studies.kinds import FIGURE
from pel_core.studies.settings import apply_settings, check_settings, listed
from pel_core.studies.user_images import check_splits, outlines

RESOURCES = {"threads": 1, "mem_mb": 4000, "runtime": 60}


@dataclass(frozen=True)
class Study:
    """A study resolved on a configuration. ``left_out``: artefact -> why this configuration does not cover it."""

    title: str
    path: Path
    config_path: Path
    config: Mapping[str, Any]
    bindings: Bindings
    results: Path
    figures: Path
    artefacts: Mapping[str, Artefact]
    left_out: Mapping[str, str]
    reported: Mapping[str, Any]
    partial: bool = False  # whether artefacts are drawn from what there is, and say what is missing
    # What `compare_inputs` found: the prepared files that are of other inputs, and why; and what each data set depends on.
    others: dict[str, str] = field(default_factory=dict, compare=False)
    params: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds every cell is made over, unless its artefact says otherwise."""
        return self.bindings.seeds

    @cached_property  # planning asks several times for each run
    def specs(self) -> dict[str, RunSpec]:
        """The union of all artefacts' runs by slug: each is trained and evaluated once, whoever shares it."""
        return {slug: spec for artefact in self.artefacts.values() for slug, spec in artefact.specs.items()}

    @property
    def accept(self) -> tuple[str, ...]:
        """Runs whose results of another version are accepted by name."""
        return tuple(self.config.get("accept", ()))

    def data_notes(self, name: str = "") -> dict[str, list[str]]:
        """What preparing the data sets of the study, or of one artefact, and their class names' text features had to tell, by
        data set (`ingest.notes`)."""
        specs = self.artefact(name).specs if name else self.specs
        notes = data_notes(self.results, (spec.dataset for spec in specs.values()))
        texts = {self.prepared(slug)["text"]: spec for slug, spec in specs.items() if spec.needs_text}
        for path, spec in texts.items():
            if told := [f"{spec.backbone}: {note}" for note in text_notes(path)]:
                notes.setdefault(split_name(spec.dataset)[0], []).extend(told)
        return notes

    def artefact(self, name: str) -> Artefact:
        """An artefact by name.

        Raises:
            PelError: it is not declared, or this configuration does not cover it.
        """
        if name in self.left_out:
            raise PelError(f"{name} is not part of {shown(self.config_path)}: {self.left_out[name]}")
        if name not in self.artefacts:
            raise unknown("artefact", name, self.artefacts, f"(of {shown(self.path)})")
        return self.artefacts[name]

    def summary(self, kind: str) -> Artefact:
        """The study's only artefact of the kind ``compare`` or ``claims``.

        Raises:
            PelError: there is none.
        """
        return next((artefact for artefact in self.artefacts.values() if artefact.kind == kind), None) or self.artefact(kind)

    def spec(self, slug: str) -> RunSpec:
        """The spec of a run by name, of this study or not.

        Raises:
            PelError: it is no run, or of an undeclared data set.
        """
        if slug in self.specs:
            return self.specs[slug]
        spec = RunSpec.parse(slug)
        require_factors(spec.dataset, spec.factors, self.bindings.datasets)
        return spec

    def folder(self, name: str) -> Path:
        """Where the files of an artefact lie."""
        return self.figures if self.artefact(name).how.form == FIGURE else self.results / "tables"

    def files(self, name: str) -> list[str]:
        """The files of an artefact."""
        return [f"{self.folder(name)}/{name}.{suffix}" for suffix in self.artefact(name).how.form]

    def targets(self) -> list[str]:
        """Every file the study makes. The runs' results and the scores' stamp are named too, or Snakemake would not miss them."""
        made = [file for name in self.artefacts for file in self.files(name)] + [self.score_stamp] * bool(self.specs)
        for slug in self.specs:
            if self.diverged(slug):
                continue
            folder = run_folder(self.results, slug)
            # An accepted result is older than some of its files; it stays as it is.
            made += [f"{folder}/{file}" for file in ("metrics.json", *(() if self.accepted(slug) else OUTPUTS[:1]))]
        return made

    def inputs(self, name: str) -> list[str]:
        """The files an artefact is drawn from."""
        artefact = self.artefact(name)
        if artefact.how.from_models:
            needed = [self.prepared(cell.specs[0].slug) for cell in artefact.cells]
            return sorted({files[kind] for files in needed for kind in ("backbone", "data")})
        return [self.result_file(slug) for slug in artefact.specs]

    def result_file(self, slug: str) -> str:
        """What is read of a run: its result, or that its training diverged."""
        return str(failed_file(self.results, slug) if self.diverged(slug) else metrics_file(self.results, slug))

    def diverged(self, slug: str) -> dict[str, Any] | None:
        """The record of a run's training that diverged; None where it did not, or the configuration is strict: then it is made
        again, and nothing is drawn without it."""
        record = None if self.config.get("strict") else diverged(self.results, slug, self.specs[slug])
        return record if record and not self._of_others(slug) else None

    def _of_others(self, slug: str) -> str:
        """Why what a run reads is of other inputs than there are now; empty where it is not."""
        return next((self.others[file] for file in self.prepared(slug).values() if file in self.others), "")

    def state(self, slug: str) -> str:
        """``done``, ``missing``, ``diverged``, ``to score`` (its predictions serve, its metrics are of another scoring), or why
        the result that is there cannot be used."""
        path = metrics_file(self.results, slug)
        if self.diverged(slug):
            return "diverged"
        if not path.is_file():
            return "missing"
        if (other := self._of_others(slug)) and not self.accepted(slug):
            return other
        if needs_score(self.results, self.specs[slug], self.accept):
            return "to score"
        try:
            return invalid_reason(read_record(path), self.specs[slug], self.accept, self.results) or "done"
        except PelError as damaged:
            return str(damaged)

    def missing(self) -> list[str]:
        """The runs without an outcome: a usable result, or that their training diverged."""
        return [slug for slug in self.specs if self.state(slug) not in ("done", "diverged")]

    def draw_params(self, name: str) -> str:
        """An artefact's own resolved declaration: a changed label redraws it alone."""
        artefact = self.artefact(name)
        drawn: dict[str, Any] = {
            "kind": artefact.kind,
            "title": artefact.title,
            "declaration": artefact.declaration,
            "cells": [],
            "banner": artefact.banner,
            "accept": [slug for slug in self.accept if slug in artefact.specs],
        }
        if artefact.how.from_models:
            drawn["models"] = [provenance.train_params(cell.specs[0], TRAIN) for cell in artefact.cells]
        else:
            drawn["cells"] = [[cell.row, cell.column, cell.value, *cell.slugs] for cell in artefact.cells]
        if artefact.how.version > 1:
            drawn["version"] = artefact.how.version
        if artefact.how.reads_reported and self.reported:
            drawn["reported"] = fingerprint(self.reported["path"])
        return canonical(drawn)

    def train_params(self, slug: str) -> str:
        """What a training run depends on besides its inputs."""
        return provenance.train_params(self.spec(slug), self._made(slug, "train.json")["train"], self._sentences(slug))

    def predict_params(self, slug: str) -> str:
        """What an evaluation's predictions depend on besides their inputs."""
        return provenance.predict_params(self.spec(slug), self._made(slug, "metrics.json"), self._sentences(slug))

    @property
    def score_stamp(self) -> str:
        """The file that says that the results of the folder are scored as this version scores: artefacts are drawn after it."""
        return f"{self.results}/scores/{scoring()}.json"

    def check_scores(self) -> None:
        """Remove the stamp where it says too much: a run has come in (another folder's, another version's) whose metrics are of
        another scoring. Then Snakemake plans to score, and draws what reads it anew."""
        stamp = Path(self.score_stamp)
        if stamp.is_file() and any(needs_score(self.results, spec, self.accept) for spec in self.specs.values()):
            with suppress(OSError):  # a folder that may only be read: the run is refused by name where it is drawn
                stamp.unlink()

    def data_params(self, base: str) -> str:
        """What a prepared data set depends on, as `compare_inputs` found it or as it is now."""
        return self.params.get(base) or data_params(base, self.bindings.datasets, self.config)

    @property
    def check_images(self) -> str:
        """How many image files are decoded when a data set is prepared: none, sample or all."""
        return self.config.get("check_images", "sample")

    def backbone_params(self, name: str) -> str:
        """What a converted backbone depends on."""
        return provenance.backbone_params(name, self.config.get("weights", {}).get(name))

    def prepared(self, slug: str) -> dict[str, str]:
        """The prepared files a run reads: backbone, vit, data, and text where class names start the head or decide."""
        spec = self.spec(slug)
        base, folder = split_name(spec.dataset)[0], f"{self.results}/backbones/{spec.backbone}"
        files = {
            "backbone": f"{folder}/backbone.json",
            "vit": f"{folder}/vit.safetensors",
            "data": f"{self.results}/data/{base}/data.json",
        }
        if spec.image_cache:
            files["cache"] = f"{cache_folder(self.results, base, spec.image_cache)}/cache.json"
        if spec.needs_text:
            files["text"] = f"{self.results}/text/{spec.backbone}/{base}.{spec.prompt}.safetensors"
        return files

    def accepted(self, slug: str) -> bool:
        """Whether a run's result is of another version and accepted by name: it stays, whatever is prepared anew."""
        files = {"train.json": ("prepare", "train"), "metrics.json": tuple(STAGES)}
        return slug in self.accept and any(stale(self._stored(slug, file), stages) for file, stages in files.items())

    def compare_inputs(self) -> None:
        """Look whether prepared data and weights are of the inputs there are now (`inputs.other_inputs`), once a call of
        planning, since it looks at every file. `state` knows then.

        Raises:
            PelError: images or lists that are not there, or other images, in another place, than those of this results folder.
        """
        if refused := self.try_inputs():
            raise PelError(next(iter(refused.values())))

    def try_inputs(self) -> dict[str, str]:
        """As `compare_inputs`; returns what would be raised, by data set."""
        refused: dict[str, str] = {}
        self.params.clear()
        self.others.clear()
        self.others.update(inputs.other_inputs(self, refused))
        return refused

    def stale(self) -> dict[str, str]:
        """Every file of the study that has to be made again since it is of other inputs, and why, after `compare_inputs`."""
        return self.others | inputs.other_runs(self, self.others)

    def check_sources(self) -> None:
        """See that what the preparation reads is there (weights that are named, image folders), and tell jobs where.

        Raises:
            PelError: something is missing; the message names it and the key that says where it is, or a split what to do.
        """
        for name, path in self.config.get("weights", {}).items():
            if (local := local_weights(path)) and not local.exists():
                raise PelError(f"{shown(self.config_path)}: weights of {name}: {path} does not exist")
        entries = {base: self.bindings.datasets[base] for base in {split_name(spec.dataset)[0] for spec in self.specs.values()}}
        roots = {}
        for base, entry in sorted(entries.items()):
            source = open_source(base, entry, self.config)
            if source.root is not None:
                roots[base] = source.locate().root
        check_splits(self)
        check_factors(self)
        tell_roots(roots)

    @cached_property
    def sizes(self) -> dict[str, Size | None]:
        """What `cost` has found of data sets that are not prepared yet."""
        return {}

    @cached_property  # looks at every file's name
    def outlines(self) -> dict[str, Outline | PelError]:
        """What the user's own data sets will come to once they are prepared (`user_images.outlines`)."""
        return outlines(self)

    def delta(self, slug: str) -> str:
        """The trained parameters an evaluation reads; empty for zero-shot."""
        spec = self.spec(slug)
        return f"{run_folder(self.results, spec.train.slug)}/delta.safetensors" if spec.trains else ""

    def weights_option(self, backbone: str) -> str:
        """The command-line options that say where a backbone's weights come from, as far as the configuration does."""
        values = {"weights": self.config.get("weights", {}).get(backbone), "cache-dir": self.config.get("cache_dir")}
        return " ".join(f"--{name}={quote(value)}" for name, value in values.items() if value)

    def descriptions(self, base: str, prompt: str) -> list[str]:
        """The file of sentences that describes a data set's classes, where the prompt needs one."""
        if prompt != "descriptions":
            return []
        file = self.config.get("descriptions", {}).get(base)
        if not file:
            hint = f"descriptions: {{{base}: FILE.json}}"
            raise PelError(f"{shown(self.config_path)}: the prompt 'descriptions' needs sentences for the classes: {hint}")
        return [carried("descriptions", self.config_path.parent / user_path(file))]

    def _sentences(self, slug: str) -> list[str]:
        spec = self.spec(slug)
        return self.descriptions(split_name(spec.dataset)[0], spec.prompt)

    def resource(self, name: str) -> int:
        """A resource of a training or evaluation job: threads, mem_mb, runtime (minutes)."""
        return {**RESOURCES, **self.config.get("resources", {})}[name]

    def _made(self, slug: str, file: str) -> dict[str, int]:
        """The versions that a run's record is to be of: these, or those that made it where it is accepted by name."""
        return {**STAGES, **made_by(self._stored(slug, file))} if slug in self.accept else dict(STAGES)

    def _stored(self, slug: str, file: str) -> dict[str, Any]:
        path = run_folder(self.results, slug) / file
        read = read_record if file == "metrics.json" else read_json
        return read(path) if path.is_file() else {"versions": STAGES}


def load(study: str | Path = "report", config: str | Path = "demo", **settings: Any) -> Study:
    """Read, validate and resolve a study on a configuration.

    Args:
        study, config: names under ``workflow/config``, or paths.
        settings: ``seeds`` ("0,1", a list or one number), ``results``, ``figures`` (folders), ``root`` (PEL_DATA: where
            images are looked for), ``backbone``, ``weights`` (a local file for that backbone); None keeps the YAML's.

    Raises:
        PelError: one violation: which file, which key, what was found, what is allowed.
    """
    study_path, config_file = find(study), find(config)
    values = read_config(config_file)
    content = read_study(study_path, values.get("size", "full"))
    apply_settings(values, settings)
    bindings = make_bindings(content, values, config_file)
    artefacts, left_out = make_artefacts(content, values, bindings, study_path)
    if not artefacts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "it declares no table, figure or claim"
        raise PelError(f"{shown(study_path)} on {shown(config_file)} makes nothing ({reasons})")
    reported = dict(content.get("reported", {}))
    if reported:
        reported["path"] = study_path.parent / reported["file"]
    made = Study(
        title=content["title"], path=study_path, config_path=config_file, config=values, bindings=bindings,
        results=Path(carried("results", values.get("results", "results"))),
        figures=Path(carried("figures", values.get("figures", "figures"))),
        artefacts=artefacts, left_out=left_out, reported=reported,
    )  # fmt: skip
    _check_accepted(made)
    for slug, spec in made.specs.items():  # refuses a split or a prompt's file that there is not, before anything is planned
        require_split(spec.dataset, spec.split, bindings.datasets, spec.factors.val)
        made._sentences(slug)
    return made


def _check_accepted(study: Study) -> None:
    for slug in study.accept:
        try:
            study.spec(slug)
        except PelError as error:
            raise PelError(f"{shown(study.config_path)}: accept: {error}") from None


def load_settings(settings: Mapping[str, Any], compare: bool = True) -> Study:
    """``load`` from what ``snakemake --config`` was given; ``plugins`` are loaded first.

    Args:
        compare: whether to look if what is prepared is of the inputs there are now. The processes in which Snakemake runs its
            jobs leave that to the one that planned them.

    Raises:
        PelError: an unknown setting, weights or lists that do not exist, other images than those of the results folder, from
            another place, or as ``load``.
    """
    check_settings(settings)
    use_plugins(listed(settings.get("plugins")))
    carried("working folder", Path.cwd())  # Snakemake's own records lie there
    study = load(**settings)
    study.check_sources()
    if compare:
        study.compare_inputs()
    return study
