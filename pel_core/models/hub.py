"""Weight files of the Hugging Face hub, through its own client and cache: HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE hold.

What the cache holds is used without asking the network. Where there is no network, that is found out in seconds: the client
itself would try for most of a minute.
"""

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from pel_core.common.errors import PelError
from pel_core.common.files import sha256

CONNECT_TIMEOUT = 5  # seconds for the hub to accept a connection
# In the order in which open_clip and timm prefer them; the second of each is a pickle, read as tensors alone.
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
CONFIGS = {"open_clip": "open_clip_config.json", "timm": "config.json"}


class Unavailable(Exception):
    """Why a file cannot be had."""


def hub_file(repo: str, names: Sequence[str], cache_dir: str | None = None) -> Path:
    """The first file of ``names`` that a repository ``owner/name[@revision]`` has, from the cache or the network.

    Raises:
        Unavailable: no network, no such repository or revision, or none of the files.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = repo.partition("@")
    place = {"cache_dir": cache_dir, "revision": revision or None}
    try:
        for name in names:
            try:
                return Path(hf_hub_download(repo, name, local_files_only=True, **place))
            except LocalEntryNotFoundError:
                continue
        require_network()
        for name in names:
            try:
                return Path(hf_hub_download(repo, name, **place))
            except LocalEntryNotFoundError as error:
                raise Unavailable(_first_line(error)) from None
            except EntryNotFoundError:
                continue
    except HFValidationError as error:
        raise Unavailable(_first_line(error)) from None
    except (OSError, ValueError, RuntimeError) as error:  # the client's own kinds and its transport's are these
        raise Unavailable(_first_line(error)) from None
    raise Unavailable(f"{repo} holds no {' or '.join(names)}")


def require_network() -> None:
    """See that the hub can be reached, within seconds.

    Raises:
        Unavailable: it cannot be, or may not.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise Unavailable("HF_HUB_OFFLINE is set, and the cache does not hold the file")
    if getproxies():
        return  # a proxy knows names that this machine does not
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise Unavailable(f"no network: {address.hostname} cannot be reached ({error.strerror or error})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def origin(path: Path) -> dict[str, str]:
    """Repository and commit of a file in the hub's cache; empty for any other file."""
    found = re.search(r"models--([^/]+)/snapshots/([0-9a-f]{40})/", path.as_posix())
    return {"hub": found[1].replace("--", "/"), "revision": found[2]} if found else {}


def checked_sha256(path: Path) -> str:
    """The SHA-256 of a weights file. The cache names a large file by it: another content is a damaged download.

    Raises:
        PelError: the file is not what the hub sent.
    """
    digest, blob = sha256(path), path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob) and blob != digest:
        raise PelError(f"{path} is damaged: SHA-256 {digest[:12]}..., the hub's is {blob[:12]}...; delete it and fetch it again")
    return digest
