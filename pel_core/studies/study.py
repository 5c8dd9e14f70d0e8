"""A study (which tables, figures, claims) on a configuration (which data, backbone, seeds) -> artefacts -> runs.

Torch-free and pandas-free: Snakemake's planning imports it. Both files are validated whole before anything is planned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.fingerprints import canonical, fingerprint
from pel_core.common.plugins import use_plugins
from pel_core.common.versions import TRAIN
from pel_core.data.datasets import split_name
from pel_core.data.roots import tell_roots
from pel_core.ingest.notes import data_notes, text_notes
from pel_core.ingest.sources import open_source, require_split
from pel_core.models.backbones import BACKBONES, local_weights
from pel_core.spec.long_names import look_in, write_names
from pel_core.spec.results import OUTPUTS, run_folder
from pel_core.studies import provenance
from pel_core.studies.artefacts import make_artefacts, make_bindings
from pel_core.studies.config import carried, find, read_config, read_study, shown
from pel_core.studies.data_sizes import check_factors
from pel_core.studies.selection_files import selection_folder
from pel_core.studies.settings import apply_settings, check_settings, listed
from pel_core.studies.study_state import StudyState
from pel_core.studies.tuning_checks import check_tunings
from pel_core.studies.user_images import check_splits


class Study(StudyState):
    """A study resolved on a configuration. ``left_out``: artefact -> why this configuration does not cover it."""

    def data_notes(self, name: str = "") -> dict[str, list[str]]:
        """What preparing the data sets of the study, or of one artefact, and their class names' text features had to tell, by
        data set (`ingest.notes`)."""
        specs = self.artefact(name).specs if name else self.specs
        notes = data_notes(self.results, (base for spec in specs.values() for base in spec.data_bases))
        texts = {self.prepared(slug)["text"]: spec for slug, spec in specs.items() if spec.needs_text}
        for path, spec in texts.items():
            if told := [f"{spec.backbone}: {note}" for note in text_notes(path)]:
                notes.setdefault(split_name(spec.dataset)[0], []).extend(told)
        return notes

    def targets(self) -> list[str]:
        """Every file the study makes. The runs' results and the scores' stamp are named too, or Snakemake would not miss them."""
        made = [file for name in self.artefacts for file in self.files(name)] + [self.score_stamp] * bool(self.specs)
        steps = (step for name, found in self.progress.items() for step in dict.fromkeys([*found.decided, name]))
        made += [f"{selection_folder(self.results)}/{step}.json" for step in steps]
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
        tried = [slug for name in artefact.tunings for slug in self.progress[name].specs]
        return [self.result_file(slug) for slug in dict.fromkeys([*artefact.specs, *tried])]

    def tried(self, step: str) -> list[str]:
        """The files that a step of a tuning is decided by, once those before it are."""
        tuning, rung = self.steps[step]
        return [self.result_file(slug) for slug in self.progress[tuning.name].specs_to(rung + 1)]

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

    def write_names(self) -> None:
        """Tell jobs what the digests in long names stand for (`spec.long_names`)."""
        made = (run for spec in {**self.known, **self.specs}.values() for run in (spec, spec.train, *spec.ancestors.values()))
        write_names(self.results, {spec.slug: spec for spec in made})

    def train_params(self, slug: str) -> str:
        """What a training run depends on besides its inputs."""
        spec, made = self.spec(slug), self._made(slug, "train.json")
        return provenance.train_params(spec, made["train"], self._sentences(slug), self.text_digest(spec))

    def predict_params(self, slug: str) -> str:
        """What an evaluation's predictions depend on besides their inputs."""
        spec, made = self.spec(slug), self._made(slug, "metrics.json")
        return provenance.predict_params(spec, made, self._sentences(slug), self.test_set(spec), self.text_digest(spec))

    def check_sources(self) -> None:
        """See that what the preparation reads is there (weights that are named, image folders), and tell jobs where.

        Raises:
            PelError: something is missing; the message names it and the key that says where it is, or a split what to do.
        """
        for name, path in self.config.get("weights", {}).items():
            if (local := local_weights(path)) and not local.exists():
                raise PelError(f"{shown(self.config_path)}: weights of {name}: {path} does not exist")
        entries = {base: self.bindings.datasets[base] for spec in self.known.values() for base in spec.data_bases}
        roots = {}
        for base, entry in sorted(entries.items()):
            source = open_source(base, entry, self.config)
            if source.root is not None:
                roots[base] = source.locate().root
        check_splits(self)
        check_factors(self)
        tell_roots(roots)


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
        declared=artefacts, left_out=left_out, reported=reported, seal=content.get("seal", ""),
    )  # fmt: skip
    look_in(made.results)
    _check_accepted(made)
    check_tunings(made, content)
    _check_inputs(made)
    return made


def _check_inputs(study: Study) -> None:
    """Refuse a split, a prompt's file or a backbone of the package that there is not, before anything is planned."""
    datasets, planned = study.bindings.datasets, study.planned
    for name in {spec.backbone for spec in planned.values()} - study.config.get("weights", {}).keys():
        if BACKBONES[name].source == "bundled":
            _ = BACKBONES[name].folder  # which looks
    for slug, spec in planned.items():
        try:
            require_split(spec.dataset, spec.split, datasets, spec.factors.val)
            for run in (spec, *spec.ancestors.values()):
                if run.validates:
                    reader = "head.chosen_by=val" if run.chooser == "val" else f"soup={run.soup}"
                    reader = "average.keep=val" if run.keeps_best else reader
                    require_split(run.dataset, "val", datasets, run.factors.val, reader)
        except PelError as error:
            asked = next(name for name, made in study.declared.items() if slug in made.planned)
            raise PelError(f"{shown(study.path)}: {asked}: {error}") from None
    for slug, spec in study.known.items():
        study._sentences(slug)
        study.text_digest(spec)


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
