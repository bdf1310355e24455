"""Fetches one model from a hub, or from the first of its mirrors that has it: the only code that may go online.

Knows the hub's API and manifests; knows no tensors and runs nothing of what it fetches. Imports no torch.
Invariant: a model appears when every file has the size and the digest that the hub states and that are pinned, and not
before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get

from pipelines.weights.arrival import (
    PART_SUFFIX,
    ArrivalProblem,
    Free,
    arriving,
    free_bytes,
    publish,
    refuse_without_room,
)
from pipelines.weights.choice import (
    SUFFIXES,
    WEIGHT_SUFFIX,
    Pins,
    SourceProblem,
    Stated,
    Wanted,
    choose,
    held_to,
)
from pipelines.weights.files import CheckpointProblem, read_json, tensor_names
from pipelines.weights.manifest import (
    BLOCK_BYTES,
    Advance,
    FileEntry,
    Manifest,
    ManifestProblem,
    Origin,
    files_of,
    ignore,
    refuse_unsafe_manifest,
    stamped,
    write_manifest,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
SOURCE = re.compile(r"(?:(?P<endpoint>https?://\S+?)/)?(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>\S+)", re.ASCII)
ASK_SECONDS = 20.0
# What a stranger's answer, or the way to it, can be wrong in.
UNREACHABLE = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError)
NO_HUB = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
# The first line that fits is told.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (RevisionNotFoundError, "has no such revision"),
    (GatedRepoError, "is gated: accept its licence on the hub, and put your token into HF_TOKEN"),
    (DisabledRepoError, "was disabled by the hub"),
    (RepositoryNotFoundError, "does not exist there, or is private"),
    (httpx2.TimeoutException, "does not answer in time"),
    (httpx2.ConnectError, "cannot be reached"),
)


class PullProblem(CheckpointProblem):
    """A model that cannot be fetched, and what each of its sources said."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository at one commit of one hub."""

    endpoint: str
    repo: str
    revision: str

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.repo}"


@dataclass(frozen=True, slots=True)
class Offer:
    """The files that one source would send, and where they would come from."""

    origin: Origin
    files: list[Stated]


def parse_source(text: str, default_endpoint: str) -> HubSource:
    """`OWNER/NAME@COMMIT`, or the same behind a mirror's address. Raises PullProblem."""
    match = SOURCE.fullmatch(text)
    if match is None or (match["endpoint"] and not urlsplit(match["endpoint"]).hostname):
        raise PullProblem(f"{text!r} is no source: write OWNER/NAME@COMMIT or https://MIRROR/OWNER/NAME@COMMIT")
    return HubSource((match["endpoint"] or default_endpoint).rstrip("/"), match["repo"], match["revision"])


def pull(
    sources: Sequence[HubSource],
    target: Path,
    wanted: Wanted,
    *,
    pins: Pins | None = None,
    start: Callable[[int], Advance] = lambda _total_bytes: ignore,
    free: Free = free_bytes,
) -> Manifest:
    """Fetch a model into a folder of this name, going on where an interruption stopped.

    pins: the bytes that it must have. Without any, the first source that has it says so for all that come after it.
    start: told the size of all, answers whom to tell of the progress.

    Raises:
        CheckpointProblem: no source has it, or the place is taken, busy or too small; no model appears then.
    """
    if not constants.HF_HUB_DISABLE_TELEMETRY or constants.is_offline_mode():
        raise PullProblem("HF_HUB_OFFLINE is set, or telemetry is not off: nothing is fetched")
    if target.exists() or target.is_symlink():
        raise ArrivalProblem(f"{target} is there already")
    refusals: list[str] = []
    with arriving(target) as staging:
        for source in sources:
            try:
                offer = _offered(source, wanted, pins)
                pins = pins or Pins({file.name: file for file in offer.files}, source.url)
                manifest = _from_source(source, staging, offer, start, free)
            except SourceProblem as problem:
                refusals.append(str(problem))
                continue
            except OSError as error:
                raise ArrivalProblem(
                    f"{staging} cannot be written to: {error.strerror}. What was fetched waits there: "
                    "pull again to go on, or remove it"
                ) from error
            publish(staging, target)
            return manifest
    waits = f". What was fetched waits in {staging}: pull again to go on" if staging.exists() else ""
    raise PullProblem(("; ".join(refusals) or "no source is named") + waits)


