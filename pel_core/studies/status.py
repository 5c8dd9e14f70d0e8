"""How far a study is: done, running, stopped, failed, missing, and how long the rest will take. Reads files only; torch-free."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pel_core.hardware.lease import STALE, dead
from pel_core.ingest.notes import notes_lines
from pel_core.spec.long_names import file_name
from pel_core.spec.outcomes import reason_of
from pel_core.spec.results import OUTPUTS, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import has_logits
from pel_core.studies.config import shown
from pel_core.studies.cost import measured, work
from pel_core.studies.job_logs import last_line
from pel_core.studies.plan import PARALLEL, about, count_of, spell
from pel_core.studies.study import Study
from pel_core.studies.tuning_words import runs_to_come, tuning_lines

LISTED = 10  # runs of a kind that are listed, unless all are asked for
STOPPED = "error: stopped by "  # a signal asked for it, and what was done is saved


@dataclass
class Found:
    """The runs of a study by what they are; a mapping's value is the job behind it (several evaluations share a training) and
    what is told of that."""

    done: list[str] = field(default_factory=list)
    diverged: dict[str, tuple[str, str]] = field(default_factory=dict)
    running: dict[str, tuple[str, str]] = field(default_factory=dict)
    stopped: dict[str, tuple[str, str]] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    unusable: dict[str, tuple[str, str]] = field(default_factory=dict)
    unscored: list[str] = field(default_factory=list)  # whose predictions serve
    trained: list[str] = field(default_factory=list)  # only to be evaluated
    missing: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)  # why some of those have a result all the same

    def states(self) -> dict[str, str]:
        """Slug -> state, of every run."""
        plain = {
            "done": self.done,
            "evaluated, to be scored": self.unscored,
            "trained, to be evaluated": self.trained,
            "missing": self.missing,
        }
        told = {
            "diverged": self.diverged,
            "running": self.running,
            "stopped": self.stopped,
            "failed": self.failed,
            "cannot be used": self.unusable,
        }
        states = {slug: state for state, slugs in plain.items() for slug in slugs}
        return states | {slug: state for state, runs in told.items() for slug in runs}


def read_leases(results: Path) -> dict[str, dict[str, Any]]:
    """What each process that trains a run last said of it, by training slug; a file that cannot be read says nothing."""
    leases = {}
    for path in sorted((results / "checkpoints").glob("*.lease")):
        try:
            lease = json.loads(path.read_text(encoding="utf-8"))
            lease["time"] = float(lease["time"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        leases[path.name.removesuffix(".lease")] = lease
    return leases


def alive(lease: Mapping[str, Any], now: float) -> bool:
    """Whether the process that holds a lease still runs, by its heartbeat (and process id on this host)."""
    return now - lease["time"] <= STALE and not dead(lease)


def progress(lease: Mapping[str, Any]) -> str:
    """Epoch, step, speed, loss, time left (of an evaluation: images), device and since when, as far as the lease says."""
    if lease.get("verb") == "evaluated":
        parts = [f"evaluated {lease['images']:,} of {lease['of']:,} images" if lease.get("of") else "is being evaluated"]
        return ", ".join([*parts, *_where(lease)])
    step, steps, speed = lease.get("step"), lease.get("steps"), lease_speed(lease)
    parts = [f"epoch {lease['epoch'] + 1} of {lease['epochs']}"] if "epoch" in lease and "epochs" in lease else []
    parts += [f"step {step:,} of {steps:,}"] if steps else []
    parts += [f"{speed:.3g} steps/s, {spell((steps - step) / speed / 3600)} left"] if speed else []
    parts += [f"loss {lease['loss']:.3g}"] if isinstance(lease.get("loss"), int | float) else []
    return ", ".join([*parts, *_where(lease)])


def _where(lease: Mapping[str, Any]) -> list[str]:
    where = " ".join(filter(None, [f"on {lease.get('device')}", f"of {lease.get('host')}", f"(pid {lease.get('pid')})"]))
    parts = [where] if lease.get("device") else []
    return parts + ([f"since {clock(lease['started'])}"] if isinstance(lease.get("started"), int | float) else [])


def lease_speed(lease: Mapping[str, Any]) -> float:
    """Optimiser steps per second since this process began; 0 where that is not known yet."""
    try:
        # `first_time` is when training began, or began again: `started` counts loading too.
        seconds = lease["time"] - lease.get("first_time", lease["started"])
        steps = lease["step"] - lease.get("first_step", 0)
        return max(0.0, steps / seconds) if lease["steps"] and seconds > 0 else 0.0
    except (KeyError, TypeError):
        return 0.0


def clock(seconds: float) -> str:
    """A time of day, with the date where it is not today's."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def look(study: Study, now: float) -> tuple[Found, dict[str, dict[str, Any]]]:
    """Sort the study's runs; also the leases of those that run."""
    found, leases = Found(), read_leases(study.results)
    live = {slug: lease for slug, lease in leases.items() if alive(lease, now)}
    for slug, spec in study.specs.items():
        state, of = study.state(slug), spec.train.slug if spec.trains else ""
        if state == "done" and (lack := study.lacking_predictions(slug)):
            found.lost[slug] = f"its {OUTPUTS[0]} is {lack}"
            state = "to score" if has_logits(study.results, spec) else "missing"
        if state == "done":
            found.done.append(slug)
        elif state == "to score":
            found.unscored.append(slug)
        elif record := study.diverged(slug):
            again = f"to try again, remove {shown(study.result_file(slug))}"
            found.diverged[slug] = of, f"{reason_of(record)}; {again}"
        elif of in live:
            found.running[slug] = of, progress(live[of])
        elif (evaluation := f"{file_name(slug)}.predict") in live:
            found.running[slug] = slug, progress(live[evaluation])
        elif told := failure(study, slug, of):
            run, (log, error) = told
            if error.startswith(STOPPED):
                found.stopped[slug] = run, f"{error}  ({clock(log.stat().st_mtime)})"
            else:
                found.failed[slug] = _logged(log), error
        elif of in leases:
            found.stopped[slug] = of, f"last sign of life {clock(leases[of]['time'])}, {progress(leases[of])}"
        elif state != "missing":
            found.unusable[slug] = slug, state
        elif of and Path(study.delta(slug)).is_file():
            found.trained.append(slug)
        else:
            found.missing.append(slug)
    trains = {spec.train.slug for spec in study.trainings.values() if spec.trains}
    return found, {slug: lease for slug, lease in live.items() if slug in trains}


