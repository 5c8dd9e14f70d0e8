"""Data sets of the Hugging Face hub: a repository's folder, the hub's cache without network, and a hub that answers."""

import hashlib
import io
import json
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from own_trees import counts
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.data.datasets import open_prepared
from pel_core.ingest.entries import declared
from pel_core.ingest.identity import data_params
from pel_core.ingest.prepare import prepare
from pel_core.studies.study import load

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
HEAD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
dataset_info:
  splits:
  - {name: train, num_bytes: 990, num_examples: 10}
  - {name: validation, num_bytes: 400, num_examples: 4}
---
"""


@pytest.fixture(scope="module")
def datasets():
    library = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    library.disable_progress_bars()
    return library


def encoded(i: int, form: str = "PNG") -> bytes:
    handle = io.BytesIO()
    Image.new("RGB", (9, 9), (i * 7 % 256, 20, 30)).save(handle, form)
    return handle.getvalue()


def repository(datasets, root: Path, head: str = HEAD, train: int = 10, kinds: dict | None = None, **columns) -> Path:
    """A repository as the hub has it: parquet shards, and a README.md whose head names them."""
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text(head + "A data set.\n")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea_lion", "orca", "seal"]), **(kinds or {})}
    for split, count, shards in (("train", train, 3), ("validation", 4, 1)):
        values = {
            "image": [{"bytes": encoded(i), "path": None} for i in range(count)],
            "label": [i % 2 for i in range(count)],
            **{name: make(count) for name, make in columns.items()},
        }
        table = datasets.Dataset.from_dict(values, features=datasets.Features({name: features[name] for name in values}))
        for k in range(shards):
            table.shard(shards, k, contiguous=True).to_parquet(root / f"data/{split}-{k:05d}-of-{shards:05d}.parquet")
    return root


def cached(root: Path, home: Path, commit: str = COMMIT) -> None:
    """The folder as a snapshot in a cache, links to blobs, as the hub's client leaves it."""
    base = home / "hub/datasets--someone--seals"
    for i, file in enumerate(path for path in sorted(root.rglob("*")) if path.is_file()):
        blob, link = base / "blobs" / f"{i:040x}", base / "snapshots" / commit / file.relative_to(root)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(file.read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))


def make(out: Path, name: str = "mine", **keys):
    prepare("mine", out, {"datasets": {"mine": {"kind": "hub", **keys}}})
    return open_prepared(out, name)


def test_a_repository_in_a_folder(datasets, tmp_path, capsys):
    data = make(tmp_path / "out", root=str(repository(datasets, tmp_path / "repo")))
    assert data.class_names == ["sea lion", "orca"] and counts(data.train, 2) == [5, 5]
    assert data.test.labels.tolist() == [0, 1, 0, 1], "the validation split stands for a test split"
    assert [Path(path).read_bytes() for path in data.train.paths] == [encoded(i) for i in range(10)]
    told = capsys.readouterr().err
    assert "14 images" in told and "images from 'image', labels from 'label' (class labels: sea_lion" in told
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == [".written-by-pel-lab", "train", "val"]
    assert not (tmp_path / "out/.images-new").exists()


def test_splits_and_a_drawn_imbalance(datasets, tmp_path):
    root = repository(datasets, tmp_path / "repo")
    keys = {"splits": {"train": "train"}, "profile": "step", "ratios": [2], "test_fraction": 0.2}
    data = make(tmp_path / "out", name="mine-ir2", root=str(root), **keys)
    assert data.train_counts.tolist() == [4, 2] and len(data.test) == 2


