"""What a user's environment brings stops no command: a notebook's backend, a home, caches and folders that cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pel_core.common.environment import own_folder, settle_environment
from pel_core.common.errors import PelError

ROOT = Path(__file__).parents[2]
NOWHERE = "/dev/null/x"  # nobody can make a folder there, not even root
BROKEN = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MPLBACKEND, unknown": "no-such-backend",
    "HOME": NOWHERE,
    "TMPDIR": "/nonexistent/tmp",
    "XDG_CACHE_HOME": NOWHERE,
    "XDG_CONFIG_HOME": NOWHERE,
    "MPLCONFIGDIR": NOWHERE,
}
CACHES = "warning: the folder for caches: /dev/null/x"
NOTED = {
    "HOME": f"{CACHES}/.cache cannot",
    "TMPDIR": "warning: TMPDIR: /nonexistent/tmp cannot",
    "XDG_CACHE_HOME": f"{CACHES} cannot",
}
USED = """
import os, tempfile
from pel_core.common.environment import settle_environment
settle_environment()
import matplotlib
for folder in (matplotlib.get_cachedir(), matplotlib.get_configdir(), tempfile.gettempdir(), os.environ.get("TMPDIR", "/tmp")):
    open(os.path.join(folder, "probe"), "w").close()
    os.unlink(os.path.join(folder, "probe"))
print(matplotlib.get_backend())
"""


def environment(*names: str) -> dict[str, str]:
    """This process's, without what is settled, and with some of it broken."""
    settled = ("MPLBACKEND", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME", "TRITON_HOME", "PEL_DATA")
    kept = {key: value for key, value in os.environ.items() if key not in settled}
    return kept | {name.split(",")[0]: BROKEN[name] for name in names} | {"PYTHONPATH": str(ROOT)}


def python(*words: str, folder: Path, broken: tuple[str, ...]) -> subprocess.CompletedProcess:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment(*broken), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", BROKEN)
def test_what_libraries_take_from_the_environment_can_be_used(tmp_path, name):
    done = python("-c", USED, folder=tmp_path, broken=(name,))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == "agg"
    if name in NOTED:
        assert done.stderr.startswith(NOTED[name]) and done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""


def test_a_figure_is_drawn_whatever_the_environment_says(tmp_path):
    words = ["-m", "pel_core", "data", "describe", "demo-cifar"]
    done = python(*words, folder=tmp_path, broken=tuple(name for name in BROKEN if "," not in name))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures/demo-cifar-classes.pdf").stat().st_size > 1000
    assert done.stderr.count("\n") == 2  # TMPDIR and caches


def test_a_figure_drawn_from_python_too(tmp_path):
    code = "from pel_core.reporting.figure_style import plt, style\nwith style(): plt.figure()"
    done = python("-c", code, folder=tmp_path, broken=("MPLBACKEND",))
    assert done.returncode == 0, done.stderr


def test_snakemake_starts_without_a_home(tmp_path):
    words = [
        "-m",
        "pel_core.cli.snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "-n",
        "--quiet",
        "--config",
        "study=tte",
        "results=1.10",
    ]
    done = python(*words, folder=tmp_path, broken=tuple(BROKEN)[2:])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written to") == 2  # once each, though the Snakefile looks again


def test_what_is_right_is_left_alone(tmp_path, monkeypatch):
    for name, value in {
        "TMPDIR": tmp_path,
        "XDG_CACHE_HOME": tmp_path / "new/cache",
        "MPLCONFIGDIR": tmp_path,
        "HOME": tmp_path,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MPLBACKEND", "qtagg")
    before = dict(os.environ)
    settle_environment()
    assert dict(os.environ) == {**before, "MPLBACKEND": "Agg"}
    assert not (tmp_path / "new").exists()


def test_weights_that_were_fetched_are_read_where_they_are(tmp_path, monkeypatch):
    """A cache that may be read only, as a cluster shares it."""
    (tmp_path / "huggingface").mkdir()
    for name in ("HF_HOME", "MPLCONFIGDIR", "TRITON_HOME", "MPLBACKEND"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pel_core.common.environment._usable", lambda folder: folder != str(tmp_path))
    settle_environment()
    assert os.environ["HF_HOME"] == f"{tmp_path}/huggingface" and os.environ["XDG_CACHE_HOME"] != str(tmp_path)
    assert os.environ["MPLCONFIGDIR"] == f"{os.environ['XDG_CACHE_HOME']}/matplotlib"


def test_a_folder_of_somebody_else_is_refused():
    folder = own_folder("pel-lab-test")
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.rmdir()
        folder.symlink_to("/tmp")
        with pytest.raises(PelError, match="is not yours; remove it"):
            own_folder("pel-lab-test")
    finally:
        folder.unlink()
