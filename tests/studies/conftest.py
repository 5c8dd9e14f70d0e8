"""What tests of studies share."""

import pytest
import yaml
from tuned_study import CONFIG, STUDY

from pel_core.studies.study import load


@pytest.fixture
def make(tmp_path):
    """Load the study after changes of its keys, on a folder of its own."""

    def study(config=None, results="results", name="study", **keys):
        for file, content in ((name, {**STUDY, **keys}), ("config", {**CONFIG, **(config or {})})):
            (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load(tmp_path / f"{name}.yaml", tmp_path / "config.yaml", results=tmp_path / results)

    return study
