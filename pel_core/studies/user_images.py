"""A study's images of the user's own, looked at before they are prepared: how many there are, and whether a split is there."""

from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import split_name
from pel_core.ingest.sources import open_source
from pel_core.ingest.sources.users import Unread, UserSource
from pel_core.ingest.user_outline import Outline, outline
from pel_core.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from pel_core.studies.study import Study


def outlines(study: "Study") -> dict[str, Outline | PelError]:
    """What each data set of the user's own will come to, by name, or why it cannot be prepared; without those that are not
    there."""
    found: dict[str, Outline | PelError] = {}
    for base in sorted({base for spec in study.known.values() for base in spec.data_bases}):
        source = open_source(base, study.bindings.datasets[base], study.config)
        if not isinstance(source, UserSource):
            continue
        try:
            source = source.locate()
        except PelError:
            continue  # which is told by whoever needs the images
        try:
            found[base] = outline(source)
        except Unread:
            continue
        except PelError as error:
            found[base] = error
    return found


def check_splits(study: "Study") -> None:
    """See that images of the user's own have the validation split that runs are evaluated on (of the others, `load` does), and a
    test split of their own where they are another data set's runs' (``evaluate_on``).

    Raises:
        PelError: they have none; the message says what to do.
    """
    for slug, spec in study.planned.items():
        _require_own_test(study, spec)
        base, val = split_name(spec.dataset)[0], spec.factors.val
        if not (val or spec.split == "val") or base not in study.config.get("datasets", {}):
            continue
        notes, splits = "", _prepared_splits(study, base)
        if isinstance(here := study.outlines.get(base), Outline):
            notes, splits = "".join(f" ({note})" for note in here.notes if "validation split" in note), list(here.splits)
        tried = slug in study.candidates  # rows come first, so that a candidate's own is `tune`'s
        if val and "val" in splits:
            word, instead = ("tune: hold_out", "candidates are scored on these") if tried else ("data.val", "split=val")
            raise PelError(f"{word}={val:g}: data set '{base}' has validation images of its own; leave it out ({instead})")
        if splits and "val" not in splits and not val:
            some = "tune: {hold_out: 0.1} for candidates alone, " * tried + "data.val: 0.1 for some runs, "
            raise PelError(
                f"split=val: data set '{base}' has no validation split, only {', '.join(splits)}{notes}; hold one out of its "
                f"training images ({some}val_fraction: 0.1 of 'datasets: {base}' in the configuration for "
                "all), give it one (a folder val/CLASS, or val in the column 'split'), or evaluate on the test split"
            )


def _require_own_test(study: "Study", spec: RunSpec) -> None:
    """Of images that nothing trains on here it has to be said which of them are evaluated: all, or a part held out of them."""
    base = spec.evaluate_on
    if not base or base not in study.config.get("datasets", {}) or study.test_set(spec).get("images") == "all":
        return
    if any(split_name(run.dataset)[0] == base for run in study.planned.values()):
        return  # runs that train on it have that test split
    if isinstance(here := study.outlines.get(base), Outline) and here.unsaid:
        raise PelError(
            f"evaluate_on={base}: data set '{base}' has no test split, so that {here.splits['test']:,} of its "
            f"{sum(here.splits.values()):,} images would be held out for one; say which are evaluated in the configuration: all "
            f"(test_sets: {{{base}: {{images: all}}}}), or a part (test_fraction: 0.2 of 'datasets: {base}'); or give it a test "
            "split (a folder test/CLASS, or test in the column 'split')"
        )


def _prepared_splits(study: "Study", base: str) -> list[str]:
    path = study.results / "data" / base / "data.json"
    files = read_json(path).get("files", {}) if path.is_file() else {}
    return [split for split in ("train", "test", "val") if f"{split}.npz" in files]
