"""A folder of images on which runs are trained through the door."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CONFIG = """
title: Photographs in the small
backbone: toy
seeds: [0]
data: {own: mine}
datasets: {mine: {kind: folders, root: $PEL_DATA}}
recipe: {precision: fp32, epochs: 1, batch_size: 4}
tensorboard: false
"""


@pytest.fixture(autouse=True, scope="module")
def roots_stay_as_they_were():
    """A study that is read tells jobs where its images lie, through the environment; other files' tests have other images."""
    before = os.environ.pop("PEL_ROOTS", None)
    yield
    os.environ.pop("PEL_ROOTS", None)
    if before is not None:
        os.environ["PEL_ROOTS"] = before


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """``images`` of two classes, of several sizes and modes, and a configuration ``config.yaml`` of them."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(("red deer", "été 寺")):
            for index in range(count - label):
                path = folder / "images" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(0, 256, (24 + index, 20 + 3 * index, 3), np.uint8) // (1 + label)
                Image.fromarray(pixels if index else pixels[..., 0]).save(path)  # the first is grey
    (folder / "config.yaml").write_text(CONFIG)
    return folder
