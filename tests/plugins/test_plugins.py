"""Plugins: loaded from files, marked in what they make, refused with reasons; one file with an entry of every kind."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pel_core.cli.main import main
from pel_core.common import plugins
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.registry import all_registries
from pel_core.models.methods import METHODS
from pel_core.spec.choices import LOSSES
from pel_core.spec.plugins import plugins_of
from pel_core.spec.results import invalid_reason, metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import read_config, read_study
from pel_core.studies.provenance import predict_params, train_params

HERE = Path(__file__).parent
EVERYTHING = HERE / "everything.py"
LOSS = '''
from pel_core.common.lazy import F, Module
from pel_core.common.registry import Knob, at_least
from pel_core.spec.choices import LOSSES


@LOSSES.register("{name}", knobs=(Knob("weight", 1.0, "a factor", at_least(0)),))
class Mine(Module):
    """Cross-entropy times a factor."""

    def __init__(self, prior, weight):
        super().__init__()
        self.weight = weight

    def forward(self, logits, labels):
        return self.weight * F.cross_entropy(logits, labels)
'''


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No plugin stays behind a test, in this process or its environment."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    for plugin in plugins.loaded().values():
        plugins.unload(plugin)


def write(folder, text=LOSS, name="mine.py"):
    path = folder / name
    path.write_text(text.replace("{name}", "mine"))
    return str(path)


def test_every_registry_has_an_entry_of_the_example():
    """A new registry without an example in everything.py fails here."""
    plugin = plugins.load_file(EVERYTHING)
    lacking = {each.word for each in all_registries() if not any(entry.plugin == plugin for entry in each.entries())}
    # A study does not choose these: every study may have each of the first, every design of the second.
    assert lacking == {"kind of table", "kind of artefact of a design"}


def test_what_the_package_registers_while_a_plugin_is_imported_is_not_the_plugin_s(tmp_path):
    """In a fresh process, where the plugin is the first to import the registries' modules."""
    path = write(tmp_path, "import pel_core.training.losses, pel_core.training.optimizers, pel_core.models.methods")
    code = (
        f"from pel_core.common import plugins, registry; plugins.load_file({path!r});"
        "print([e.name for r in registry.all_registries() for e in r.entries() if e.plugin], len(registry.all_registries()) > 5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


def test_files_of_the_environment_and_the_command_line(tmp_path, monkeypatch, capsys):
    first, second = write(tmp_path), write(tmp_path, LOSS.replace("{name}", "other"), "other.py")
    monkeypatch.setenv(plugins.VARIABLE, first)
    monkeypatch.chdir(tmp_path)
    plugins.use_plugins(["other.py"])
    plugins.use_plugins(["other.py"])  # once is enough
    assert set(plugins.loaded()) == {"mine.py", "other.py"} and {"mine", "other"} <= set(LOSSES)
    assert set(os.environ[plugins.VARIABLE].split(os.pathsep)) == {first, second}  # jobs have both, wherever they start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", r"the plugin .*mine\.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\ny = (\n", r"mine\.py, line 2: SyntaxError: '\(' was never closed"),
        ("def f():\n    raise ValueError('no')\n\nf()", r"mine\.py, line 2: ValueError: no"),
        (LOSS.replace("{name}", "focal"), r"mine\.py, line 7: the loss 'focal' is there already, from PEL-Lab itself"),
    ],
)
def test_a_plugin_that_fails_leaves_nothing(tmp_path, text, message):
    before = {registry.word: set(registry) for registry in all_registries()}
    with pytest.raises(PelError, match=message):
        plugins.use_plugins([write(tmp_path, text)])
    assert {registry.word: set(registry) for registry in all_registries()} == before and not plugins.loaded()


def test_clashes_name_both(tmp_path):
    write(tmp_path)
    (tmp_path / "more").mkdir()
    with pytest.raises(PelError, match=r"again\.py, line 7: the loss 'mine' is there already, from plugin mine\.py"):
        plugins.use_plugins([str(tmp_path / "mine.py"), write(tmp_path, name="again.py")])
    with pytest.raises(PelError, match=r"more/mine\.py: another plugin is called mine\.py too"):
        plugins.use_plugins([write(tmp_path / "more")])


@pytest.mark.parametrize("command", ["train", "evaluate", "plan", "status", "table", "data"])
def test_an_unknown_file_is_one_line(command, capsys, tmp_path):
    words = {"plan": [], "status": [], "table": ["t"], "data": ["check", "toy"]}.get(command, ["toy.toy.lora.s0"])
    assert main([command, *words, "--plugins", str(tmp_path / "none.py")]) == 1
    assert capsys.readouterr().err == f"error: the plugin {tmp_path / 'none.py'} does not exist, or is no file\n"


