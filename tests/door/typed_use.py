"""What a script that uses the Python door writes, for mypy: no part of it is Any where a reader counts on a type."""

from pathlib import Path
from typing import assert_type

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import pel_core as pel


def use(folder: Path) -> None:
    frame = pel.results(folder, ["overall", "parameters.learnable_with_head"])
    assert_type(frame, pd.DataFrame)
    run = pel.load_run(folder / "runs" / "x", device="cpu")
    assert_type(run, pel.LoadedRun)
    module: nn.Module = run.model
    print(module)
    assert_type(run.trained, dict[str, Tensor])
    assert_type(run.metrics["overall"], float | None)
    assert_type(run.class_names, list[str])
    assert_type(run.transform(Image.new("RGB", (8, 8))), Tensor)
    said = run.predict([folder / "a.png", np.zeros((8, 8, 3), np.uint8)])
    assert_type(said, pel.ImagePredictions)
    assert_type(said.probabilities, NDArray[np.float32])
    assert_type(said.names, list[str])
    assert_type(said.frame(top=3), pd.DataFrame)
    trained = pel.train(dataset="toy-ir20", method="ln", results=folder, epochs=1)
    assert_type(trained, pel.LoadedRun)
    study = pel.study("losses", results=folder, seeds=[0, 1])
    assert_type(study.cells, pd.DataFrame)
    assert_type(study.missing, dict[str, str])
    assert_type(study.figure("x").figure, Figure)
    pel.use_plugins(folder / "my_method.py")
    assert_type(pel.__version__, str)
