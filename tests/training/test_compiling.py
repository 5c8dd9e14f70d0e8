"""`compile: auto`: the same numbers through graphs of one shape, the time counted, and a word where it cannot be done.

The CPU stands in for a GPU, with backends that generate no code; `tests/gpu` has the real compiler on a real device.
"""

import pytest
import torch
import yaml
from resuming import train_once

from pel_core.bench.models import make_ours, make_tower
from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import read_config
from pel_core.training import compiling
from pel_core.training.compiling import Network, why_not
from pel_core.training.losses import make_loss
from pel_core.training.objective import Objective

CPU = torch.device("cpu")
GRADIENT = {"loss": "cb", "batch_size": 24, "accumulate": 2}  # no mean over images: logits first, then each part again


@pytest.fixture
def on_cpu(monkeypatch):
    """The CPU is compiled for, by the backend that is given; returns the shapes of the images that graphs were made for."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "DEVICES", ("cpu",))
    shapes = []

    def use(backend):
        def noting(graph, inputs):
            shapes.extend(tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.shape[1:] == (3, 16, 16))
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        monkeypatch.setattr(compiling, "BACKEND", noting)
        return shapes

    yield use
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("method", "choice", "backend", "tolerance"),
    [
        ("adaptformer", {}, "eager", 0),
        ("adaptformer", GRADIENT, "eager", 0),
        ("ln+lora", {"precision": "bf16"}, "aot_eager", 2e-2),  # torch 2.4 rounds elsewhere: 0.8 % after two epochs
        ("vpt-deep", {"sharpness": "sam"}, "aot_eager", 1e-5),
    ],
)
def test_a_compiled_training_has_the_same_numbers(toy_results, on_cpu, method, choice, backend, tolerance):
    spec = RunSpec.make("toy-ir20", "toy", method, 0, epochs=2, **choice)
    plain, told = train_once(toy_results, spec)
    shapes = on_cpu(backend)
    found, log = train_once(toy_results, spec, compiling="auto")
    for name, value in plain.items():
        assert float((found[name] - value).abs().max()) <= tolerance * float(value.abs().max()), name
    assert told.compile_seconds == 0 < log.compile_seconds < log.seconds
    whole = spec.batch_size // spec.accumulate
    assert shapes and {shape[0] for shape in shapes} == {whole}  # no graph for the epoch's last batch, which is smaller


def test_a_cpu_is_left_alone_with_a_word(toy_results):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, epochs=1)
    plain, _ = train_once(toy_results, spec)
    found, log = train_once(toy_results, spec, compiling="auto")
    assert all(torch.equal(found[name], value) for name, value in plain.items()) and log.compile_seconds == 0
    said = []
    Network(None, "off", CPU, said.append)
    assert said == []
    Network(None, "auto", CPU, said.append)
    assert said == ["compile: auto: only a CUDA device is compiled for, and this is the CPU; steps are taken as without it"]


def test_a_loss_that_takes_features_is_left_alone_with_a_word(on_cpu):
    said = []
    on_cpu("eager")
    Network(None, "auto", CPU, said.append, more="the loss takes features too")
    assert said == ["compile: auto: the loss takes features too, and only logits are compiled; steps are taken as without it"]


def test_a_gpu_without_triton_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert "pip install triton" in why_not(torch.device("cuda"))


def test_what_is_asked_beside_logits_is_named_with_its_reason():
    """Not compiled: features, two streams, a method's own term, a head's branches."""
    spec = RunSpec.make("cifar100-ir100", "toy", "adaptformer", 0, init="random")
    classifier = make_ours(spec, make_tower("toy"), 10)
    criterion = make_loss(spec, torch.ones(10))
    assert Objective(classifier, criterion, spec).more == ""
    classifier.head.branches = lambda features: (features, features)
    assert Objective(classifier, criterion, spec).more == "the loss takes the head's branches one by one"
    assert why_not(torch.device("cuda"), "because") == "because, and only logits are compiled"


def test_a_compiler_that_fails_does_not_end_the_run(on_cpu, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("no such instruction")

    spec = RunSpec.make("cifar100-ir100", "toy", "adaptformer", 0, init="random")
    classifier, said = make_ours(spec, make_tower("toy"), 10), []
    on_cpu("eager")
    monkeypatch.setattr(compiling, "BACKEND", broken)
    network, images = Network(classifier, "auto", CPU, said.append), torch.randn(4, 3, spec.pixels, spec.pixels)
    assert torch.equal(network(images, 4), classifier(images)) and torch.equal(network(images, 4), classifier(images))
    assert len(said) == 1 and "it failed" in said[0] and "no such instruction" in said[0]


def test_the_record_says_what_compiling_took(toy_results, tmp_path, on_cpu):
    for name in ("data", "backbones", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    on_cpu("eager")
    slug = "toy-ir20.toy.head-only.s0.epochs=1"
    words = ["train", slug, "--results", str(tmp_path), "--device", "cpu", "--no-tensorboard"]
    assert main([*words, "--compile", "auto"]) == 0
    training = read_json(tmp_path / "runs" / slug / "train.json")["training"]
    assert 0 < training["compile_seconds"] < training["seconds"]


def test_a_configuration_says_it(tmp_path):
    path = tmp_path / "own.yaml"
    values = {"title": "Own", "backbone": "toy", "seeds": [0], "data": {"cifar100": "toy"}}
    for word, taken in (("auto", True), ("off", True), ('"off"', True), ("on", False), ("always", False)):
        path.write_text(yaml.safe_dump(values) + f"resources: {{compile: {word}}}\n")
        if taken:
            read_config(path)
        else:
            with pytest.raises(PelError, match=r"resources\.compile = .*; known: auto, off"):
                read_config(path)
