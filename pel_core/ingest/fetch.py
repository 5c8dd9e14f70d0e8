"""Getting the published data: what is free to download, with checksum and resume; of the rest, what to get and where to put it.

Downloads are requests' (a dependency of Snakemake's too). Pooch and torchvision check a checksum as well, but start anew after
an interruption. Nothing has its final name, or is unpacked, before its checksum holds.
"""

import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import requests
from tqdm import tqdm

from pel_core.common.errors import PelError
from pel_core.common.files import require_writable
from pel_core.common.logs import logger
from pel_core.ingest.facts import FACTS, Facts, difference
from pel_core.ingest.known_mistakes import SPLIT_VAL
from pel_core.ingest.sources import cifar

TRIES, PAUSE = 4, 2.0  # attempts of a download, each from where the last one stopped, and seconds between two
TIMEOUTS = 10, 60  # seconds for a connection, and for the next bytes
BLOCK = 1 << 15


@dataclass(frozen=True)
class Download:
    """A file to get: address, where to, and a function that says what is wrong with it ("" where nothing is)."""

    address: str
    target: Path
    wrong: Callable[[Path], str]


def fetch_lists(base: str, facts: Facts, folder: Path, root: Path, test_list: str, mirror: str = "") -> None:
    """Every list that can be had; how to get the images is told in any case.

    Args:
        base, facts: a published data set. folder: of its list files. root: of its images.
        test_list: the name of the test list, for a shell line.
        mirror: an address to get the same files from, by name; their checksums are the same.

    Raises:
        PelError: the folder cannot be written to, a download fails or has another checksum.
    """
    if not all((folder / name).is_file() for name in facts.files):
        _require_writable(folder, f"'lists: {{{base}: FOLDER}}' in a configuration, with --config, puts the lists elsewhere")
    failed = []
    for name, known in facts.files.items():
        address = f"{mirror.rstrip('/') or facts.address}/{name}"
        try:
            download(Download(address, folder / name, lambda path, known=known: difference(path, known)))
        except PelError as error:
            failed.append(error)
    split_val = SPLIT_VAL.format(list=quote(str((folder / test_list).absolute())))
    print(facts.by_hand.format(root=root.absolute(), quoted=quote(str(root.absolute())), split_val=split_val))
    sys.stdout.flush()
    if failed:
        more = f" (and {len(failed) - 1} more of {len(facts.files)} list files)" if len(failed) > 1 else ""
        raise PelError(f"{failed[0]}{more}")


def _require_writable(folder: Path, otherwise: str) -> None:
    try:
        require_writable(folder)
    except PelError as error:
        raise PelError(f"{str(error).partition(';')[0]}; make it writable, or: {otherwise}") from None


def fetch_cifar(root: Path, mirror: str = "") -> None:
    """Get CIFAR-100's archive, beside the folder ``root`` that it is unpacked to; where all is there, do nothing.

    Raises:
        PelError: as of `fetch_lists`.
    """
    if cifar.is_whole(root):
        logger.info("%s is there already", root)
        return
    inside = root / cifar.ARCHIVE
    archive = inside if inside.is_file() else root.parent / cifar.ARCHIVE
    _require_writable(archive.parent, "the environment variable PEL_DATA or --root says another place")
    address = f"{mirror.rstrip('/') or FACTS['cifar100'].address}/{cifar.ARCHIVE}"
    download(Download(address, archive, _wrong_archive))
    unpack(archive, root)


def _wrong_archive(path: Path) -> str:
    try:
        cifar.require_archive(path)
    except PelError as error:
        return str(error)
    return ""


def unpack(archive: Path, root: Path) -> None:
    """Unpack CIFAR's archive, whose checksum holds, as the folder ``root``.

    Raises:
        PelError: a member would leave the folder, or the archive is cut off.
    """
    root.mkdir(parents=True, exist_ok=True)

    def flat(members: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in members:
            folder, _, name = member.name.partition("/")
            if name and folder == cifar.FOLDER:
                yield member.replace(name=name, deep=False)
            elif member.name != cifar.FOLDER:
                yield member  # which the filter judges

    try:
        with tarfile.open(archive) as members:
            members.extractall(root, flat(members), filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise PelError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again") from None
    logger.info("%s: unpacked", root)


def download(wanted: Download) -> None:
    """Get one file: an earlier part is gone on with, and the file has its name only when its checksum holds.

    Raises:
        PelError: the address does not answer as hoped (what came is kept, and gone on with the next time), or the checksum is
            another one (what came is deleted).
    """
    target = wanted.target
    if target.is_file():
        if wrong := wanted.wrong(target):
            raise PelError(f"{wrong}; delete it to have it fetched")
        logger.info("%s is there already", target)
        return
    part = target.with_name(f"{target.name}.part")
    for attempt in range(TRIES):
        try:
            _continue(wanted.address, part)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if attempt == TRIES - 1 or not part.exists():  # where nothing ever came, waiting is for nothing
                raise PelError(_not_had(wanted, part, type(error).__name__)) from None
            time.sleep(PAUSE)
        except requests.RequestException as error:
            raise PelError(_not_had(wanted, part, str(error))) from None
    if wrong := wanted.wrong(part):
        part.unlink()
        raise PelError(f"{wrong}. It came from {wanted.address} and is deleted; nothing of it was used")
    part.replace(target)
    logger.info("%s: checksum holds", target)


def _not_had(wanted: Download, part: Path, why: str) -> str:
    there = part.stat().st_size if part.exists() else 0
    progress = f"; {there:,} bytes are kept in {part}, and the same command goes on from there" if there else ""
    return f"{wanted.address} cannot be had ({why}){progress}; or download it elsewhere and put it there as {wanted.target}"


def _continue(address: str, part: Path) -> None:
    """Append to ``part`` what is lacking; a server that cannot go on in the middle starts it anew."""
    there = part.stat().st_size if part.exists() else 0
    # identity: the length of a compressed answer says nothing about the file
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
        if answer.status_code == 416:  # nothing is lacking, or the part is not of this file: the checksum tells
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(there):
                return
            part.unlink()
            return _continue(address, part)
        answer.raise_for_status()
        if answer.status_code != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
            there = 0
        length = int(answer.headers.get("Content-Length") or 0)
        bar = tqdm(
            total=there + length, initial=there, unit="B", unit_scale=True, desc=part.stem, disable=not sys.stderr.isatty()
        )
        with open(part, "ab" if there else "wb") as handle, bar:
            for block in answer.iter_content(BLOCK):
                handle.write(block)
                bar.update(len(block))
        if length and part.stat().st_size != there + length:
            raise requests.ConnectionError
