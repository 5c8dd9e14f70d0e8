"""Repositories of data sets on the Hugging Face hub, through its own client and cache: HF_HOME, HF_ENDPOINT, HF_TOKEN hold.

A repository is read at one commit. Its client goes on with a download that was interrupted; with HF_HUB_OFFLINE or
HF_DATASETS_OFFLINE, or without network, what the cache holds is used, if all of it is there. Torch-free.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.models.hub import Unavailable, require_network

REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
REVISION = re.compile(r"(?:(?P<name>[^@\s]+)@)?(?P<commit>[0-9a-f]{40})")  # a commit, or a tag or branch and what it is to be
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")  # how the hub calls the parts of a split
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def offline_variable() -> str:
    """The variable that forbids the network; empty where none does."""
    return next((name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), "")


def cached_snapshot(repository: str, revision: str) -> Path | None:
    """What the cache holds of a commit, which may be a part of it; None where that is nothing."""
    from huggingface_hub import constants

    commit = REVISION.fullmatch(revision)["commit"]  # type: ignore[index]
    folder = Path(constants.HF_HUB_CACHE, f"datasets--{repository.replace('/', '--')}", "snapshots", commit)
    return folder if folder.is_dir() else None


def download(repository: str, revision: str) -> Path:
    """The folder of a repository at its commit, from the network or the cache.

    Args:
        revision: a commit, or NAME@COMMIT, where a tag or branch is looked at too.

    Raises:
        PelError: no network and not in the cache; no such repository or commit; a name that has moved; terms that are not
            accepted yet.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    asked = REVISION.fullmatch(revision)
    name, commit = asked["name"], asked["commit"]  # type: ignore[index]
    disable_progress_bars()
    no_network = _no_network()
    try:
        if name and not no_network:
            _require_unmoved(repository, name, commit)
        elif name:
            logger.info("note: whether '%s' of %s is still %s was not looked at (%s)", name, repository, commit, no_network)
        return Path(snapshot_download(repository, repo_type="dataset", revision=commit, local_files_only=bool(no_network)))
    except LocalEntryNotFoundError as error:
        why = no_network or _first_line(error)
        how = f"hf download {repository} --repo-type dataset --revision {commit}"
        raise PelError(
            f"the data set {repository} of the hub is not in the cache, or a part of it is missing ({why}); get it on a machine "
            f"with network: {how}  (HF_HOME says where the cache is)"
        ) from None
    except HfHubHTTPError as error:
        raise _refusal(repository, commit, error) from None
    except HFValidationError as error:
        raise PelError(f"the data set {repository} of the hub: {_first_line(error)}") from None
    except (OSError, ValueError, RuntimeError) as error:  # the client's transport's are these
        raise PelError(
            f"the data set {repository} of the hub could not be had: {_first_line(error)}; start again to go on"
        ) from None


def last_commit(repository: str) -> str:
    """The commit that a repository's main branch has now.

    Raises:
        PelError: the hub cannot be asked, or has no such repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    why = _no_network()
    try:
        if not why:
            return str(HfApi().dataset_info(repository, revision="main").sha)
    except HfHubHTTPError as error:
        raise _refusal(repository, "main", error) from None
    except (HFValidationError, OSError, ValueError, RuntimeError) as error:  # the client's transport's are these
        why = _first_line(error)
    raise PelError(
        f"the last commit of the data set {repository} of the hub could not be asked for ({why}); say the commit: "
        f"{repository}@COMMIT, 40 hex digits, which a machine with network shows at "
        f"https://huggingface.co/datasets/{repository}/commits/main"
    )


def _no_network() -> str:
    if variable := offline_variable():
        return f"{variable} is set"
    try:
        require_network()
    except Unavailable as error:
        return str(error)
    return ""


def _require_unmoved(repository: str, name: str, commit: str) -> None:
    from huggingface_hub import HfApi

    now = HfApi().dataset_info(repository, revision=name).sha
    if now != commit:
        raise PelError(
            f"the revision '{name}' of the data set {repository} has moved: it was {commit} and is {now} now; write "
            f"revision: {name}@{now} to take the new one, or revision: {commit} to keep the old one whatever '{name}' is"
        )


def _refusal(repository: str, commit: str, error: Exception) -> PelError:
    """What the hub answered, in words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{constants.ENDPOINT}/datasets/{repository}"
    if isinstance(error, GatedRepoError):
        return PelError(
            f"the data set {repository} of the hub is gated: accept its terms at {page} and log in (hf auth login, or the "
            "variable HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return PelError(
            f"the hub has no data set {repository}, or it is private and you are not logged in (hf auth login): {page}"
        )
    if isinstance(error, RevisionNotFoundError):
        return PelError(
            f"the data set {repository} of the hub has no commit {commit} (any more: its history may have been written anew); "
            f"expected one of {page}/commits/main"
        )
    return PelError(f"the data set {repository} of the hub could not be had: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def card_sizes(root: Path, configuration: str) -> dict[str, int]:
    """Images of each split as the head of a repository's README.md states them (``dataset_info``); empty where it does not.

    Raises:
        PelError: the head is not YAML.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text[3:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise PelError(f"{path}: its head is not YAML ({_first_line(error)})") from None
    about = head.get("dataset_info") if isinstance(head, Mapping) else None
    told = [each for each in (about if isinstance(about, list) else [about]) if isinstance(each, Mapping)]
    if configuration or len(told) > 1:
        told = [each for each in told if str(each.get("config_name", "default")) == (configuration or "default")]
    splits = (told[0].get("splits") if told else None) or []
    return {str(each["name"]): int(each["num_examples"]) for each in splits if "name" in each and "num_examples" in each}


def require_whole_shards(root: str, paths: Iterable[str]) -> None:
    """Refuse a split of which parts are missing: of ``train-00003-of-00005.parquet`` five are there, or it is not whole.

    Raises:
        PelError: naming the first that is missing.
    """
    found: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in paths:
        if match := SHARD.fullmatch(path):
            found[match[1], match[3], match[4]].add(int(match[2]))
    for (start, count, end), numbers in found.items():
        if missing := sorted(set(range(int(count))) - numbers):
            first = os.path.relpath(f"{start}-{missing[0]:05d}-of-{count}{end}", root)
            raise PelError(f"{root} lacks {len(missing)} of {int(count)} parts, such as {first}; get all of them")