def test_studies_and_configurations_run_no_code(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("title: x\nplugins: [mine.py]\n")
    for read in (read_study, read_config):
        with pytest.raises(PelError, match=r"study\.yaml: the key 'plugins' may not stand here.*run code.*--plugins FILE"):
            read(path)


def test_installed_plugins_are_loaded_by_their_entry_point(tmp_path, monkeypatch):
    write(tmp_path, name="installed_pel_plugin.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("nice", "installed_pel_plugin", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])
    plugins.use_plugins()
    assert LOSSES.entry("mine").plugin == plugins.loaded()["nice"]
    assert plugins_of(RunSpec.make("toy-ir20", "toy", "lora", 0, loss="mine")).keys() == {"nice"}


def test_a_plugin_changes_the_runs_that_use_it_alone(tmp_path):
    def params():
        specs = [RunSpec.make("toy-ir20", "toy", "lora", 0, loss=loss) for loss in ("ce", "mine")]
        return [(train_params(spec, 1), predict_params(spec, {"train": 1, "predict": 1})) for spec in specs]

    plugins.use_plugins([write(tmp_path)])
    plain, own = params()
    plugins.unload(plugins.loaded()["mine.py"])
    plugins.use_plugins([write(tmp_path, LOSS + "# changed\n")])
    assert "plugins" not in "".join(plain) and "plugins" in own[0]
    again = params()
    assert again[0] == plain and again[1][0] != own[0] and again[1][1] != own[1]


def test_a_run_says_its_plugins_and_is_refused_with_others(tmp_path, toy_results, capsys):
    file, slug = write(tmp_path), "toy-ir20.toy.head-only.s7.epochs=1.loss=mine.loss.weight=0.5"
    words = ["--results", str(toy_results), "--plugins", file]
    assert main(["train", slug, *words]) == 0 and main(["evaluate", slug, *words]) == 0
    spec = RunSpec.parse(slug)
    record = read_json(metrics_file(toy_results, slug))
    assert record["plugins"] == plugins_of(spec) == read_json(toy_results / "runs" / slug / "train.json")["plugins"]
    assert not invalid_reason(record, spec, (), toy_results)
    plugins.unload(plugins.loaded()["mine.py"])
    capsys.readouterr()
    # without the plugin
    os.environ[plugins.VARIABLE] = ""
    assert main(["evaluate", slug, "--results", str(toy_results)]) == 1
    assert "unknown loss 'mine'" in (error := capsys.readouterr().err) and "made with the plugin mine.py: give its file" in error
    # with another content
    write(tmp_path, LOSS + "# changed\n")
    assert main(["evaluate", slug, *words]) == 1
    assert "made with another content of the plugin mine.py" in capsys.readouterr().err
    reason = invalid_reason(record, RunSpec.parse(slug), (), toy_results)
    assert "another content of the plugin mine.py" in reason and "makes it again" in reason
    write_json(tmp_path / "plain.json", {**record, "plugins": {}})
    assert "without the plugin mine.py" in invalid_reason(read_json(tmp_path / "plain.json"), RunSpec.parse(slug))


def test_the_fork_server_s_children_have_them(tmp_path):
    """It is not imported by the server itself, which serves jobs with other plugins too."""
    environment = {**os.environ, "PEL_WARM": str(tmp_path / "warm"), "PEL_WARM_PARENT": str(os.getpid())}
    words = [sys.executable, "-m", "pel_core", "train", "toy.toy.lora.s0.loss=mine", "--results", str(tmp_path)]
    ends = [
        subprocess.run(words, env={**environment, **more}, capture_output=True, text=True).stderr
        for more in ({plugins.VARIABLE: write(tmp_path)}, {})
    ]
    assert "data set 'toy' is not prepared" in ends[0] and "unknown loss 'mine'" in ends[1]


def test_methods_of_a_plugin_count_their_deltas(tmp_path):
    plugins.load_file(EVERYTHING)
    assert METHODS.entry("my-gate").plugin
    assert plugins_of(RunSpec.make("toy-ir20", "toy", "my-gate", 0)).keys() == {"everything.py"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "adaptformer-attn"}, {"method": "ln+my-gate"}, {"backbone": "my-toy"}, {"loss": "my-loss"},
        {"prompt": "my-words"},
        {"my-gate.strength": 2}, {"posthoc.my_power": 0.1},
    ],
)  # fmt: skip
def test_a_name_that_is_not_known_may_be_a_forgotten_plugin_s(wrong):
    """`plan --plugins FILE`, then `show` without: the message spoke of typing errors alone."""
    with pytest.raises(PelError, match=r"An entry of a plugin needs --plugins FILE$"):
        RunSpec.make(**{"dataset": "toy-ir20", "backbone": "toy", "method": "ln", "seed": 0, **wrong})
