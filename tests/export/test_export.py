"""`pel export`: what other libraries load gives the run's logits, by the very lines that the folder's card shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from pel_core.cli.main import main
from pel_core.common import plugins
from pel_core.common.errors import PelError
from pel_core.data.resample import normalise
from pel_core.evaluation.trained_run import open_run
from pel_core.export.folder import export_run
from pel_core.models.backbones import BACKBONES
from pel_core.spec.run_spec import RunSpec

ARCH, TAG = "vit_tiny_patch16_224", "augreg_in21k"
TIMM = f"timm--{ARCH}--{TAG}"
CPU = torch.device("cpu")


def slug(backbone, method, **options):
    return RunSpec.make("toy-ir20", backbone, method, 0, **options).slug


CLIP = slug("clip-mini", "lora+ssf-ln", epochs=1)
ZERO = slug("clip-mini", "zero-shot")
PROJECTED = slug("clip-mini", "ln", epochs=1, resolution=48, **{"head.feature": "projected"})
ADAPTED = slug("clip-mini", "adaptformer", epochs=1)
LINEAR = slug(TIMM, "lora", epochs=1, resolution=32, head="linear", init="random", lr=0.001)
COSINE = slug(TIMM, "bias@10:12", epochs=1, resolution=32, init="class-mean")
RUNS = {"open_clip": (CLIP, ZERO, PROJECTED), "timm": (LINEAR, COSINE)}


@pytest.fixture(scope="module")
def results(toy_results, tmp_path_factory):
    """Both libraries' backbones beside the toy's, and a run of each kind; timm's weights are a drawn file."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("backbones", "data", "text"):
        (folder / name).mkdir()
    (folder / "data/toy").symlink_to(toy_results / "data/toy")
    torch.manual_seed(0)
    save_file(timm.create_model(ARCH, num_classes=3).state_dict(), folder / "tiny.safetensors")
    weights = f"{folder}/tiny.safetensors"
    assert main(["backbone", "clip-mini", "--out", f"{folder}/backbones/clip-mini"]) == 0
    assert main(["backbone", f"timm:{ARCH}.{TAG}", "--out", f"{folder}/backbones/{TIMM}", "--weights", weights]) == 0
    words = ["--backbone-dir", f"{folder}/backbones/clip-mini", "--data-dir", f"{folder}/data/toy"]
    assert main(["text", *words, "--out", f"{folder}/text/clip-mini/toy.default.safetensors"]) == 0
    for run in (CLIP, PROJECTED, LINEAR, COSINE, ADAPTED):
        assert main(["train", run, "--results", str(folder), "--no-tensorboard"]) == 0
    assert main(["evaluate", CLIP, "--results", str(folder), "--no-tensorboard"]) == 0
    return folder