def _offered(source: HubSource, wanted: Wanted, pins: Pins | None) -> Offer:
    """What this source would send. Raises SourceProblem when it has not what is wanted, or not the pinned bytes."""
    origin, listed = _ask(source)
    chosen = [listed[name] for name in choose(source.url, list(listed), wanted)]
    return Offer(origin, chosen if pins is None else held_to(pins, source.url, chosen))


def _from_source(
    source: HubSource, staging: Path, offer: Offer, start: Callable[[int], Advance], free: Free
) -> Manifest:
    _remove_strays(staging, {file.name for file in offer.files})
    total_bytes = sum(file.size_bytes for file in offer.files)
    refuse_without_room(staging, total_bytes - _gathered_bytes(staging), free)
    advance = start(total_bytes)
    entries = tuple(_fetch(source, file, staging, advance) for file in offer.files)
    _refuse_unsound(source, staging, entries)
    manifest = stamped(staging, Manifest(entries, offer.origin))
    write_manifest(staging, manifest)
    return manifest


def _ask(source: HubSource) -> tuple[Origin, dict[str, Stated]]:
    """What the repository holds at that commit. Raises SourceProblem."""
    api = HfApi(endpoint=source.endpoint, token=_token(source) or False)
    try:
        info = api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=ASK_SECONDS)
        listed = [_stated(sibling) for sibling in info.siblings or ()]
        licence = info.card_data.get("license") if info.card_data else None
    except UNREACHABLE as error:
        raise SourceProblem(f"{source.url} at {source.revision}: {_reason(error)}") from error
    except NO_HUB as error:
        raise SourceProblem(f"{source.url} does not answer like a hub") from error
    _refuse_unpinned(source, info.sha)
    files = {file.name: file for file in listed if file is not None}
    return Origin(source.url, source.revision, licence if isinstance(licence, str) else None), files


def _token(source: HubSource) -> str | None:
    """The operator's token is for the hub that it came from, and for no mirror."""
    return get_token() if source.endpoint == constants.ENDPOINT else None


def _stated(sibling: Any) -> Stated | None:
    """None: a file that is never fetched. Raises SourceProblem's causes (NO_HUB) when its facts are no facts."""
    if PurePosixPath(sibling.rfilename).suffix not in SUFFIXES:
        return None
    size_bytes = sibling.size if sibling.lfs is None else sibling.lfs.size
    sha256 = None if sibling.lfs is None else sibling.lfs.sha256
    if type(size_bytes) is not int or size_bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", sha256 or "0" * 64):
        raise ValueError("no facts")
    is_git = sha256 is None and re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id or "")
    return Stated(sibling.rfilename, size_bytes, sha256, sibling.blob_id if is_git else None)


def _refuse_unpinned(source: HubSource, commit: str | None) -> None:
    if not COMMIT.fullmatch(source.revision):
        raise SourceProblem(
            f"{source.url}: {source.revision!r} can mean another commit tomorrow; it means {commit} now: write that"
        )
    if commit != source.revision:
        raise SourceProblem(f"{source.url} answers with the commit {commit}, not with {source.revision}")


def _reason(error: Exception) -> str:
    for kind, reason in REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, HfHubHTTPError):
        return f"answers with status {error.response.status_code}"
    return f"broke off ({type(error).__name__})"


def _remove_strays(staging: Path, wanted: set[str]) -> None:
    """What an earlier try from another source left."""
    for name, path in files_of(staging).items():
        if name.removesuffix(PART_SUFFIX) not in wanted:
            path.unlink()


def _gathered_bytes(staging: Path) -> int:
    return sum(path.stat().st_size for path in files_of(staging).values())


