"""A study whose rows are tuned, and made-up results of its candidates."""

from fake_results import fake_record

from pel_core.common.files import write_json
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import OUTPUTS, metrics_file
from pel_core.spec.stored_predictions import PARQUET

TUNE = {"grid": {"lr": [0.001, 0.01, 0.1], "weight_decay": [0, 5e-4]}, "seeds": [10, 11]}
STUDY = {
    "title": "Tuned",
    "roles": {"a": "A", "b": "B"},
    "tune": TUNE,
    "tables": {
        "one": {
            "title": "One",
            "where": {"dataset": "a"},
            "rows": [{"label": "PEL", "method": "adaptformer"}, {"label": "SSF", "method": "ssf-ln"}],
            "columns": [{"label": "All", "value": "overall"}, {"label": "One crop", "value": "overall", "tte": "none"}],
        }
    },
}
CONFIG = {
    "title": "Toy",
    "backbone": "toy",
    "seeds": [0, 1],
    "data": {"a": "imagenet-lt", "b": "places-lt"},
    "recipe": {"precision": "fp32"},
}
FAILED = {"reason": "the loss became nan", "step": 3, "epoch": 0, "loss": None, "learning_rate": 0.1}


def tune(**keys):
    return {**TUNE, **keys}


def write_candidates(study, edit=lambda record: record):
    for slug, spec in study.candidates.items():
        write_json(metrics_file(study.results, slug), edit(fake_record(spec)))
        metrics_file(study.results, slug).with_name(OUTPUTS[0]).write_bytes(PARQUET)


def diverge(study, slug):
    metrics_file(study.results, slug).unlink(missing_ok=True)
    spec = study.spec(slug).train
    record = {key: value for key, value in fake_record(spec).items() if key not in ("metrics", "training", "evaluation")}
    write_json(failed_file(study.results, slug), record | {"failed": FAILED})
