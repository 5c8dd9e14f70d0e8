"""One thread for every test: runs repeat bit for bit, and two-core machines stay usable."""

import json
import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in subprocesses

import threading
from pathlib import Path

import pytest
from hypothesis import settings

from pel_core.common.files import read_json
from pel_core.common.plugins import use_plugins

use_plugins()  # PEL_PLUGINS=my.py pytest tests/models: a plugin's entries are tested as ours are

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines stall: a slow example is not a wrong one.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def what_pel_sets_is_put_back():
    """Commands that run in a test's own process tell their jobs by PEL_DATA, PEL_ROOTS and the like; others may not hear it."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PEL_")}
    yield
    for name in [name for name in os.environ if name.startswith("PEL_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's shared folder (real images and lists); tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("PEL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the shared folder {folder.name}/data (set PEL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def toy_results(tmp_path_factory) -> Path:
    """A results folder with the toy backbone, data and text features prepared. Tests may add runs, not change these."""
    from pel_core.cli.main import main

    results = tmp_path_factory.mktemp("results")
    assert main(["backbone", "toy", "--out", f"{results}/backbones/toy"]) == 0
    assert main(["data", "prepare", "toy", "--out", f"{results}/data/toy"]) == 0
    words = ["--backbone-dir", f"{results}/backbones/toy", "--data-dir", f"{results}/data/toy"]
    assert main(["text", *words, "--out", f"{results}/text/toy/toy.default.safetensors"]) == 0
    assert main(["text", *words, "--prompt", "tower", "--out", f"{results}/text/toy/toy.tower.safetensors"]) == 0
    sentences = tmp_path_factory.mktemp("texts") / "sentences.json"  # 1 to 3 of each class
    names = read_json(results / "data" / "toy" / "data.json")["class_names"]
    said = {name: [f"{name}, said {word}" for word in ("once", "twice", "thrice")[: 1 + i % 3]] for i, name in enumerate(names)}
    sentences.write_text(json.dumps(said))
    words += ["--prompt", "sentences:descriptions", "--descriptions", str(sentences)]
    assert main(["text", *words, "--out", f"{results}/text/toy/toy.sentences:descriptions.safetensors"]) == 0
    return results


@pytest.fixture
def files(tmp_path):
    """A split of 40 image files of different sizes."""
    import numpy as np
    from PIL import Image

    from pel_core.data.datasets import Split

    draw = np.random.default_rng(0)
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(draw.integers(0, 255, (20 + i, 30, 3), np.uint8)).save(paths[-1])
    return Split(np.arange(40) % 6, None, paths)


@pytest.fixture
def server(monkeypatch):
    """A server of files on this machine (see file_server.py); downloads wait for nothing between two attempts."""
    from file_server import Server

    from pel_core.ingest import fetch

    monkeypatch.setattr(fetch, "PAUSE", 0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tree(request, tmp_path, monkeypatch):
    """A published tree, by the name of its data set (see real_trees.py)."""
    from real_trees import TREES, publish

    made = TREES[request.param](tmp_path / "tree", side=16)
    publish(monkeypatch, made)
    return made
