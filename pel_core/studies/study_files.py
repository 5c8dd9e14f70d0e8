"""What a study is made of and where everything of it lies: artefacts, runs, prepared files, options of jobs. Torch-free."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.paths import user_path
from pel_core.common.shipped import command
from pel_core.data.datasets import require_factors, split_name
from pel_core.data.image_cache import cache_folder
from pel_core.data.test_sets import RULES
from pel_core.models.prompts import DESCRIBED, SENTENCES, TEXTS, prompt_parts
from pel_core.models.text_heads import TOWER
from pel_core.models.text_sets import FIRST, TextSet, text_set
from pel_core.spec.posthoc import sources, with_sources
from pel_core.spec.results import metrics_file, run_folder, scoring
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.bindings import Bindings
from pel_core.studies.cells import Artefact
from pel_core.studies.config import carried, shown
from pel_core.studies.kinds import FIGURE
from pel_core.studies.selection import Progress
from pel_core.studies.tuning import Tuning

RESOURCES = {"threads": 1, "mem_mb": 4000, "runtime": 60}


@dataclass(frozen=True)
class StudyFiles:
    """The declared side of a `Study`: nothing here looks at a result."""

    title: str
    path: Path
    config_path: Path
    config: Mapping[str, Any]
    bindings: Bindings
    results: Path
    figures: Path
    declared: Mapping[str, Artefact]  # as `artefacts`, before any setting is chosen
    left_out: Mapping[str, str]
    reported: Mapping[str, Any]
    partial: bool = False  # whether artefacts are drawn from what there is, and say what is missing
    # What `compare_inputs` found: the prepared files that are of other inputs, and why; and what each data set depends on.
    others: dict[str, str] = field(default_factory=dict, compare=False)
    params: dict[str, str] = field(default_factory=dict, compare=False)
    seal: str = ""  # the split on which no candidate may be scored
    chosen: dict[str, Progress] = field(default_factory=dict, compare=False)  # what `progress` has found so far

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds every cell is made over, unless its artefact says otherwise."""
        return self.bindings.seeds

    @cached_property
    def tunings(self) -> dict[str, Tuning]:
        """What is chosen on the validation split, by name."""
        return {name: tuning for artefact in self.declared.values() for name, tuning in artefact.tunings.items()}

    @cached_property
    def steps(self) -> dict[str, tuple[Tuning, int]]:
        """What is decided by candidates, by name: the tuning and which of its rungs it is."""
        return {step: (tuning, rung) for tuning in self.tunings.values() for rung, step in enumerate(tuning.steps)}

    @cached_property
    def candidates(self) -> dict[str, RunSpec]:
        """The runs of all tunings by slug: of later rungs all that there may be, of which few are made."""
        return {slug: spec for tuning in self.tunings.values() for slug, spec in tuning.specs.items()}

    @cached_property
    def planned(self) -> dict[str, RunSpec]:
        """Every run by slug, as far as it is known without a look at results: the runs of a tuned row with the settings nearest
        to its own."""
        cells = (cell for artefact in self.declared.values() if not artefact.how.from_models for cell in artefact.cells)
        return with_sources({spec.slug: spec for cell in cells for spec in cell.expected} | self.candidates)

    @cached_property
    def known(self) -> dict[str, RunSpec]:
        """As ``planned``, and the trainings that these start from."""
        return self.planned | {slug: spec for child in self.planned.values() for slug, spec in child.ancestors.items()}

    @property
    def accept(self) -> tuple[str, ...]:
        """Runs whose results of another version are accepted by name."""
        return tuple(self.config.get("accept", ()))

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
        if made := next((artefact for artefact in self.artefacts.values() if artefact.kind == kind), None):
            return made
        if kind in self.left_out:
            return self.artefact(kind)  # which says why
        lacks = "reported values (`reported:`)" if kind == "compare" else "claims (`claims:`)"
        two = f"; to compare two runs: {command('compare RUN_A RUN_B')}" if kind == "compare" else ""
        raise PelError(f"{shown(self.path)} has no {lacks}, so there is nothing for `{command(kind)}` to make{two}")

    def spec(self, slug: str) -> RunSpec:
        """The spec of a run by name, of this study or not.

        Raises:
            PelError: it is no run, or of an undeclared data set.
        """
        if slug in self.planned:
            return self.planned[slug]
        spec = RunSpec.parse(slug)
        require_factors(spec.dataset, spec.factors, self.bindings.datasets)
        return spec

    def folder(self, name: str) -> Path:
        """Where the files of an artefact lie."""
        return self.figures if self.artefact(name).how.form == FIGURE else self.results / "tables"

    def files(self, name: str) -> list[str]:
        """The files of an artefact."""
        return [f"{self.folder(name)}/{name}.{suffix}" for suffix in self.artefact(name).how.form]

    @property
    def score_stamp(self) -> str:
        """The file that says that the results of the folder are scored as this version scores: artefacts are drawn after it."""
        return f"{self.results}/scores/{scoring()}.json"

    @property
    def check_images(self) -> str:
        """How many image files are decoded when a data set is prepared: none, sample or all."""
        return self.config.get("check_images", "sample")

    def weights_option(self, backbone: str) -> str:
        """The command-line options that say where a backbone's weights come from, as far as the configuration does."""
        values = {"weights": self.config.get("weights", {}).get(backbone), "cache-dir": self.config.get("cache_dir")}
        return " ".join(f"--{name}={quote(value)}" for name, value in values.items() if value)

    def descriptions(self, base: str, prompt: str) -> list[str]:
        """The files of texts of a data set's classes, as far as the prompt reads any: sentences, spoken names. This and what
        follows take the prompt of a run, or what names a file of texts (`RunSpec.text_file`)."""
        prompt = prompt.removeprefix(SENTENCES)
        if chosen := self.text_set(base, prompt):
            return chosen.files
        if prompt != DESCRIBED:
            return []
        file = self.config.get("descriptions", {}).get(base)
        if not file:
            hint = f"descriptions: {{{base}: FILE.json}}"
            raise PelError(f"{shown(self.config_path)}: the prompt 'descriptions' needs sentences for the classes: {hint}")
        return [carried("descriptions", self.config_path.parent / user_path(file))]

    def text_set(self, base: str, prompt: str) -> TextSet | None:
        """The text set of a prompt for a data set; None of the first four prompts, and of the text tower.

        Raises:
            PelError: the configuration has none of that name, or what it says is not possible.
        """
        prompt = prompt.removeprefix(SENTENCES)
        if prompt == TOWER or prompt in FIRST:
            return None
        try:
            return text_set(prompt, base, self.given_texts(base, prompt))
        except PelError as error:
            raise PelError(f"{shown(self.config_path)}: {error}") from None

    def given_texts(self, base: str, prompt: str) -> dict[str, Any] | None:
        """What the configuration says of a text set, its files in full; None of other prompts."""
        prompt = prompt.removeprefix(SENTENCES)
        kind, name = ("", "") if prompt == TOWER else prompt_parts(prompt)
        if kind != TEXTS:
            return None
        there = self.config.get("texts", {}).get(base, {})
        if name not in there:
            raise unknown(f"text set of {base}:", name, there, f"(prompt: {prompt} needs texts: {{{base}: {{{name}: ...}}}})")
        given = dict(there[name])
        for key in ("templates", "descriptions", "names"):
            if given.get(key) and isinstance(given[key], str):
                given[key] = carried("texts", self.config_path.parent / user_path(given[key]))
        return given

    def text_option(self, base: str, prompt: str) -> str:
        """The command-line option that says the texts of a prompt to a job."""
        if chosen := self.text_set(base, prompt):
            return f"--texts={quote(json.dumps(self.given_texts(base, prompt) or {}))} --texts-sha256={chosen.digest()}"
        return " ".join(f"--descriptions={quote(file)}" for file in self.descriptions(base, prompt))

    def text_digest(self, spec: RunSpec) -> str:
        """The digest of the text set that a run reads; empty of the first four prompts and where it reads none."""
        chosen = self.text_set(split_name(spec.dataset)[0], spec.prompt) if spec.reads_prompt else None
        return chosen.digest() if chosen else ""

    def _sentences(self, slug: str) -> list[str]:
        spec = self.spec(slug)
        return self.descriptions(split_name(spec.dataset)[0], spec.prompt) if spec.prompt == DESCRIBED else []

    def test_set(self, spec: RunSpec) -> dict[str, Any]:
        """What the configuration says of the data set that a run is evaluated on beside its own; its file of classes in full."""
        given = dict(self.config.get("test_sets", {}).get(spec.evaluate_on, {})) if spec.evaluate_on else {}
        if given.get("classes", RULES[0]) not in RULES:
            given["classes"] = carried("test_sets", self.config_path.parent / user_path(given["classes"]))
        return given

    def test_set_option(self, slug: str) -> str:
        """The command-line option that says this to a job."""
        return f"--test-set={quote(json.dumps(given))}" if (given := self.test_set(self.spec(slug))) else ""

    def resource(self, name: str) -> int:
        """A resource of a training or evaluation job: threads, mem_mb, runtime (minutes)."""
        return {**RESOURCES, **self.config.get("resources", {})}[name]

    def prepared(self, slug: str) -> dict[str, str]:
        """The prepared files a run reads: backbone, vit, data, and text where class names start the head or decide."""
        spec = self.spec(slug)
        base, folder = split_name(spec.dataset)[0], f"{self.results}/backbones/{spec.backbone}"
        files = {
            "backbone": f"{folder}/backbone.json",
            "vit": f"{folder}/vit.safetensors",
            "data": f"{self.results}/data/{base}/data.json",
        }
        if spec.evaluate_on:
            files["test_set"] = f"{self.results}/data/{spec.evaluate_on}/data.json"
        if spec.image_cache:
            files["cache"] = f"{cache_folder(self.results, base, spec.image_cache)}/cache.json"
        if spec.needs_text:
            files["text"] = f"{self.results}/text/{spec.backbone}/{base}.{spec.text_file}.safetensors"
        return files

    def parents(self, slug: str) -> list[str]:
        """The trained parameters that a training starts from: those of its parents."""
        return [self.delta(parent.slug) for parent in self.spec(slug).parent_specs]

    def stored(self, slug: str) -> list[str]:
        """The results of the runs whose logits a post-hoc run is scored from; they stand for the logits."""
        return [str(metrics_file(self.results, run.slug)) for run in sources(self.spec(slug))]

    def delta(self, slug: str) -> str:
        """The trained parameters an evaluation reads; empty for zero-shot."""
        spec = self.spec(slug)
        return f"{run_folder(self.results, spec.train.slug)}/delta.safetensors" if spec.trains else ""
