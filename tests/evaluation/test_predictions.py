"""Compact predictions give every number that the full fp32 logits give, to the bit; and what a file of predictions may be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from pel_core.common.errors import PelError
from pel_core.evaluation.metrics import score, score_predictions
from pel_core.evaluation.predictions import Predictions, images_in, read_predictions, stored_bytes, write_predictions

# Ties, margins that fp16 cannot hold (1 + 2**-20), and values whose fp16 is 0.
VALUES = st.one_of(st.sampled_from([0.0, 1.0, 1.0 + 2**-20, 1.0 + 2**-23, 25.0, -25.0, 1e-9]), st.floats(-3e4, 3e4, width=32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("predictions")


def same(a: Predictions, b: Predictions) -> bool:
    return all((getattr(a, name) == getattr(b, name)).all() for name in vars(a))


@given(data=st.data(), images=st.integers(1, 20), classes=st.integers(2, 9))
def test_compact_predictions_have_the_metrics_of_full_ones(folder, data, images, classes):
    logits = data.draw(arrays.arrays(np.float32, (images, classes), elements=VALUES))
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)))
    groups = data.draw(st.lists(st.sampled_from(["head", "med", "tail"]), min_size=classes, max_size=classes))
    found = {}
    for kind in ("compact", "full"):
        assert write_predictions(folder / f"{kind}.safetensors", logits, labels, kind) == kind
        found[kind] = read_predictions(folder / f"{kind}.safetensors")
    assert same(found["compact"], found["full"])  # so are predictions.parquet, confusion.csv and classes.csv
    assert (found["compact"].predicted == logits.argmax(1)).all()
    assert (
        score_predictions(found["compact"], groups) == score_predictions(found["full"], groups) == score(logits, labels, groups)
    )


def test_what_a_compact_file_holds(folder):
    logits, labels = np.random.default_rng(0).normal(0, 5, (50, 300)).astype(np.float32), np.arange(50)
    for kind in ("compact", "full"):
        write_predictions(folder / f"{kind}.safetensors", logits, labels, kind)
        size = (folder / f"{kind}.safetensors").stat().st_size
        assert 0 <= size - stored_bytes(50, 300, kind) < 1000  # the header
        assert images_in(folder / f"{kind}.safetensors") == 50
    compact, full = (load_file(folder / f"{kind}.safetensors") for kind in ("compact", "full"))
    assert (full["logits"] == logits).all() and full.keys() == {"logits", "labels"}
    assert (compact["logits"] == logits.astype(np.float16)).all() and (compact["labels"] == labels).all()
    assert (compact["top_classes"][:, 0] == logits.argmax(1)).all()
    assert (compact["top_logits"] == np.take_along_axis(logits, compact["top_classes"], 1)).all()
    assert (compact["label_logits"] == logits[np.arange(50), labels]).all()


def test_logits_beyond_fp16_stay_full(folder):
    logits = np.array([[7e4, 0.0], [1.0, 2.0]], np.float32)
    assert write_predictions(folder / "large.safetensors", logits, np.zeros(2)) == "full"
    assert (load_file(folder / "large.safetensors")["logits"] == logits).all()


def test_what_cannot_be_read_is_named(folder):
    path = folder / "broken.safetensors"
    with pytest.raises(PelError, match="does not exist"):
        read_predictions(folder / "missing.safetensors")
    path.write_bytes(b"x" * 100)
    with pytest.raises(PelError, match=r"broken\.safetensors is damaged"):
        read_predictions(path)
    save_file({"other": np.zeros(2)}, path)
    with pytest.raises(PelError, match="no logits and labels"):
        read_predictions(path)
    assert images_in(path) is None and images_in(folder / "missing.safetensors") is None


def test_a_network_that_diverged_stores_nothing(folder):
    path = folder / "diverged.safetensors"
    with pytest.raises(PelError, match="1 of 2 images have NaN or infinite logits, image 1 first"):
        write_predictions(path, np.array([[0, 1], [np.nan, 0]], np.float32), np.zeros(2))
    assert not path.exists()
