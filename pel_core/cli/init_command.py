"""``pel init``: a folder to start from, with a study, a configuration and a .gitignore, each short and commented."""

import argparse
import json
import os
import re
from pathlib import Path
from shlex import quote

from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.common.paths import expand_user, user_path
from pel_core.common.shipped import command, require

Arguments = argparse.Namespace
TEMPLATES = Path(__file__).parent / "templates"
MINI = "clip-mini"  # the demo's backbone
HUB = "hub:"  # of --data, before a repository of the Hugging Face hub


def init_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``init``."""
    sub.add_argument("folder", type=user_path, help="to make; or an empty one, '.' for this one")
    told = "images of your own: a folder of class folders, a .csv or .tsv, or a Hugging Face directory (docs/own-data.md)"
    told += f"; or {HUB}OWNER/NAME, a data set of the Hugging Face hub, at its last commit or at @COMMIT"
    sub.add_argument("--data", type=expand_user, metavar="PATH", help=f"{told}; without it, the demo's")
    sub.add_argument("--backbone", help=f"with --data (clip-b16; {MINI} for a dry run in minutes without a GPU)")


def init(arguments: Arguments) -> None:
    """Write a small commented folder to start from: study.yaml, config.yaml, .gitignore."""
    from pel_core.studies.config import shown

    folder = arguments.folder
    require_empty(folder)
    texts = files(folder.resolve().name, arguments.data, arguments.backbone)  # before anything is written
    write_all(folder, texts)
    print(f"Wrote {', '.join(texts)} into {shown(folder)}")
    go = "" if folder.resolve() == Path.cwd() else f"cd {quote(shown(folder))}; "
    print(f"Then: {go}{command('plan')}; {command('run')}; {command('report')}")


def require_empty(folder: Path) -> None:
    """See that a folder is not there yet, or holds nothing.

    Raises:
        PelError: it holds files, or is a file itself.
    """
    if folder.exists() and not folder.is_dir():
        raise PelError(f"{folder} is a file; name a folder that is not there yet")
    if folder.is_dir() and (there := sorted(os.listdir(folder))):
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise PelError(f"{folder} holds {', '.join(there[:3])}{more}; name a folder that is not there yet, or an empty one")


def files(title: str, data: str | None = None, backbone: str | None = None) -> dict[str, str]:
    """The text of each file by its name.

    Args:
        title: of the study.
        data: a path to images, or ``hub:OWNER/NAME[@REVISION]``; None for the demo's.
        backbone: for these images; None for CLIP ViT-B/16.

    Raises:
        PelError: an unknown backbone, one for the demo, no images where ``data`` says, or no such repository.
    """
    from pel_core.models.backbones import backbone_name

    if backbone and not data:
        raise PelError(f"--backbone {backbone}: the demo has a backbone of its own ({MINI}); say by --data where your images are")
    name = backbone_name(backbone or "clip-b16")
    words = {"TITLE": json.dumps(title, ensure_ascii=False), "BACKBONE": name}
    kind = "demo"
    if data:
        kind = "own-mini" if name == MINI else "own"
        entry = hub_entry(data) if data.startswith(HUB) else {"kind": "auto", "root": os.path.abspath(data)}
        words |= {"ENTRY": flow(entry), "FOUND": found(data, entry)}
    made = {"study.yaml": "study.yaml", "config.yaml": f"config-{kind}.yaml", ".gitignore": "gitignore"}
    require(TEMPLATES, "its templates")
    return {file: filled((TEMPLATES / source).read_text("utf-8"), words) for file, source in made.items()}


def filled(text: str, words: dict[str, str]) -> str:
    """A template with its words in capitals filled in, each where it stands: a value is not looked at again."""
    return re.sub("|".join(rf"\b{word}\b" for word in words), lambda match: words[match[0]], text)


def flow(entry: dict[str, str]) -> str:
    """An entry of ``datasets:`` on one line of YAML."""
    plain = {"kind", "repository", "revision"}  # of which no value needs quotes
    words = (f"{key}: {value if key in plain else json.dumps(value, ensure_ascii=False)}" for key, value in entry.items())
    return f"{{{', '.join(words)}}}"


def hub_entry(data: str) -> dict[str, str]:
    """The entry of a data set of the hub at a commit: the one that is said, else the last one, which the hub is asked for.

    Args:
        data: ``hub:OWNER/NAME``, with ``@COMMIT`` or ``@NAME@COMMIT`` behind it or not.

    Raises:
        PelError: it is no such name, or also a path; the hub cannot be asked, or has no such repository.
    """
    from pel_core.ingest.hub_repository import REPOSITORY, REVISION, last_commit

    repository, _, revision = data.removeprefix(HUB).partition("@")
    if os.path.exists(data):
        raise PelError(f"--data {data} may be a path that is there or a data set of the hub; for the path write ./{data}")
    if not REPOSITORY.fullmatch(repository):
        raise PelError(f"--data {data}: expected {HUB}OWNER/NAME as on the hub, found '{repository}'")
    if revision and not REVISION.fullmatch(revision):
        raise PelError(
            f"--data {data}: the revision is '{revision}', expected a commit, 40 hex digits, or NAME@COMMIT of a tag or branch "
            f"({HUB}{repository} alone takes the last commit)"
        )
    return {"kind": "hub", "repository": repository, "revision": revision or last_commit(repository)}


def found(data: str, entry: dict[str, str]) -> str:
    """What lies at a path to images, or is known of a repository, in words: the same reading as that of ``data check``.

    Raises:
        PelError: nothing, or not images of one's own; said of --data, as there is no configuration yet.
    """
    from pel_core.ingest.entries import declared
    from pel_core.ingest.sources import open_source
    from pel_core.ingest.sources.users import Unread, UserSource
    from pel_core.ingest.user_outline import unnamed_outline

    config = {"datasets": {"mine": entry}}
    source = open_source("mine", declared(config)["mine"], config)
    assert isinstance(source, UserSource)
    try:
        source = source.looked_at()
        what = unnamed_outline(source)
    except Unread:
        return f"{type(source).kind}: how many images it has is not known before they are prepared"
    except PelError as error:
        told = str(error)
        raise PelError(f"--data {data}: {told.rstrip('.')}{_where_keys_go(told)}") from None
    classes = f"{what.classes} class{'es' * (what.classes != 1)}, " if what.classes else ""
    images = ", ".join(f"{count} {split}" for split, count in what.splits.items())
    return f"{type(source).kind}: {classes}images: {images}"


def _where_keys_go(told: str) -> str:
    """Where to write keys of a configuration that an error asks for; empty where it asks for none."""
    from pel_core.ingest.entries import user_kinds

    keys = {key for source in user_kinds().values() for key in source.Options.model_fields} - {"root", "file"}
    # Of one plain word only where it is written as a key: "splits" is also a word.
    asked = [key for key in sorted(keys) if re.search(rf"['`]{key}\b|\b{key}: " + (rf"|\b{key}\b" if "_" in key else ""), told)]
    if not asked:
        return ""
    start = f"`{command('init FOLDER')}` without --data, whose config.yaml takes it"
    return f". Such a key ({', '.join(asked)}) stands in a configuration (docs/own-data.md, Saying more): start with {start}"


def write_all(folder: Path, texts: dict[str, str]) -> None:
    """Write every file, or none: what was written before one that fails is removed again.

    Raises:
        OSError, PelError: a file could not be written.
    """
    fresh, written = [path for path in (folder, *folder.parents) if not path.exists()], []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in texts.items():
            written.append(folder / name)
            write_text(written[-1], text)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        for path in fresh:
            path.rmdir()
        raise
