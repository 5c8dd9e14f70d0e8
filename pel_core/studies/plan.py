"""What a study will run and what that costs, before anything starts. Torch-free."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.common.shipped import make
from pel_core.ingest.sources import open_source
from pel_core.spec.posthoc import is_posthoc
from pel_core.spec.results import OUTPUTS
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import has_logits
from pel_core.studies.cells import Artefact
from pel_core.studies.config import shown
from pel_core.studies.cost import REACHED, SHEETS, Work, decoded_bytes, measured, on_paper, work
from pel_core.studies.data_sizes import unsized
from pel_core.studies.gflop import asked_again, forward_only, passes
from pel_core.studies.study import Study
from pel_core.studies.text_cost import text_gflop
from pel_core.studies.tuning_words import runs_to_come, tuning_lines
from pel_core.studies.user_images import check_splits

VARIES = "no spread of seeds is known from one, so it will show no component of the variance; give two or more (seeds=0,1)"
PARALLEL = "Runs are independent: N CPU cores, or N GPUs of a cluster, take about an Nth of the time."
LARGE = 1e7  # GFLOP from which a GPU is worth a word


def plan(study: Study) -> str:
    """The plan in words: what is there, what is missing, how many images that is and how long it will take.

    Raises:
        PelError: a split that runs are evaluated on is not there.
    """
    check_splits(study)
    refused = study.try_inputs()
    stale = study.stale()
    states = {slug: study.state(slug) for slug in study.specs}
    lost = {slug: lack for slug, state in states.items() if state == "done" and (lack := study.lacking_predictions(slug))}
    states |= {slug: "to score" if has_logits(study.results, study.specs[slug]) else "missing" for slug in lost}
    unscored = [slug for slug, state in states.items() if state == "to score"]
    done = [slug for slug, state in states.items() if state in ("done", "diverged")]
    missing = [study.specs[slug] for slug, state in states.items() if state not in ("done", "diverged", "to score")]
    unusable = {slug: state for slug, state in states.items() if state not in ("done", "diverged", "missing", "to score")}
    gone = sum(state == "diverged" for state in states.values())
    to_train = {spec.train.slug: spec for spec in missing if spec.trains and not _trained(study, spec, stale)}
    origins = {slug: spec for child in to_train.values() for slug, spec in child.ancestors.items() if slug not in to_train}
    origins = {slug: spec for slug, spec in origins.items() if not _trained(study, spec, stale)}
    also = f" ({len(origins)} of them only for others to start from)" if origins else ""
    to_train = origins | to_train
    later = runs_to_come(study)
    again = f", to score again {len(unscored)} (seconds)" if unscored else ""
    stepped = sum(map(is_posthoc, missing))
    again += f", to score from stored logits {stepped} (seconds)" if stepped else ""
    lines = [
        f"{study.title}: {shown(study.path)} on {shown(study.config_path)} ({study.config['title']})",
        f"Makes {', '.join(study.artefacts)}; seeds {', '.join(map(str, study.seeds))}.",
        *(f"Leaves out {', '.join(names)}: {reason}." for reason, names in _by_reason(study).items()),
        f"Runs: {len(states)}, of which {len(done)} done{f' ({gone} diverged)' if gone else ''}, {len(missing)} missing; "
        f"to train {len(to_train)}{also}, to evaluate {len(missing) - stepped}{again}.",
    ]
    lines += [f"  scored again, since its {OUTPUTS[0]} is {lost[slug]}: {slug}" for slug in sorted(lost)[:5]]
    lines += [f"  ... and {len(lost) - 5} more"] if len(lost) > 5 else []
    lines += [f"  cannot be used: {slug}: {state}" for slug, state in list(unusable.items())[:5]]
    lines += [f"  ... and {len(unusable) - 5} more"] if len(unusable) > 5 else []
    lines += tuning_lines(study)
    lines += [f"But {name} has one seed: {VARIES}." for name, made in study.artefacts.items() if _of_one_seed(made)]
    if missing or later:
        trained_later = {spec.train.slug: spec for spec in later if spec.trains and spec.train.slug not in to_train}
        lines += _cost(study, [*to_train.values(), *trained_later.values()], [*missing, *later])
    else:
        lines.append("Nothing is missing: tables and figures are drawn from what is there.")
    if missing:  # what is prepared could be
        lines += [f"But `{make('study')}` will fail: {found}" for found in study.outlines.values() if isinstance(found, PelError)]
    lines += [f"But {reason}. That, and what was made from it, is made again." for reason in study.others.values()]
    lines += [f"But `{make('study')}` will not start: {why}" for base, why in refused.items() if _concerns(study, base)]
    return "\n".join(lines)


def _of_one_seed(artefact: Artefact) -> bool:
    return artefact.kind == "variance" and len(artefact.seeds) < 2


def _concerns(study: Study, base: str) -> bool:
    """Whether it says something that the images of a data set are not there: those of a published one may still come."""
    is_users = open_source(base, study.bindings.datasets[base], study.config).is_users
    return is_users or (study.results / "data" / base / "data.json").is_file()


def _by_reason(study: Study) -> dict[str, list[str]]:
    reasons = study.left_out.values()
    return {reason: [name for name, why in study.left_out.items() if why == reason] for reason in reasons}


def _trained(study: Study, spec: RunSpec, stale: Mapping[str, str]) -> bool:
    """Whether a training is there and, unless it is accepted by name, of the inputs there are now."""
    delta = study.delta(spec.slug)
    follows = not study.accepted(spec.slug) and any(file in study.others for file in study.prepared(spec.slug).values())
    return Path(delta).is_file() and delta not in stale and not follows


def _cost(study: Study, to_train: list[RunSpec], missing: list[RunSpec]) -> list[str]:
    costs = {spec: work(study, spec) for spec in {**dict.fromkeys(missing), **dict.fromkeys(to_train)}}
    unknown = dict.fromkeys(name for spec, cost in costs.items() if cost is None for name in unsized(study, spec))
    reason = "are not counted: their sizes are not known before they are prepared."
    lines = [f"Images and time of {', '.join(unknown)} {reason}"] if unknown else []
    trained = {spec: cost for spec in to_train if (cost := costs[spec])}
    known = {spec: cost for spec in missing if (cost := costs[spec])}
    if not known:
        return lines
    images = sum(cost.train for cost in trained.values()), sum(cost.evaluate for cost in known.values())
    lines.append(f"Images: {images[0]:,} to train on, {images[1]:,} to evaluate (crops counted).")
    lines += _passes(trained)
    unread = [spec for spec in trained if text_gflop(study.results, spec, 1) is None]
    if unread:
        found = f"the text tower is not prepared yet, through which {count_of(len(unread), 'run')} will train"
        lines.append(f"Not counted in time: {found}.")
    lines.append(f"Disk: about {_bytes(sum(cost.disk for cost in known.values()))} of results.")
    if decoded := decoded_bytes(study, known):
        lines.append(f"Decoded images (image_cache): about {_bytes(decoded)} more in {study.results}/cache.")
    return lines + _time(study, trained, known)


def _passes(trained: Mapping[RunSpec, Work]) -> list[str]:
    """A line where a step of some runs takes several passes over its images."""
    several = Counter((_repeats(spec), passes(spec)) for spec in trained if passes(spec) > 1)
    asking = Counter((spec.method, asked_again(spec), spec.vit.layers) for spec in trained if asked_again(spec))
    return [
        f"{count_of(count, 'run')} of {name}: a step takes up to {number} passes, and images and time are counted so."
        for (name, number), count in several.items()
    ] + [
        f"{count_of(count, 'run')} of {method}: an image takes two passes through the last {again} of {layers} blocks, in "
        "training and evaluation, and time is counted so."
        for (method, again, layers), count in asking.items()
    ]


def _repeats(spec: RunSpec) -> str:
    """Why a step of the run passes an image several times."""
    keys = ", one of them forward only, through the momentum encoder" if forward_only(spec) else ""
    views = [f"loss={spec.loss} ({spec.train_views} views{keys})"] if spec.train_views > 1 else []
    streams = [f"sampler={spec.sampler} (2 streams)"] if spec.streams > 1 else []
    return " and ".join(([f"sharpness={spec.sharpness}"] if spec.sharpness != "none" else []) + views + streams)


def _time(study: Study, trained: Mapping[RunSpec, Work], known: Mapping[RunSpec, Work]) -> list[str]:
    hours, sources, untimed = 0.0, {}, []
    for backbone, count in Counter(spec.backbone for spec in {**known, **trained}).items():
        train = sum(cost.train_gflop for spec, cost in trained.items() if spec.backbone == backbone)
        evaluate = sum(cost.evaluate_gflop for spec, cost in known.items() if spec.backbone == backbone)
        if speed := measured(study, backbone):
            hours += speed.hours(train, evaluate)
            sources[speed.source] = None
        else:
            untimed.append(f"{count_of(count, 'run')} on {backbone}: about {_tflop(train + evaluate)}")
    lines = []
    if hours:
        lines.append(f"Time, at the speed {' and '.join(sources)}: {about(hours)} on one device. {PARALLEL}")
    if untimed:
        how = f"`{make('plan')}` measures a GPU in seconds, or a CPU that trains in fp32"
        lines.append(f"No run has been timed here yet, so hours are not known ({how}). {'; '.join(untimed)}.")
    total = sum(cost.train_gflop for cost in trained.values()) + sum(cost.evaluate_gflop for cost in known.values())
    if total >= LARGE:
        lines.append(_paper(trained, known))
    return lines


def _paper(trained: Mapping[RunSpec, Work], known: Mapping[RunSpec, Work]) -> str:
    """Hours on GPUs that were not measured, as their data sheets have it."""
    train, evaluate = Counter(), Counter()
    for spec, cost in trained.items():
        train[spec.precision] += cost.train_gflop
    for spec, cost in known.items():
        evaluate[spec.eval_precision] += cost.evaluate_gflop
    hours = "; ".join(f"one {name}: {spell(on_paper(name, train, evaluate))}" for name in SHEETS)
    return f"On paper, not measured, at {REACHED:.0%} of the data sheet's speed and with images that arrive in time: {hours}."


def spell(hours: float) -> str:
    """A length of time in words."""
    if hours >= 1:
        return f"{hours:.1f} hours"
    return count_of(round(60 * hours), "minute") if hours >= 1 / 60 else "less than a minute"


def about(hours: float) -> str:
    """An estimated length of time in words."""
    return f"{'about ' if hours >= 1 / 60 else ''}{spell(hours)}"


def _tflop(gflop: float) -> str:
    return f"{gflop / 1e3:,.0f} TFLOP" if gflop >= 1e3 else f"{gflop:.2g} GFLOP"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"
