"""Any ViT of timm or open_clip by its own name, without an entry: ``timm:NAME.TAG``, ``open_clip:NAME/TAG``. Torch-free.

What such a network is, only its library knows, whose import takes seconds and brings torch. So a process of its own is asked
(`lookup`), once: the answer is kept in the user's cache, by library version and by the code that asks.

In slugs, folders and files the name is spelled ``timm--NAME--TAG``, ``open_clip--NAME--TAG``; both spellings mean the same
everywhere. No name of either library holds ``--``, and none differs from another by case alone.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import write_text

PACKAGES = {"timm": "timm", "open_clip": "open_clip_torch"}
SEPARATORS = {"timm": ".", "open_clip": "/"}
SPELLINGS = "timm:NAME.TAG or open_clip:NAME/TAG"
WORD = r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*"
PATTERN = re.compile(rf"(?:timm:(?P<t>{WORD})(?:\.(?P<tt>{WORD}))?|open_clip:(?P<o>{WORD})(?:/(?P<ot>{WORD}))?)")
FILE_SAFE = re.compile(rf"(?P<library>timm|open_clip)--(?P<name>{WORD})(?:--(?P<tag>{WORD}))?")
SECONDS = 300  # for a library to answer; it takes a few


def is_by_name(name: str) -> bool:
    """Whether a backbone is spelled as a library's own, possible or not."""
    return name.startswith(tuple(f"{library}{mark}" for library in PACKAGES for mark in (":", "--")))


def file_safe(name: str) -> str:
    """A backbone's name as slugs and folders have it; an entry's name as it is.

    Raises:
        PelError: it starts as a library's name and goes on otherwise.
    """
    if not is_by_name(name) or FILE_SAFE.fullmatch(name):
        return name
    if not (match := PATTERN.fullmatch(name)):
        raise PelError(f"the backbone '{name}' is not {SPELLINGS}, e.g. timm:vit_small_patch14_reg4_dinov2.lvd142m")
    library = name.partition(":")[0]
    found = match["t"] or match["o"], match["tt"] or match["ot"]
    return "--".join([library, *filter(None, found)])


def name_parts(name: str) -> tuple[str, str, str]:
    """Library, architecture and tag ("" without) of a file-safe name.

    Raises:
        PelError: it is none.
    """
    match = FILE_SAFE.fullmatch(file_safe(name))
    if match is None:
        raise PelError(f"the backbone '{name}' is not {SPELLINGS}")
    return match["library"], match["name"], match["tag"] or ""


def spelled(name: str) -> str:
    """The name as its library and studies spell it: ``timm:NAME.TAG``."""
    library, arch, tag = name_parts(name)
    return f"{library}:{arch}{SEPARATORS[library] if tag else ''}{tag}"


@cache
def look_up(name: str) -> tuple[dict[str, Any], str]:
    """The fields of a file-safe name's entry, and "" or why there is none."""
    library, _, _ = name_parts(name)
    try:
        held = version(PACKAGES[library])
    except PackageNotFoundError:
        return (
            {},
            f"{spelled(name)} needs the package {PACKAGES[library]}, which is not installed (pip install {PACKAGES[library]})",
        )
    memo = _memo(name, held)
    if found := _remembered(memo):
        return found, ""
    answer = _ask(name)
    if answer.get("refused"):
        return {}, f"the backbone {spelled(name)} does not fit: {answer['refused']}"
    if memo:
        with suppress(OSError, PelError):  # no home, a full or read-only disk: asked again next time
            write_text(memo, json.dumps(answer))
    return answer, ""


def _ask(name: str) -> dict[str, Any]:
    """What `lookup` says: here where the library is loaded already, else in a process of its own."""
    if name_parts(name)[0] in sys.modules:
        from pel_core.models.lookup import answer

        return answer(name)
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pel_core.models.lookup", name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    said = "it said nothing"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        said = (done.stderr.strip().splitlines() or [said])[-1]
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    except (ValueError, IndexError):
        pass
    raise PelError(f"{PACKAGES[name_parts(name)[0]]} could not be asked for {spelled(name)}: {said}")


def _memo(name: str, held: str) -> Path | None:
    """The file that keeps an answer; None where the user has no home."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pel-lab" / "backbones"
    except RuntimeError:
        return None
    code = b"".join(
        Path(__file__).with_name(file).read_bytes() for file in ("lookup.py", "towers.py", "open_clip_towers.py", "by_name.py")
    )
    return folder / f"{name}.{held}.{hashlib.sha256(code).hexdigest()[:12]}.json"


def _remembered(memo: Path | None) -> dict[str, Any]:
    """A kept answer; empty where there is none, or a damaged one."""
    if memo is None:
        return {}
    try:
        found = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "arch" in found else {}