def _fetch(source: HubSource, stated: Stated, staging: Path, advance: Advance) -> FileEntry:
    """One file, whole and right. Raises SourceProblem, and OSError when it cannot be written."""
    final = staging / stated.name
    part = final.with_name(final.name + PART_SUFFIX)
    _make_room_for(stated, final)
    if final.exists():
        final.replace(part)
    had_bytes = part.stat().st_size if part.exists() else 0
    if had_bytes > stated.size_bytes:
        part.unlink()
    for _attempt in range(2):
        _download(source, stated, part, advance)
        sha256 = _digest_if_right(part, stated)
        if sha256 is not None:
            part.rename(final)
            return FileEntry(stated.name, stated.size_bytes, sha256)
        # What was there before may have been of another file; what is fetched from its start is not.
        part.unlink()
        advance(-stated.size_bytes)
        if not had_bytes:
            break
    raise SourceProblem(f"{source.url} sends {stated.name} with other bytes than it states or than are pinned")


def _make_room_for(stated: Stated, final: Path) -> None:
    try:
        refuse_unsafe_manifest(Manifest((FileEntry(stated.name, stated.size_bytes, "0" * 64),)))
    except ManifestProblem as problem:
        raise SourceProblem(str(problem)) from None
    final.parent.mkdir(parents=True, exist_ok=True)


def _download(source: HubSource, stated: Stated, part: Path, advance: Advance) -> None:
    """Go on with the part file as long as something arrives. Raises SourceProblem and OSError."""
    url = hf_hub_url(source.repo, stated.name, revision=source.revision, endpoint=source.endpoint)
    token = _token(source)
    headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {token}"} if token else {})
    with part.open("a+b") as file:
        advance(file.seek(0, os.SEEK_END))
        while (begun_bytes := file.seek(0, os.SEEK_END)) < stated.size_bytes:
            try:
                _get(url, file, begun_bytes, headers, _Bar(file, stated.size_bytes, advance))
            except SourceProblem as problem:
                if file.seek(0, os.SEEK_END) <= begun_bytes:
                    raise SourceProblem(f"{source.url}: {stated.name}: {problem}") from problem
        file.flush()
        os.fsync(file.fileno())


class _Bar:
    """What huggingface_hub takes for its progress bar. It is told of every block before that is written."""

    def __init__(self, file: BinaryIO, size_bytes: int, advance: Advance) -> None:
        self.size_bytes = size_bytes
        self._file, self._advance = file, advance

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        """Raises SourceProblem when more comes than the hub stated: nobody else would stop it from filling the disk."""
        if self._file.tell() + int(count or 0) > self.size_bytes:
            raise SourceProblem("more bytes come than are stated")
        self._advance(int(count or 0))


def _get(url: str, file: BinaryIO, begun_bytes: int, headers: dict[str, str], bar: _Bar) -> None:
    as_class: Any = lambda **_options: bar  # noqa: E731 (a class is expected, and called as one)
    size_bytes = bar.size_bytes
    try:
        http_get(url, file, resume_size=begun_bytes, headers=headers, expected_size=size_bytes, tqdm_class=as_class)
    except UNREACHABLE as error:
        raise SourceProblem(_reason(error)) from error
    except NO_HUB as error:
        raise SourceProblem("does not answer like a hub") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise SourceProblem("sends another number of bytes than it states") from error


def _digest_if_right(part: Path, stated: Stated) -> str | None:
    """The sha256, or None when size or digest are not those that the hub states."""
    if part.stat().st_size != stated.size_bytes:
        return None
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % stated.size_bytes, usedforsecurity=False)
    with part.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha256.update(block)
            git.update(block)
    is_right = stated.sha256 in (None, sha256.hexdigest()) and stated.git_sha1 in (None, git.hexdigest())
    return sha256.hexdigest() if is_right else None


def _refuse_unsound(source: HubSource, staging: Path, entries: tuple[FileEntry, ...]) -> None:
    """The right bytes of something that is no model are refused too."""
    try:
        refuse_unsafe_manifest(Manifest(entries))
        for entry in entries:
            if entry.name.endswith(WEIGHT_SUFFIX):
                tensor_names(staging / entry.name)
            elif entry.name.endswith("config.json"):
                read_json(staging / entry.name)
    except CheckpointProblem as problem:
        shutil.rmtree(staging)
        staging.mkdir()
        raise SourceProblem(f"{source.url}: {problem}") from None
