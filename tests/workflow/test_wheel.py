"""The built wheel, installed into a fresh environment and used outside the checkout: everything it needs is in it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from pel_core.common.files import read_json

ROOT = Path(__file__).parents[2]
SOURCES = ("pel_core", "workflow", "Snakefile", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile",
           "CHANGELOG.md", "CITATION.cff", "requirements.lock", "environment.yml")  # fmt: skip
TOY = "title: Toy\nbackbone: toy\nseeds: [0]\ndata: {own: toy}\nrecipe: {epochs: 1}\n"
ARCHIVE = "import sys, setuptools.build_meta as backend; print(backend.build_sdist(sys.argv[1]))"

pytestmark = pytest.mark.slow


def wheel_of(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True, capture_output=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, since a build leaves files in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}))
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


class Installed:
    """A fresh environment with the wheel; libraries are those of this one, without what is installed in place there."""

    def __init__(self, folder: Path, wheel: Path):
        self.folder, self.bin = folder, folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
        self.library = next(folder.glob("lib/python*/site-packages"))
        # A path alone: `site.addsitedir` would read the .pth of an editable installation, too.
        (self.library / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        words = ["--python", str(self.bin / "python"), "install", "-q", "--no-deps", "--disable-pip-version-check", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=300)

    def __call__(self, work: Path, *words: str, program: str = "pel", **environment: str) -> subprocess.CompletedProcess:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PEL_", "PYTHONPATH"))}
        kept["PATH"] = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        command = [str(self.bin / program), *words]
        return subprocess.run(
            command, cwd=work, env={**kept, **environment}, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("environment") / "venv", wheel)


def test_the_wheel_and_the_source_archive_carry_the_same(source, wheel, tmp_path):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "workflow").rglob("*") if path.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name and "/containers/" not in name}
    assert {f"pel_core/{name}" for name in wanted} == {name for name in names if name.startswith("pel_core/workflow/")}
    assert {"pel_core/demo/clip-mini/open_clip_model.safetensors", "pel_core/cli/templates/study.yaml"} <= names
    packages = {name.partition("/")[0] for name in names}
    assert packages == {"pel_core", next(name for name in packages if name.endswith(".dist-info"))}
    done = subprocess.run([sys.executable, "-c", ARCHIVE, str(tmp_path)], cwd=source, capture_output=True, text=True, check=True)
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = set(zipfile.ZipFile(wheel_of(unpacked, tmp_path / "wheel")).namelist())
    assert again == names


def test_from_init_to_tables_and_a_report_outside_the_checkout(installed, tmp_path):
    assert installed(tmp_path, "where").stdout.strip() == str(installed.library / "pel_core" / "workflow")
    done = installed(tmp_path, "init", "my-study")
    assert done.returncode == 0 and done.stdout.endswith("Then: cd my-study; pel plan; pel run; pel report\n")
    work = tmp_path / "my-study"
    plan = installed(work, "plan")
    assert plan.returncode == 0, plan.stderr
    assert "The embedded demo" in plan.stdout and "4 runs on clip-mini" in plan.stdout  # the demo is in it
    (work / "config.yaml").write_text(TOY)  # the same study in seconds
    assert "Run `pel run`" in installed(work, "show").stdout
    dry = installed(work, "run", "--", "-n")
    assert dry.returncode == 0 and "This was a dry-run" in dry.stdout + dry.stderr and not (work / "results/runs").exists()
    done = installed(work, "run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PEL, cross-entropy" in done.stdout and "Tables: results/tables   Figures: figures" in done.stdout
    assert (work / "figures/bars.pdf").is_file()
    assert "4 done" in installed(work, "status").stdout
    assert installed(work, "report").returncode == 0 and "PEL, cross-entropy" in (work / "report.html").read_text()
    run = next((work / "results/runs").glob("*adaptformer*"))
    assert "pel predict --run" in (run / "README.md").read_text()  # its card
    assert str(ROOT) not in (run / "train.json").read_text() and read_json(run / "train.json")["spec"]
    # All is done; the report has its provenance, made by the same command that make calls.
    again = installed(work, "run", "--report", "page.html")
    assert again.returncode == 0 and (work / "page.html").is_file() and (work / "results/provenance.csv").is_file()
    made = installed(work, "run", "--", "--forcerun", "table", "--", "results/tables/methods.md")
    assert made.returncode == 0 and "table methods" in made.stderr, made.stderr


def test_names_are_of_this_folder_first_and_then_shipped(installed, tmp_path):
    (tmp_path / "own.yaml").write_text(TOY)
    assert installed(tmp_path, "plan", "components", "--config", "demo").returncode == 0
    (tmp_path / "losses.yaml").write_text((ROOT / "workflow/config/components.yaml").read_text())
    done = installed(tmp_path, "plan", "losses", "--config", "demo")
    assert done.returncode == 0 and "'losses': losses.yaml is taken, not what comes with PEL-Lab" in done.stderr
    assert done.stdout.splitlines()[0].count("losses.yaml on ") == 1


def test_a_wheel_without_demo_or_workflow_says_so(installed, wheel, tmp_path):
    broken = Installed(tmp_path / "venv", wheel)
    (tmp_path / "work").mkdir()
    shutil.rmtree(broken.library / "pel_core/demo/clip-mini")
    done = broken(tmp_path / "work", "run", "report")
    assert done.returncode == 1 and done.stderr.startswith("error: this installation of PEL-Lab comes without the demo")
    shutil.rmtree(broken.library / "pel_core/workflow")
    (tmp_path / "work/c.yaml").write_text(TOY)
    for words in (["plan", "losses"], ["where"], ["unlock", "--config", "c.yaml"]):
        done = broken(tmp_path / "work", *words)
        assert done.returncode == 1 and done.stderr.startswith("error: this installation of PEL-Lab comes without its")
        assert done.stderr.count("\n") == 1 and "pip wheel --no-deps" in done.stderr
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["c.yaml"]


def test_snakemake_itself_finds_profile_and_workflow(installed, tmp_path):
    (tmp_path / "c.yaml").write_text(TOY)
    (tmp_path / "own.yaml").write_text((ROOT / "pel_core/cli/templates/study.yaml").read_text())
    where = installed(tmp_path, "where").stdout.strip()
    words = ["-m", "snakemake", "-s", f"{where}/Snakefile", "-n", "--cores", "1", "--config", "study=own.yaml", "config=c.yaml"]
    done = installed(tmp_path, *words, program="python")
    assert done.returncode == 0 and f"profile {where}/profiles/default" in done.stderr, done.stdout + done.stderr