TEXTS = {"path": lambda n: [f"pictures/{i}.png" for i in range(n)], "kind": lambda n: ["cat", "dog"] * (n // 2)}


def test_images_by_path_and_labels_as_text(datasets, tmp_path):
    kinds = {"path": datasets.Value("string"), "kind": datasets.Value("string"), "raw": datasets.Value("binary")}
    root = repository(datasets, tmp_path / "repo", kinds=kinds, raw=lambda n: [encoded(i, "JPEG") for i in range(n)], **TEXTS)
    (root / "pictures").mkdir()
    for i in range(10):
        (root / f"pictures/{i}.png").write_bytes(encoded(i, "WEBP"))
    data = make(tmp_path / "out", root=str(root), image_column="path", label_column="kind")
    assert data.class_names == ["cat", "dog"] and Path(data.train.paths[3]).read_bytes() == encoded(3, "WEBP")
    assert Path(data.train.paths[0]).suffix == ".webp"
    data = make(tmp_path / "raw", root=str(root), image_column="raw", label_column="label")
    assert Path(data.train.paths[1]).read_bytes() == encoded(1, "JPEG")
    (root / "pictures/3.png").unlink()
    with pytest.raises(PelError, match=r"\(train\), image 3: the image 'pictures/3.png' cannot be read"):
        make(tmp_path / "gone", root=str(root), image_column="path", label_column="kind")


def test_nothing_is_said_of_a_card_without_a_head(datasets, tmp_path):
    said = logging.handlers.BufferingHandler(100)
    logging.getLogger("huggingface_hub").addHandler(said)
    try:
        for i in range(8):
            (path := tmp_path / f"folder/train/{'ab'[i % 2]}/{i}.png").parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(i))
        (tmp_path / "folder/README.md").write_text("A data set.\n")
        assert make(tmp_path / "out", root=str(tmp_path / "folder")).class_names == ["a", "b"]
        assert [record.getMessage() for record in said.buffer] == []
        logging.getLogger("huggingface_hub.repocard").warning("Repo card metadata block was not found.")
        assert len(said.buffer) == 1, "others may want it"
    finally:
        logging.getLogger("huggingface_hub").removeHandler(said)


def test_a_slip_of_ours_is_no_damaged_file(datasets, tmp_path, monkeypatch):
    root = repository(datasets, tmp_path / "repo")
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda: ["default"])  # called with a folder
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        make(tmp_path / "out", root=str(root))
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda folder: json.loads("{"))
    with pytest.raises(PelError, match="cannot be read as a data set of the hub") as found:
        make(tmp_path / "out", root=str(root))
    chain = found.value.__cause__ or found.value.__context__
    assert isinstance(chain, PelError | json.JSONDecodeError)


def test_an_image_folder_and_json_lines(datasets, tmp_path):
    for i in range(8):
        (path := tmp_path / f"folder/train/{'ab'[i % 2]}/{i}.png").parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i))
    assert make(tmp_path / "out", root=str(tmp_path / "folder")).class_names == ["a", "b"]
    rows = [json.dumps({"file": f"train/{'ab'[i % 2]}/{i}.png", "class_id": i % 2 + 7}) for i in range(8)]
    (tmp_path / "folder/train.jsonl").write_text("\n".join(rows))
    (tmp_path / "folder/README.md").write_text("---\nconfigs: [{config_name: a, data_files: train.jsonl}]\n---\n")
    data = make(tmp_path / "lines", root=str(tmp_path / "folder"), image_column="file", label_column="class_id")
    assert data.class_names == ["7", "8"]


FLOATS = {"score": lambda n: [0.5] * n}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"label_column": "score"}, r"'score' of .* holds float32 \(measurements, not classes\); expected class labels"),
        ({"label_column": "lable"}, "Did you mean 'label'"),
        ({"image_column": "picture"}, "unknown image_column"),
        ({"splits": {"train": "training"}}, "unknown split of .*known: train, validation"),
        ({"configuration": "small"}, "unknown configuration of .*known: default"),
    ],
)
def test_columns_and_splits_that_are_not_there(datasets, tmp_path, keys, message):
    root = repository(datasets, tmp_path / "repo", kinds={"score": datasets.Value("float32")}, **FLOATS)
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(tmp_path / "out", root=str(root), **keys)
    assert not list((tmp_path / "out").glob("*")), "something is left half-written"


def test_bytes_that_are_no_image_empty_images_and_unlabelled_ones(datasets, tmp_path):
    for name, column, value, message in (
        ("text", "raw", b"<html>not found", r"\(train\), image 7: its 15 bytes are not an image \(they begin with b'<html>"),
        ("none", "raw", None, r"\(train\), image 7: its image 'raw' is empty"),
        ("unlabelled", "label", -1, r"\(train\), image 7: its label is -1, which is no class"),
    ):
        columns = {"raw": [encoded(i) for i in range(10)], "label": [i % 2 for i in range(10)]}
        columns[column][7] = value
        make_columns = {name: lambda n, values=values: values[:n] for name, values in columns.items()}
        root = repository(datasets, tmp_path / name, kinds={"raw": datasets.Value("binary")}, **make_columns)
        with pytest.raises(PelError, match=message):
            make(tmp_path / f"out-{name}", root=str(root), image_column="raw")
        assert not list((tmp_path / f"out-{name}").glob("*"))


