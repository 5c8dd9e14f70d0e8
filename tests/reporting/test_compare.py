"""Measured beside reported: where one more run is expected, and which reported value lies outside (others: test_tables.py)."""

import io

import numpy as np
import pandas as pd
from fake_results import write_results
from scipy import stats

from pel_core.reporting.compare import compare_files
from pel_core.studies.study import load


def test_a_reported_value_is_held_against_where_one_more_run_is_expected(tmp_path):
    """By hand: Student's t of S - 1 times s sqrt(1 + 1 / S)."""
    study = load("report", "paper", seeds="0,1,2", results=tmp_path)
    write_results(tmp_path, study.specs)
    frame = pd.read_csv(io.StringIO(compare_files(study)["csv"]))
    frame = frame[frame["metric"] != "learnable_param_m"]
    said = frame["note"].fillna("").str.contains("no prediction interval: the value is the same at every seed")
    assert (frame["low"].isna() == said).all()
    frame = frame[~said]
    half = stats.t.ppf(0.975, frame["n"] - 1) * frame["std"] * np.sqrt(1 + 1 / frame["n"])
    assert ((frame["low"] - (frame["measured"] - half)).abs() < 0.05).all()  # std is printed to two digits
    assert ((frame["high"] - (frame["measured"] + half)).abs() < 0.05).all()
    known = frame[frame["reported"].notna()]
    outside = (known["reported"] < known["low"]) | (known["reported"] > known["high"])
    assert (outside == known["flag"].fillna("").str.contains("outside")).all() and 0 < outside.sum() < len(known)
    assert frame[frame["reported"].isna()]["flag"].isna().all()


def test_one_seed_gives_no_interval_and_says_so(tmp_path):
    study = load("report", "paper", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    frame = pd.read_csv(io.StringIO(compare_files(study)["csv"]))
    assert frame["low"].isna().all() and not frame["flag"].fillna("").str.contains("outside").any()
    cells = frame[frame["metric"] != "learnable_param_m"]
    assert cells["note"].str.contains("no prediction interval: one seed").all()
    assert frame["flag"].eq("suspect").sum() == 4  # one method, four metrics
