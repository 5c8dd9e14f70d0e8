"""What a run starts from that starts from others (`RunSpec.parents`): their trained tensors, found, checked and taken over."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256
from pel_core.common.shipped import program, snakemake
from pel_core.common.tensors import read_tensors
from pel_core.common.versions import stale
from pel_core.data.datasets import Prepared
from pel_core.models.methods import MethodPart
from pel_core.spec.outcomes import diverged, reason_of
from pel_core.spec.plugins import other_plugins
from pel_core.spec.results import read_other_inputs, run_folder
from pel_core.spec.run_spec import RunSpec, differences
from pel_core.training.classifier import Classifier

STORED = ("spec", "data", "backbone", "delta_sha256", "training")
INDEX = ("head.keys", "head.labels")  # of a head that looks at training images


@dataclass(frozen=True)
class Parent:
    """A finished training: its spec, the SHA-256 of its checkpoint, the tensors there by name, and its class names (C,)."""

    spec: RunSpec
    sha256: str
    state: dict[str, Tensor]
    class_names: list[str] | None

    @property
    def record(self) -> dict[str, str]:
        """What a child's train.json says of it."""
        return {"slug": self.spec.slug, "delta_sha256": self.sha256}


def read_parents(spec: RunSpec, results: Path) -> list[Parent]:
    """The parents of a run, each finished and made from the data and weights that are prepared now.

    Raises:
        PelError: one is not trained, diverged, is damaged, stale, or was itself made from something else than there is now.
    """
    return [_read(parent, results) for parent in spec.parent_specs]


def _read(parent: RunSpec, results: Path) -> Parent:
    folder = run_folder(results, parent.slug)
    again = f"train it again first ({snakemake()} does; or {program()} train {parent.slug})"
    if not (folder / "train.json").is_file():
        failed = diverged(results, parent.slug, parent)
        found = f"its training diverged: {reason_of(failed)}" if failed else f"{folder / 'train.json'} does not exist"
        raise PelError(f"the run to start from, {parent.slug}, cannot be used: {found}; {again}")
    stored = read_json(folder / "train.json", STORED)
    found = stale(stored, ("prepare", "train")) or other_plugins(stored, parent)
    found = found or "; ".join(differences(stored["spec"], parent)) or read_other_inputs(folder / "train.json", parent, results)
    if found:
        raise PelError(f"the run to start from, {parent.slug}, cannot be used: {found}; {again}")
    state, about = read_tensors(folder / "delta.safetensors")
    if (digest := sha256(folder / "delta.safetensors")) != stored["delta_sha256"]:
        raise PelError(f"{folder / 'delta.safetensors'} is not the file that train.json describes; {again}")
    return Parent(parent, digest, state, json.loads(about["class_names"]) if "class_names" in about else None)


def renamed(state: dict[str, Tensor], old: tuple[MethodPart, ...], new: tuple[MethodPart, ...]) -> dict[str, Tensor]:
    """Tensors of a delta under the names that the methods which extend theirs have for them: vpt-deep.0.prompt, lpt.0.prompt."""
    names = {before.name: after.name for before, after in zip(old, new, strict=True)}
    words = {name: name.partition(".") for name in state}
    return {names.get(first, first) + dot + rest: state[name] for name, (first, dot, rest) in words.items()}


def take_over(classifier: Classifier, spec: RunSpec, parents: list[Parent], data: Prepared) -> None:
    """Put what a run takes over (``take``) from its parent into its untrained classifier.

    Raises:
        PelError: the parent's tensors are of another method, head or classes.
    """
    for parent in parents:
        if spec.takes_head and parent.class_names not in (None, list(data.class_names)):
            found = f"{len(parent.class_names or ())} of {parent.spec.dataset}, here {len(data.class_names)}, or in another order"
            raise PelError(
                f"{spec.slug} takes over the head of {parent.spec.slug}, whose classes are others ({found}); take over the delta "
                "alone (take=delta)"
            )
        # Factors that the parent's classes do not have start at 1; an index of training images is this run's.
        state = classifier.trainable_state()
        own = {name: value for name, value in state.items() if name == "head.scales" or (spec.extends_head and name in INDEX)}
        theirs = parent.state
        if parent.spec.method != spec.method and spec.takes_delta:  # a part of the delta is theirs, under this method's name
            theirs = renamed(parent.state, parent.spec.parts, spec.parts)
            own |= {each.name: state[each.name] for each in classifier.tuned if not each.carried}
        try:
            classifier.load_trainable(own | theirs, spec.take)
        except PelError as error:
            raise PelError(f"{spec.slug} cannot start from {parent.spec.slug}: {error}") from None