def test_a_shard_that_is_missing_or_cut_off(datasets, tmp_path):
    root = repository(datasets, tmp_path / "repo")
    shard = root / "data/train-00001-of-00003.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(PelError, match=r"\(train\) cannot be read as a data set of the hub \(.*[Pp]arquet"):
        make(tmp_path / "out", root=str(root))
    shard.unlink()
    with pytest.raises(PelError, match=r"lacks 1 of 3 parts, such as data/train-00001-of-00003.parquet"):
        make(tmp_path / "out", root=str(root))
    few = repository(datasets, tmp_path / "few", train=8)
    with pytest.raises(PelError, match=r"\(train\): 8 images were read, and its README.md says 10"):
        make(tmp_path / "out", root=str(few))


HERE = {"repository": "someone/seals", "revision": COMMIT}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"repository": "someone/seals"}, "revision is missing, expected a commit, 40 hex digits"),
        ({"repository": "someone/seals", "revision": "main"}, "revision is 'main', expected a commit"),
        ({"repository": "a/b/c", "revision": COMMIT}, "repository is 'a/b/c', expected owner/name"),
        ({}, "expected repository .* or root .*neither is given"),
        ({**HERE, "root": "x"}, "both are given"),
        ({"root": "x", "revision": COMMIT}, "revision is of a repository on the hub"),
        ({**HERE, "splits": {"test": "a"}}, "splits says none to train on"),
        ({**HERE, "splits": {"training": "a"}}, "'training' is none of train, test and val"),
    ],
)
def test_entries_that_cannot_be(keys, message):
    with pytest.raises(PelError, match=f"data set 'mine' of the configuration: .*{message}"):
        declared({"datasets": {"mine": {"kind": "hub", **keys}}})


def identity(**keys) -> str:
    config = {"datasets": {"mine": {"kind": "hub", **HERE, **keys}}}
    return data_params("mine", declared(config), config)


