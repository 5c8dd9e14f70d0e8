"""A copy of the workflow in which tests plan and build a study with made-up results (tests/fake_results.py)."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Lab:
    """A copy of the workflow beside a working folder with its own study and config."""

    def __init__(self, folder: Path):
        self.code, self.work = folder / "code", folder / "work"

    def edit(self, file: str, old: str, new: str) -> None:
        path = (self.work if file in ("study.yaml", "config.yaml") else self.code) / file
        text = path.read_text()
        assert text.count(old) >= 1, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))

    def snakemake(self, *words: str, **config: str) -> subprocess.CompletedProcess:
        settings = {"study": "study.yaml", "config": "config.yaml", **config}
        command = [sys.executable, "-m", "snakemake", "-s", str(self.code / "Snakefile"), "--directory", str(self.work), *words]
        command += ["--config", *(f"{key}={value}" for key, value in settings.items())]
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PEL_DATA")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, timeout=300, check=False)

    def build(self) -> None:
        """Run everything that is missing."""
        done = self.snakemake("--cores", "2", "--resources", "gpu=2", "--quiet", "all")
        assert done.returncode == 0, done.stdout + done.stderr

    def plan(self, *words: str, **config: str) -> list[str]:
        """The jobs of a dry run, as ``rule wildcards``; a run's wildcard is its slug."""
        done = self.snakemake("-n", *words, **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return planned(done.stdout + done.stderr)


def planned(text: str) -> list[str]:
    """The jobs that a dry run tells of."""
    jobs = []
    for block in re.split(r"^(?=(?:local)?(?:rule|checkpoint) \w+:)", text, flags=re.M)[1:]:
        rule = re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", block)[1]
        wildcards = re.search(r"^ +wildcards: (.*)$", block, flags=re.M)
        values = [pair.split("=", 1)[1] for pair in wildcards[1].split(", ")] if wildcards else []
        jobs.append(" ".join([rule, *values]))
    return sorted(job for job in jobs if job != "all")


def lay(folder: Path, study: str, config: str, lists: Iterable[str] = ()) -> Lab:
    """A lab with a study that is not built yet. ``lists``: names of list files (empty of images) in its folder ``images``."""
    lab = Lab(folder)
    lab.code.mkdir()
    (lab.work / "images").mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "clip-mini", "conformance")
    for name in ("workflow", "pel_core"):
        shutil.copytree(ROOT / name, lab.code / name, ignore=ignore)
    shutil.copy(ROOT / "Snakefile", lab.code / "Snakefile")
    shutil.copy(ROOT / "tests/fake_results.py", lab.code / "pel_core/__main__.py")
    (lab.work / "study.yaml").write_text(study)
    (lab.work / "config.yaml").write_text(config)
    for name in lists:
        (lab.work / "images" / f"{name}.txt").write_text(name)
    return lab