def loaded(folder, **names):
    """What the card's own code makes of images."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with torch.inference_mode():
        exec(code.replace("FOLDER", str(folder)), names)
    return torch.as_tensor(names["logits"])


def images_of(spec):
    return torch.rand(3, 3, spec.pixels, spec.pixels, generator=torch.Generator().manual_seed(5))


def prepared(out, pixels, spec):
    """Pixels in 0..1 as the card and the configuration beside it say that they are given, which must agree."""
    card = (out / "README.md").read_text(encoding="utf-8")
    about = json.loads(next(iter(out.glob("*config.json"))).read_text(encoding="utf-8"))
    about = about.get("preprocessing") or about.get("preprocess_cfg") or about["pretrained_cfg"]
    if about.get("normalise") == "inside":
        assert not {"mean", "std"} & set(about) and about["value_range"] == [0, 1]
        assert "does it twice" in card and "not normalised" in card and not re.search(r"mean \[|std \[", card)
        return pixels
    entry = BACKBONES[spec.backbone]
    assert (about["mean"], about["std"]) == (list(entry.mean), list(entry.std))
    assert "(pixels - mean) / std" in card and f"mean {list(entry.mean)}, std {list(entry.std)}" in card
    return (pixels - torch.tensor(about["mean"])[:, None, None]) / torch.tensor(about["std"])[:, None, None]


@pytest.mark.parametrize(("form", "run"), [(form, run) for form, runs in RUNS.items() for run in runs])
def test_a_library_gives_the_runs_logits(results, tmp_path, form, run):
    out = export_run(run, results, form, tmp_path / "out")
    spec, classifier, names = open_run(run, results, CPU, cast=False)
    entry, pixels = BACKBONES[spec.backbone], images_of(spec)
    images = normalise(255 * pixels, *(torch.tensor(each)[:, None, None] for each in (entry.mean, entry.std)))
    with torch.inference_mode():
        expected = classifier.eval()(images)
    torch.testing.assert_close(loaded(out, images=prepared(out, pixels, spec)), expected, rtol=1e-3, atol=1e-3)
    assert json.loads((out / "class_names.json").read_text()) == names
    about = json.loads((out / ("config.json" if form == "timm" else "open_clip_config.json")).read_text())
    assert about["architecture"] in (entry.arch, ARCH)
    if run == LINEAR:
        assert not (out / "classifier.safetensors").exists() and about["label_names"] == names
        data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{out}", pretrained=True))
        assert (data["input_size"], data["crop_pct"], tuple(data["mean"])) == ((3, 32, 32), 0.875, tuple(entry.mean))


GRAPHS = [
    ("torch", ZERO),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in (("onnx", ZERO), ("torch", ADAPTED), ("onnx", ADAPTED))),
]


@pytest.mark.parametrize(("form", "run"), GRAPHS)
def test_a_graph_gives_the_runs_logits_for_any_number_of_images(results, tmp_path, form, run):
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    out = export_run(run, results, form, tmp_path / "out")
    spec, classifier, _ = open_run(run, results, CPU, cast=False)
    entry, pixels = BACKBONES[spec.backbone], images_of(spec)
    with torch.inference_mode():
        expected = classifier.eval()(
            normalise(255 * pixels, *(torch.tensor(each)[:, None, None] for each in (entry.mean, entry.std)))
        )
    for count in (1, 3):
        given = prepared(out, pixels[:count], spec)
        given = given.numpy() if form == "onnx" else given
        torch.testing.assert_close(loaded(out, pixels=given), expected[:count], rtol=1e-3, atol=1e-3)


def test_the_cards_preparation_is_the_evaluation_of_one_central_crop(results, tmp_path):
    """An image file, prepared by timm as the folder's configuration says, has the run's own answer with ``tte: none``."""
    out = export_run(LINEAR, results, "timm", tmp_path / "out")
    draw = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    Image.fromarray(draw).resize((700, 900), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    words = ["--run", LINEAR, "--results", str(results), "--evaluation", "tte=none", "--out", str(tmp_path / "p.csv")]
    assert main(["predict", str(tmp_path / "a.png"), *words]) == 0
    said = (tmp_path / "p.csv").read_text().splitlines()[1].split(",")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        shares = model(prepare(Image.open(tmp_path / "a.png"))[None]).softmax(1)[0]
    assert int(shares.argmax()) == int(said[1])
    assert float(shares.max()) == pytest.approx(float(said[3]), abs=0.01)  # torchvision and timm resize alike but for rounding


def test_the_card_is_the_hubs_and_has_the_runs_numbers(results, tmp_path):
    out = export_run(CLIP, results, "open_clip", tmp_path / "out")
    text = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "open_clip" and front["pipeline_tag"] == "image-classification"
    assert front["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "| Overall" in text and "/tmp" not in text and "fine-tuned with `" in text
    assert main(["evaluate", ZERO, "--results", str(results), "--no-tensorboard"]) == 0
    text = (export_run(ZERO, results, "open_clip", tmp_path / "zero") / "README.md").read_text(encoding="utf-8")
    assert "| Overall" in text and "fine-tuned" not in text  # it has no training, but numbers


def refused(results, tmp_path, run, form, reason):
    with pytest.raises(PelError, match=reason):
        export_run(run, results, form, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_what_cannot_be_is_refused_and_leaves_nothing(results, tmp_path):
    refused(results, tmp_path, ADAPTED, "open_clip", r"adaptformer cannot be merged .*--as onnx or --as torch")
    refused(results, tmp_path, CLIP, "timm", "clip-mini is a network of open_clip: --as open_clip")
    refused(results, tmp_path, LINEAR, "open_clip", f"{TIMM} is a network of timm: --as timm")
    refused(results, tmp_path, f"{CLIP}.posthoc.la=1", "torch", r"has steps after its network \(.*la.*\): export toy-ir20")
    refused(results, tmp_path, CLIP, "keras", "unknown format 'keras'.*onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(PelError, match="full is there already"):
        export_run(CLIP, results, "torch", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_the_command(results, tmp_path, capsys):
    assert main(["export", ZERO, "--as", "open_clip", "--out", str(tmp_path / "z"), "--results", str(results)]) == 0
    assert "classifier.safetensors" in capsys.readouterr().out
    assert (
        main(["export", "toy-ir20.clip-mini.ln.s3", "--as", "torch", "--out", str(tmp_path / "y"), "--results", str(results)])
        == 1
    )
    assert "holds no delta.safetensors" in capsys.readouterr().err


def test_a_format_of_a_plugin(results, tmp_path):
    try:
        plugins.load_file(Path(__file__).parents[1] / "plugins/everything.py")
        out = export_run(ADAPTED, results, "my-arrays", tmp_path / "out")
    finally:
        for plugin in plugins.loaded().values():
            plugins.unload(plugin)
    card = (out / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    exec(code.replace("FOLDER", str(out)), names)
    _, classifier, _ = open_run(ADAPTED, results, CPU, cast=False)
    state = classifier.trainable_state()
    assert names["trained"].files == list(state) and all(np.array_equal(names["trained"][name], state[name]) for name in state)
    with pytest.raises(PelError, match="unknown format 'my-arrays'; known: onnx, open_clip, timm, torch"):
        export_run(ADAPTED, results, "my-arrays", tmp_path / "another")