def test_a_repository_is_known_by_its_commit(monkeypatch):
    """Planning asks no network for it."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked for the network"))
    assert identity() == identity() != identity(revision=OTHER)
    assert identity() != identity(label_column="kind")


PREPARE = "import sys; from pel_core.cli.main import main\n" \
    "sys.exit(main(['data', 'prepare', 'mine', '--out', {out!r}, '--config', {config!r}]))"  # fmt: skip


def jobs(tmp_path: Path, keys: dict, code: str = PREPARE, **environment) -> subprocess.Popen:
    """`data prepare` in a process of its own, which reads HF_HOME and the like at its start."""
    (tmp_path / "my.yaml").write_text(json.dumps({"datasets": {"mine": {"kind": "hub", **keys}}}))
    code = code.format(out=str(tmp_path / "out"), config=str(tmp_path / "my.yaml"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    whole = {**clean, "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "home/datasets"), **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=whole, stderr=subprocess.PIPE, text=True)


def told(job: subprocess.Popen) -> tuple[int, str]:
    return job.wait(120), job.stderr.read()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", pytest.param("HF_DATASETS_OFFLINE", marks=pytest.mark.slow)])
def test_without_network_the_cache_is_read(datasets, tmp_path, variable):
    cached(repository(datasets, tmp_path / "repo"), tmp_path / "home")
    code, text = told(jobs(tmp_path, HERE, **{variable: "1"}))
    assert code == 0, text
    assert counts(open_prepared(tmp_path / "out", "mine").train, 2) == [5, 5]
    code, text = told(jobs(tmp_path, {**HERE, "revision": OTHER}, **{variable: "1"}))
    assert code and "Traceback" not in text
    assert f"is not in the cache, or a part of it is missing ({variable} is set)" in text
    assert f"hf download someone/seals --repo-type dataset --revision {OTHER}" in text
    assert len(open_prepared(tmp_path / "out", "mine").train) == 10, "the earlier folder was touched"


SLOW = "import pel_core.ingest.taken_images as t; t.PART = 2; import time; old = t.require_image\n" \
    "def slow(*a): time.sleep(0.4); old(*a)\nt.require_image = slow\n" + PREPARE  # fmt: skip


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(datasets, tmp_path):
    root = repository(datasets, tmp_path / "repo")
    job = jobs(tmp_path, {"root": str(root)}, SLOW)
    notes, deadline = tmp_path / "out/.images-new/taken-train.jsonl", time.time() + 90
    while not (notes.is_file() and len(notes.read_text().splitlines()) >= 4):
        assert job.poll() is None and time.time() < deadline, told(job)[1]
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = len(notes.read_text().splitlines())
    with open(notes, "a") as handle:
        handle.write('["train/00000/0000')  # a line that was torn
    first = sorted((tmp_path / "out/.images-new/train/00000").iterdir())[0]
    before = first.stat().st_mtime_ns
    code, text = told(jobs(tmp_path, {"root": str(root)}))
    assert code == 0 and f"going on with train after {done} images" in text, text
    data = open_prepared(tmp_path / "out", "mine")
    assert Path(data.train.paths[0]).stat().st_mtime_ns == before, "written again"
    assert [Path(path).read_bytes() for path in data.train.paths] == [encoded(i) for i in range(10)]
    assert np.bincount(data.train.labels).tolist() == [5, 5]


class Answers(BaseHTTPRequestHandler):
    """The hub's addresses that a download asks for, of one repository. ``refusal``: status and X-Error-Code of every answer."""

    root: Path
    refusal: tuple[int, str] | None = None
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        self.asked.append(path)
        if self.refusal:
            return self.answer(self.refusal[0], b"{}", {"X-Error-Code": self.refusal[1], "X-Error-Message": "no"})
        if path == "/api/datasets/someone/seals/revision/main":
            return self.answer(200, json.dumps({"id": "someone/seals", "sha": COMMIT}).encode())
        if path == f"/api/datasets/someone/seals/tree/{COMMIT}":
            files = [file for file in sorted(self.root.rglob("*")) if file.is_file()]
            tree = [{"type": "file", "oid": f"{i:040x}", "size": file.stat().st_size, "path": str(file.relative_to(self.root))}
                    for i, file in enumerate(files)]  # fmt: skip
            return self.answer(200, json.dumps(tree).encode())
        name = path.removeprefix(f"/datasets/someone/seals/resolve/{COMMIT}/")
        if name != path and (file := self.root / name).is_file():
            content = file.read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such commit"})

    def answer(self, status: int, content: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(datasets, tmp_path, monkeypatch):
    """A hub on this machine that has the repository someone/seals, and an empty cache."""
    from huggingface_hub import constants

    handler = type("Handler", (Answers,), {"root": repository(datasets, tmp_path / "repo"), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()


def test_a_repository_is_downloaded_once(hub, tmp_path):
    data = make(tmp_path / "out", repository="someone/seals", revision=f"main@{COMMIT}")
    assert counts(data.train, 2) == [5, 5] and not (tmp_path / "out/root.json").exists()
    hub.refusal = (500, "")
    again = make(tmp_path / "again", **HERE)
    assert again.sha256 == data.sha256, "what the cache holds was not read"


def test_init_takes_a_repository_by_name(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "new", "--data", "hub:someone/seals", "--backbone", "clip-mini"]) == 0
    text = Path("new/config.yaml").read_text()
    entry = f"mine: {{kind: hub, repository: someone/seals, revision: {COMMIT}}} # hub: "
    assert f"{entry}how many images it has is not known before they are prepared\n" in text
    study = load("new/study.yaml", "new/config.yaml", results=tmp_path / "results")
    study.check_sources()
    prepare("mine", tmp_path / "out", study.config)
    assert counts(open_prepared(tmp_path / "out", "mine").train, 2) == [5, 5]
    hub.refusal = (500, "")  # in the cache now: its README.md says the sizes
    assert main(["init", "again", "--data", f"hub:someone/seals@{COMMIT}", "--backbone", "clip-mini"]) == 0
    assert f"{entry}images: 10 train, 4 test\n" in Path("again/config.yaml").read_text()
    capsys.readouterr()
    hub.refusal = (401, "RepoNotFound")
    assert main(["init", "third", "--data", "hub:someone/seals"]) == 1
    assert "the hub has no data set someone/seals, or it is private" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["init", "third", "--data", "hub:someone/seals"]) == 1
    assert "could not be asked for (no network: 127.0.0.1 cannot be reached" in capsys.readouterr().err
    assert not Path("third").exists()


@pytest.mark.parametrize(
    "refusal, keys, message",
    [
        (
            (403, "GatedRepo"),
            HERE,
            "is gated: accept its terms at http.*/datasets/someone/seals and log in",
        ),
        ((401, "RepoNotFound"), HERE, "the hub has no data set someone/seals, or it is private"),
        ((404, "RevisionNotFound"), HERE, f"has no commit {COMMIT} .any more"),
        (None, {**HERE, "revision": OTHER}, f"has no commit {OTHER} .any more"),
        (
            None,
            {**HERE, "revision": f"main@{OTHER}"},
            f"'main' of .* has moved: it was {OTHER} and is {COMMIT} now; write revision:",
        ),
    ],
)
def test_what_the_hub_refuses(hub, tmp_path, refusal, keys, message):
    hub.refusal = refusal
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(tmp_path / "out", **keys)
    assert not list((tmp_path / "out").glob("*"))


def test_a_hub_that_cannot_be_reached(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        PelError, match=r"is not in the cache.*no network: 127.0.0.1 cannot be reached .*hf download someone/seals"
    ):
        make(tmp_path / "out", **HERE)
