"""Another workflow uses this one as a module, beside rules of its own. Results are made up (tests/fake_results.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_tune import CONFIG, STUDY
from test_workflow import ROOT

from pel_core.common.files import read_json

OTHER = """
module pel:
    snakefile: "../code/workflow/Snakefile"
    config: {{"study": "my.yaml", "config": "toy.yaml", "seeds": 3, "results": "{results}", "figures": "lt/figures"}}
    {more}

use rule * from pel as pel_*

rule copied:
    default_target: True
    input:
        rules.pel_all.input,
    output:
        "copy.csv",
    shell:
        "cp lt/results/tables/one.csv {{output}}"
"""


class Other:
    """Somebody's workflow in a folder of its own, and the code of ours beside it."""

    def __init__(self, folder: Path):
        self.work = folder / "work"
        (self.work / "images").mkdir(parents=True)
        for name in ("workflow", "pel_core"):
            ignore = shutil.ignore_patterns("__pycache__", "clip-mini", "conformance")
            shutil.copytree(ROOT / name, folder / "code" / name, ignore=ignore)
        shutil.copy(ROOT / "tests/fake_results.py", folder / "code/pel_core/__main__.py")
        (self.work / "my.yaml").write_text(STUDY + CLAIM)
        (self.work / "toy.yaml").write_text(CONFIG)
        for name in ("names", "train", "val", "test"):
            (self.work / "images" / f"{name}.txt").write_text(name)

    def snakemake(self, *words: str, results: str = "lt/results", more: str = "") -> subprocess.CompletedProcess:
        (self.work / "Snakefile").write_text(OTHER.format(results=results, more=more))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=2", *words]
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PEL_DATA")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, timeout=300, check=False)


CLAIM = """
claims:
  c1:
    statement: PEL is better than zero-shot
    parts:
      - {a: {method: adaptformer, tune: false}, b: {method: zero-shot, tune: false}, over: [{dataset: small}],
         value: overall, expect: higher}
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Other:
    return Other(tmp_path_factory.mktemp("other"))


def test_a_prefix_is_refused_since_commands_name_files_too(other):
    for more in ('prefix: "deep"', 'replace_prefix: {"lt/": "else/"}'):
        done = other.snakemake("-n", more=more)
        said = done.stdout + done.stderr
        assert done.returncode != 0 and "takes no prefix and replace_prefix" in said and "'results': FOLDER" in said


@pytest.mark.slow
def test_a_module_chooses_settings_and_leaves_its_files_to_another_rule(other):
    """The words of the outer command line are not the module's settings: it has its own."""
    done = other.snakemake("--config", "study=theirs", "seeds=8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (other.work / "copy.csv").is_file() and not (other.work / "results").exists()
    results = other.work / "lt/results"
    assert any(".s3" in str(path) for path in (results / "runs").iterdir())
    assert len(list((results / "selections").glob("*.json"))) == 1  # its checkpoint
    # What the first job waits for is done for a module too.
    assert (results / ".gitignore").is_file() and "Claim registered: c1" in done.stderr
    assert len(read_json(results / "sealed.json")["my"]["trainings"]) == 2
    again = other.snakemake("-n")
    assert "Nothing to be done" in again.stdout + again.stderr
