"""How many images and classes a study's data sets have, as its runs' factors have them; planning asks. Torch-free."""

from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import drawn_ratio, split_name
from pel_core.data.factors import AS_IS, Factors
from pel_core.data.subsets import capped, chosen_classes, sizes
from pel_core.ingest.sources import Size, open_source
from pel_core.ingest.user_outline import Outline
from pel_core.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from pel_core.studies.study import Study


def data_size(study: "Study", name: str, factors: Factors = AS_IS) -> tuple[int, int] | None:
    """Training and test images of a data set as a run's factors have it: as prepared, else as declared or found; None where
    neither is known. Where validation images are held out, these stand for test images."""
    pool, test, prepared = _pool(study, name)
    if pool is None:
        size = _declared(study, name)
        return (size.train, size.test) if size and not _draws(factors) else None
    counts, spare, taken = sizes(pool, None if prepared else drawn_ratio(name, factors), factors)
    held_out = int((spare + taken).sum())
    if test is None and not held_out:
        return None
    return int(capped(counts - taken, factors).sum()), held_out or round((test or 0) * len(counts) / len(pool))


def images_of_test_set(study: "Study", spec: RunSpec) -> int | None:
    """Images of another data set that a run is evaluated on; None where that is not known yet. Those of classes that are left out
    count: which these are is known when the images are predicted."""
    size = data_size(study, spec.evaluate_on)
    return None if size is None else sum(size) if study.test_set(spec).get("images") == "all" else size[1]


def unsized(study: "Study", spec: RunSpec) -> list[str]:
    """The data sets of a run whose numbers of images are not known yet."""
    found = [spec.dataset] if data_size(study, spec.dataset, spec.factors) is None else []
    return found + ([spec.evaluate_on] if spec.evaluate_on and images_of_test_set(study, spec) is None else [])


def classes(study: "Study", name: str, factors: Factors = AS_IS) -> int:
    """Classes of a data set that a run uses; 0 where they are not known yet."""
    if factors.classes != "all":
        return int(factors.classes)
    path = study.results / "data" / split_name(name)[0] / "data.json"
    if path.is_file():
        return len(next(iter(read_json(path)["train_counts"].values())))
    size = _declared(study, name)
    return size.classes if size else 0


def _draws(factors: Factors) -> bool:
    """Whether factors change how many images there are."""
    return bool(factors.content().keys() - {"noise", "noise_seed"})


def _pool(study: "Study", name: str) -> tuple[list[int] | None, int | None, bool]:
    """Training images of each class of which a run's subset is drawn, and test images, of a data set that is prepared, has a
    declared pool or is the user's own, None where they are not known; and whether these are prepared at the ratio in the name."""
    base, ratio = split_name(name)
    path = study.results / "data" / base / "data.json"
    if path.is_file():
        about = read_json(path)
        prepared = about["ratios"] != "any" and ratio is not None
        return about["train_counts"].get(f"{ratio:g}" if prepared else ""), about["test_images"], prepared
    if (own := _own_outline(study, base)) and own.pool and ratio is None:
        return list(own.pool), own.splits["test"], False
    pool, size = study.bindings.datasets[base].pool, _declared(study, name)
    return [pool[1]] * pool[0] if pool else None, size.test if size else None, False


def _declared(study: "Study", name: str) -> Size | None:
    if name not in study.sizes:  # lists and folders are looked at once
        base, ratio = split_name(name)
        source = _own_outline(study, base) or open_source(base, study.bindings.datasets[base], study.config)
        study.sizes[name] = source.size(ratio)
    return study.sizes[name]


def _own_outline(study: "Study", base: str) -> Outline | None:
    """What images of the user's own come to; None of others, and where these are not there or cannot be prepared."""
    found = study.outlines.get(base) if base in study.config.get("datasets", {}) else None
    return found if isinstance(found, Outline) else None


def check_factors(study: "Study") -> None:
    """See that data sets allow what runs ask of them, as far as their sizes are known before they are prepared.

    Raises:
        PelError: naming the first run that asks for more classes than there are, or for a ratio that leaves one without an image.
    """
    asked = {(spec.dataset, spec.factors): spec for spec in study.known.values() if spec.factors.content()}
    for (name, factors), spec in asked.items():
        pool, _, prepared = _pool(study, name)
        try:
            if pool is not None:
                sizes(pool, None if prepared else spec.drawn_ratio, factors)
            elif number := classes(study, name):
                chosen_classes(number, factors)
        except PelError as error:
            raise PelError(f"{spec.slug}: {error}") from None
