"""Stand-alone numbers: losses, long-tailed sampling, evaluation metrics."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pel_core.conformance.golden import Arrays, Golden
from pel_core.conformance.report import Report, Unsupported
from pel_core.conformance.vocabulary import make_loss
from pel_core.data.sampling import long_tail_counts, long_tail_subset, shot_groups
from pel_core.evaluation.metrics import score

GROUPS = {"many": "head", "med": "med", "few": "tail"}
METRICS = {
    "accuracy": "overall",
    "error_rate": "error_rate",
    "macro_f1": "macro_f1",
    "worst_case_acc": "worst_class",
    "hmean_acc": "hmean",
    "gmean_acc": "gmean",
    "many_acc": "head",
    "med_acc": "med",
    "few_acc": "tail",
    "mean_acc": "mean_class",
}


def check_losses(golden: Golden, report: Report, file: str) -> None:
    """``<set>/value/<loss>`` with gradients by the logits and class weights."""
    arrays = golden.arrays(file)
    for match in arrays.match(r"((?:[^/]+/)?)value/(.+)"):
        prefix, name = match.groups()
        with report.section(f"{file}: {prefix}{name}"):
            check_loss(golden, report, f"{file}: {prefix}{name}", arrays, prefix, name)
    for match in arrays.match(r"((?:[^/]+/)?)weights/(.+)"):
        with report.section(f"{file}: {match[0]}"):
            check_weights(golden, report, f"{file}: {match[0]}", arrays, *match.groups())


def check_loss(golden: Golden, report: Report, where: str, arrays: Arrays, prefix: str, name: str) -> None:
    """Value, value in double precision where there is one, and gradient."""
    logits = arrays.tensor(f"{prefix}logits").float().requires_grad_(True)
    loss = make_loss(name, arrays.tensor(f"{prefix}cls_num_list")).to(logits.device)(logits, arrays.tensor(f"{prefix}labels"))
    exact = golden.tolerance("losses")
    rtol = golden.tolerance("losses_cb") if name.startswith("CB") else exact
    report.close(where, loss, arrays[f"{prefix}value/{name}"], rtol=rtol)
    if f"{prefix}value_f64/{name}" in arrays:
        report.close(f"{where}, in float64", loss, arrays[f"{prefix}value_f64/{name}"], rtol=exact)
    if f"{prefix}grad_logits/{name}" in arrays:
        loss.backward()
        pairs = [("", logits.grad, arrays[f"{prefix}grad_logits/{name}"])]
        relative = max(golden.tolerance("grads"), rtol if name.startswith("CB") else 0)
        report.gradients(f"{where}, gradient", pairs, relative, golden.tolerance("grads_floor"))


def check_weights(golden: Golden, report: Report, where: str, arrays: Arrays, prefix: str, name: str) -> None:
    """Class weights (``CB_b0.9999_fp32``) and margins (``LDAM_margins``), the latter before their scale."""
    base = re.sub(r"_(fp32|fp64|f64|margins|weights)$", "", name)
    loss = make_loss(base, arrays.tensor(f"{prefix}cls_num_list"), scale=1.0)
    found = next((getattr(loss, kind) for kind in ("weights", "margins") if hasattr(loss, kind)), None)
    if found is None:
        raise Unsupported(f"{base} has no class weights")
    single = base.startswith("CB") and not name.endswith("64")
    rtol = golden.tolerance("losses_cb") if single else golden.tolerance("losses")
    report.close(where, found, arrays[f"{prefix}weights/{name}"], rtol=rtol)


def check_sampling(golden: Golden, report: Report, file: str) -> None:
    """CIFAR-LT: counts, chosen positions, shot groups; the index's summary of each ratio."""
    arrays = golden.arrays(file)
    labels = arrays["labels"].astype(np.int64)
    classes, largest = int(labels.max()) + 1, int(np.bincount(labels).max())
    for match in arrays.match(r"(counts|indices)_ir([\d.]+)"):
        kind, ratio = match[1], float(match[2])
        found = long_tail_counts(classes, largest, ratio) if kind == "counts" else long_tail_subset(labels, ratio)
        report.close(f"{file}: {match[0]}", found, arrays[match[0]])
    groups = np.array(shot_groups(long_tail_counts(classes, largest, 100)))
    check_groups(report, file, arrays, "", groups)
    for ratio, summary in (golden.index.get("cifar") or {}).items():
        with report.section(f"index.json: cifar {ratio}"):
            found = summarise(long_tail_counts(int(summary["n_classes"]), int(summary["max"]), float(ratio)))
            wrong = [key for key, value in summary.items() if key != "imb_factor" and found.get(key) != value]
            report.measure(f"index.json: cifar {ratio}", len(wrong), 0, ", ".join(wrong))


def summarise(counts: np.ndarray) -> dict[str, Any]:
    """A profile as the index describes it, its groups by its own counts."""
    groups = shot_groups(counts)
    own = {name: groups.count(group) for name, group in GROUPS.items()}
    ends = {"first": counts[:5].tolist(), "last": counts[-5:].tolist(), "min": int(counts.min()), "max": int(counts.max())}
    return {"total": int(counts.sum()), "n_classes": len(counts), **ends, **own}


def check_groups(report: Report, file: str, arrays: Arrays, prefix: str, groups: np.ndarray) -> None:
    """``many_idxs`` and the like against our groups."""
    for name, group in GROUPS.items():
        if (key := f"{prefix}{name}_idxs") in arrays:
            report.close(f"{file}: {key}", np.flatnonzero(groups == group), arrays[key])


def check_evaluator(golden: Golden, report: Report, file: str) -> None:
    """``<set>/result/<metric>`` from ``<set>/logits`` and labels."""
    arrays = golden.arrays(file)
    sets = dict.fromkeys(match[1] for match in arrays.match(r"((?:[^/]+/)?)result/.+"))
    for prefix in sets:
        with report.section(f"{file}: {prefix}result"):
            own = prefix if f"{prefix}cls_num_list" in arrays else ""
            groups = shot_groups(arrays[f"{own}cls_num_list"])
            check_groups(report, file, arrays, own, np.array(groups))
            found = score(arrays[f"{prefix}logits"], arrays[f"{prefix}labels"].astype(np.int64), groups)
            for match in arrays.match(f"{re.escape(prefix)}result/(.+)"):
                check_metric(report, f"{file}: {match[0]}", found, match[1], arrays[match[0]])
            for metric, value in ((golden.index.get("evaluator") or {}).get(prefix.rstrip("/")) or {}).items():
                check_metric(report, f"index.json: evaluator {prefix}{metric}", found, metric, value)


def check_metric(report: Report, where: str, found: Mapping[str, Any], metric: str, expected: Any) -> None:
    """One metric in percent; ours is None where the reference's is NaN."""
    if metric not in METRICS:
        report.fail(where, "no metric of that name here")
        return
    value = found[METRICS[metric]]
    report.close(where, np.nan if value is None else value, np.nan if expected is None else expected, atol=1e-6)