def failure(study: Study, slug: str, of: str) -> tuple[str, tuple[Path, str]] | None:
    """The job of a run that failed last: the run, its log and the error, without the run's name."""
    trainings = [*([of] if of else []), *reversed(study.spec(slug).ancestors)]
    jobs = [("predict", slug, "metrics.json"), *(("train", training, "train.json") for training in trainings)]
    for job, run, output in jobs:
        folder = run_folder(study.results, run)
        log = study.results / "logs" / f"{folder.relative_to(study.results / 'runs')}.{job}.log"
        if line := last_line(log, folder / output):
            return run, (log, line.replace(f"{run}: ", "", 1))
    return None


def _logged(log: Path) -> str:
    """A log and when it ended."""
    return f"{shown(log)}  {clock(log.stat().st_mtime)}"


def unprepared(study: Study, missing: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What failed of the preparation of runs: of each run's backbone, data or text the log, and its last line."""
    failed: dict[str, tuple[str, str]] = {}
    ends: dict[str, str | None] = {}
    for slug in missing:
        files = study.prepared(slug)
        for kind in [kind for kind in ("backbone", "data", "text") if kind in files]:
            path = Path(files[kind])
            job = f"{path.parent.name}.{path.stem}.text" if kind == "text" else f"{path.parent.name}.{kind}"
            log = study.results / "logs" / f"{job}.log"
            if job not in ends:
                ends[job] = last_line(log, path)
            if line := ends[job]:
                failed[slug] = _logged(log), line
                break
    return failed


def status(study: Study, every: bool = False, now: float | None = None) -> str:
    """The state of a study in words: counts first, then what runs, stopped and failed; ``every`` lists all runs."""
    found, live = look(study, time.time() if now is None else now)
    states, finished = found.states(), {*found.done, *found.diverged, *found.unscored}
    counts = {"done": found.done, "diverged": found.diverged, "running": found.running, "stopped": found.stopped}
    counts |= {
        "failed": found.failed,
        "unusable": found.unusable,
        "evaluated but not scored": found.unscored,
        "trained but not evaluated": found.trained,
        "missing": found.missing,
    }
    told = [f"{len(slugs):,} {word}" for word, slugs in counts.items() if slugs or word == "done"]
    lines = [
        f"{study.title}: {shown(study.path)} on {shown(study.config_path)} ({study.config['title']})",
        f"{len(states):,} runs: {', '.join(told)}",
        *_origins(study, live),
        *_artefacts(study, {*found.done, *found.diverged}),
        *tuning_lines(study),
        *_section("Diverged, which counts as an outcome", found.diverged, every),
        *_section("Running", found.running, every),
        *_section("Stopped; the next start takes them up where they were saved", found.stopped, every),
        *_section("Scored again", {slug: (slug, why) for slug, why in found.lost.items()}, every),
        *_errors("Failed before any run of it", unprepared(study, found.missing), every),
        *_errors("Failed", found.failed, every),
        *_errors("Cannot be used", {run: (run, why.replace(run, "RUN")) for run, (_, why) in found.unusable.items()}, every),
        *_rest(study, [study.specs[slug] for slug in states if slug not in finished], live),
        *notes_lines(study.data_notes()),
    ]
    if every:
        width = max(map(len, states), default=0)
        lines += ["Every run:", *(f"  {slug:{width}}  {states[slug]}" for slug in study.specs)]
    return "\n".join(lines)


def _origins(study: Study, live: Mapping[str, Any]) -> list[str]:
    """How far trainings are that runs start from and that are no run of the study."""
    slugs = [slug for slug in study.trainings if slug not in study.specs]
    done = sum(Path(study.delta(slug)).is_file() for slug in slugs)
    running = sum(slug in live for slug in slugs)
    now = f", {running} running" if running else ""
    return [f"{count_of(len(slugs), 'training')} only for others to start from: {done} done{now}"] if slugs else []


def _artefacts(study: Study, done: set[str]) -> list[str]:
    """How much of each table and figure is there."""
    width = max(map(len, study.artefacts), default=0)
    lines = []
    for name, artefact in study.artefacts.items():
        runs, files = artefact.specs, [Path(file) for file in study.files(name)]
        there = f"{sum(slug in done for slug in runs):,} of {count_of(len(runs), 'run')}" if runs else "needs no run"
        before = " before the study or its results changed" if artefact.pending or not done.issuperset(runs) else ""
        if artefact.pending:
            there += f", and {count_of(len(artefact.pending), 'selection')} to wait for"
        drawn = f", drawn{before}" if all(file.is_file() for file in files) else ""
        lines.append(f"  {name:{width}}  {there}{drawn}")
    return lines


def _section(title: str, runs: Mapping[str, tuple[str, str]], every: bool) -> list[str]:
    if not runs:
        return []
    jobs = Counter(job for job, _ in runs.values())
    texts = {job: text + (f"  [{count} runs wait for it]" if (count := jobs[job]) > 1 else "") for job, text in runs.values()}
    chosen = [*texts.items()][: None if every else LISTED]
    more = [f"  ... and {len(texts) - len(chosen):,} more (--all lists them)"] if len(texts) > len(chosen) else []
    return [f"{title}:", *(f"  {job}  {text}" for job, text in chosen), *more]


def _errors(title: str, runs: Mapping[str, tuple[str, str]], every: bool) -> list[str]:
    """Each error once, and below it the logs that end so, or the runs that it is of."""
    waiting = Counter(log for log, _ in runs.values())
    logs = dict(runs.values())
    chosen = dict(list(logs.items())[: None if every else LISTED])
    lines = [f"{title}:"] if logs else []
    for error in dict.fromkeys(chosen.values()):
        here = [log for log in chosen if chosen[log] == error]
        lines.append(f"  {error}")
        lines += [f"    {log}" + (f"  [{waiting[log]} runs wait for it]" if waiting[log] > 1 else "") for log in here]
    more = [f"  ... and {len(logs) - len(chosen):,} more (--all lists them)"] if len(logs) > len(chosen) else []
    return lines + more


def _rest(study: Study, unfinished: Iterable[RunSpec], live: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The estimated rest, at the measured rates of finished runs, less what running ones have behind them."""
    unfinished = [*unfinished, *runs_to_come(study)]
    if not unfinished:
        return []
    to_train = {spec.train.slug: spec for spec in unfinished if spec.trains and not Path(study.delta(spec.slug)).is_file()}
    origins = {slug: spec for child in to_train.values() for slug, spec in child.ancestors.items() if slug not in to_train}
    origins = {slug: spec for slug, spec in origins.items() if not Path(study.delta(slug)).is_file()}
    to_train = origins | to_train
    hours, untimed, speeds = 0.0, [], {name: measured(study, name) for name in {spec.backbone for spec in unfinished}}
    for spec in [*origins.values(), *unfinished]:
        cost, speed = work(study, spec), speeds[spec.backbone]
        if cost is None or speed is None:
            untimed.append(spec.slug)
            continue
        training = 0.0
        if to_train.get(spec.train.slug) is spec:  # once, whoever shares the training
            lease = live.get(spec.train.slug, {})
            training = cost.train_gflop * (1 - lease.get("step", 0) / max(lease.get("steps") or 1, 1))
        hours += speed.hours(training, 0.0 if spec.slug in origins else cost.evaluate_gflop)
    lines = []
    if hours:
        now = f", {about(hours / len(live))} while {len(live)} train at once" if len(live) > 1 else ""
        lines.append(f"Rest: {about(hours)} on one device{now}. {PARALLEL}")
    if untimed:
        lines.append(f"Rest of {count_of(len(untimed), 'run')}: not known, as none like them has been timed yet.")
    return lines
