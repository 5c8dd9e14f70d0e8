"""What there is of a study: the outcome of each run, and whether what is prepared is of the inputs there are now. Torch-free."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.versions import STAGES, made_by, stale
from pel_core.ingest.identity import data_params
from pel_core.ingest.sources import Size
from pel_core.ingest.user_outline import Outline
from pel_core.spec.outcomes import diverged, failed_file, stage_of
from pel_core.spec.posthoc import with_sources
from pel_core.spec.results import invalid_reason, metrics_file, needs_score, read_record, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import lacking
from pel_core.studies import inputs, provenance
from pel_core.studies.cells import Artefact
from pel_core.studies.selection import Progress, Selection, follow, with_choices
from pel_core.studies.study_files import StudyFiles
from pel_core.studies.tuning_words import with_note
from pel_core.studies.user_images import outlines


class StudyState(StudyFiles):
    """The looked-at side of a `Study`: the results folder and the inputs as they are now."""

    @cached_property
    def progress(self) -> dict[str, Progress]:
        """How far each tuning has come."""
        for name, tuning in self.tunings.items():
            if name not in self.chosen or not self.chosen[name].selection:
                self.chosen[name] = follow(self, tuning)
        return dict(self.chosen)

    @cached_property
    def selections(self) -> dict[str, Selection]:
        """What is chosen, by tuning: of those whose candidates all have an outcome."""
        return {name: found for name in self.tunings if (found := self.progress[name].selection)}

    @cached_property
    def trying(self) -> dict[str, RunSpec]:
        """The candidates' runs by slug, as far as it is known which rungs each comes to."""
        return {slug: spec for each in self.progress.values() for slug, spec in each.specs.items()}

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        """The artefacts by name. Rows that are tuned have their runs once every candidate has an outcome; until then an artefact
        is ``pending``, and `decide` looks again."""
        return {name: with_note(with_choices(each, self.selections), self.selections) for name, each in self.declared.items()}

    @cached_property  # planning asks several times for each run
    def specs(self) -> dict[str, RunSpec]:
        """The union of all artefacts' runs by slug, of candidates, and of runs whose logits post-hoc ones need: each is trained
        and evaluated once, whoever shares it."""
        runs = {slug: spec for artefact in self.artefacts.values() for slug, spec in artefact.specs.items()}
        return with_sources(runs | self.trying)

    @property
    def origins(self) -> dict[str, RunSpec]:
        """The trainings that runs start from, by slug; a run of the study may be among them."""
        return {slug: spec for child in self.specs.values() for slug, spec in child.ancestors.items()}

    @property
    def trainings(self) -> dict[str, RunSpec]:
        """Every run of the study, and what these start from that is none: trained, but not evaluated."""
        return self.specs | {slug: spec for slug, spec in self.origins.items() if slug not in self.specs}

    def decide(self, anew: bool = False) -> None:
        """Look again which settings can be chosen. ``anew``: also whether those that were chosen still would be."""
        if anew:
            self.chosen.clear()
        for name in ("progress", "selections", "trying", "artefacts", "specs"):
            self.__dict__.pop(name, None)

    def waits_for(self, name: str) -> Iterator[str]:
        """The steps that a tuning's choice waits for, in order. Lazily: another look at results (`decide`) may leave fewer."""
        for step in self.tunings[name].steps:
            if not self.progress[name].selection and step not in self.progress[name].decided:
                yield step

    @property
    def pending(self) -> tuple[str, ...]:
        """The tunings that wait for candidates."""
        return tuple(name for name in self.tunings if name not in self.selections)

    def result_file(self, slug: str) -> str:
        """What is read of a run: its result, or that it diverged."""
        if not (record := self.diverged(slug)):
            return str(metrics_file(self.results, slug))
        return str(failed_file(self.results, record["failed"].get("run", record["slug"]), stage_of(record)))

    def diverged(self, slug: str) -> dict[str, Any] | None:
        """The record of a run that diverged (`spec.outcomes`); None where it did not, or the configuration is strict: then it is
        made again, and nothing is drawn without it."""
        strict = self.config.get("strict") and slug not in self.candidates  # it is a reason not to choose one
        record = None if strict else diverged(self.results, slug, self.spec(slug))
        return record if record and not self._of_others(slug) else None

    def _of_others(self, slug: str) -> str:
        """Why what a run reads is of other inputs than there are now; empty where it is not."""
        return next((self.others[file] for file in self.prepared(slug).values() if file in self.others), "")

    def state(self, slug: str) -> str:
        """``done``, ``missing``, ``diverged``, ``to score`` (its predictions serve, its metrics are of another scoring), or why
        the result that is there cannot be used."""
        return self.outcome(slug)[0]

    def outcome(self, slug: str) -> tuple[str, Any]:
        """A run's `state`, and the record of one that is done or that diverged: read once."""
        path = metrics_file(self.results, slug)
        if record := self.diverged(slug):
            return "diverged", record
        if not path.is_file():
            return "missing", None
        if (other := self._of_others(slug)) and not self.accepted(slug):
            return other, None
        if needs_score(self.results, self.spec(slug), self.accept):
            return "to score", None
        try:
            record = read_record(path)
            reason = invalid_reason(record, self.spec(slug), self.accept, self.results)
        except PelError as damaged:
            return str(damaged), None
        return (reason, None) if reason else ("done", record)

    def lacking_predictions(self, slug: str) -> str:
        """Why Snakemake makes a run that is done again, from its logits where they are there: its predictions.parquet is ``gone``
        or ``damaged``; empty where it does not."""
        return "" if self.accepted(slug) else lacking(self.results, slug)

    def missing(self) -> list[str]:
        """The runs without an outcome: a usable result, or that their training diverged."""
        return [slug for slug in self.specs if self.state(slug) not in ("done", "diverged")]

    def check_scores(self) -> None:
        """Remove the stamp where it says too much: a run has come in (another folder's, another version's) whose metrics are of
        another scoring. Then Snakemake plans to score, and draws what reads it anew."""
        stamp = Path(self.score_stamp)
        if stamp.is_file() and any(needs_score(self.results, spec, self.accept) for spec in self.specs.values()):
            with suppress(OSError):  # a folder that may only be read: the run is refused by name where it is drawn
                stamp.unlink()

    def accepted(self, slug: str) -> bool:
        """Whether a run's result is of another version and accepted by name: it stays, whatever is prepared anew."""
        files = {"train.json": ("prepare", "train"), "metrics.json": tuple(STAGES)}
        return slug in self.accept and any(stale(self._stored(slug, file), stages) for file, stages in files.items())

    def _made(self, slug: str, file: str) -> dict[str, int]:
        """The versions that a run's record is to be of: these, or those that made it where it is accepted by name."""
        return {**STAGES, **made_by(self._stored(slug, file))} if slug in self.accept else dict(STAGES)

    def _stored(self, slug: str, file: str) -> dict[str, Any]:
        path = run_folder(self.results, slug) / file
        read = read_record if file == "metrics.json" else read_json
        return read(path) if path.is_file() else {"versions": STAGES}

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
        self.decide(anew=True)
        return refused

    def stale(self) -> dict[str, str]:
        """Every file of the study that has to be made again since it is of other inputs, and why, after `compare_inputs`."""
        return self.others | inputs.other_runs(self, self.others)

    @cached_property
    def sizes(self) -> dict[str, Size | None]:
        """What `cost` has found of data sets that are not prepared yet."""
        return {}

    @cached_property  # looks at every file's name
    def outlines(self) -> dict[str, Outline | PelError]:
        """What the user's own data sets will come to once they are prepared (`user_images.outlines`)."""
        return outlines(self)

    def data_params(self, base: str) -> str:
        """What a prepared data set depends on, as `compare_inputs` found it or as it is now."""
        return self.params.get(base) or data_params(base, self.bindings.datasets, self.config)

    def backbone_params(self, name: str) -> str:
        """What a converted backbone depends on."""
        return provenance.backbone_params(name, self.config.get("weights", {}).get(name))
