"""Where a model is fetched from: a repository of a hub at one commit, and mirrors that have the same.

Knows how they are written in models.yaml; asks nobody, and knows no files.
Invariant: every source is pinned to a commit, so that it cannot mean other bytes tomorrow.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

WEIGHT_SUFFIX = ".safetensors"
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
REPOSITORY = re.compile(NAME, re.ASCII)
MIRROR = re.compile(rf"(?:https?://[^\s/@]+/(?:[^\s@]+/)?)?{NAME}@(?P<revision>\S*)", re.ASCII)


def _repository(text: str) -> str:
    if not REPOSITORY.fullmatch(text):
        raise ValueError("a repository is written OWNER/NAME; those of other hubs are mirrors")
    return text


def _commit(text: str) -> str:
    if not COMMIT.fullmatch(text):
        raise ValueError(
            f"'{text:.64}' is no commit, which has 40 hexadecimal digits in lower case. A branch or a tag can mean "
            "other bytes tomorrow: write the commit that it means now"
        )
    return text


def _mirror(text: str) -> str:
    match = MIRROR.fullmatch(text)
    if match is None:
        raise ValueError("a mirror is written https://HOST/OWNER/NAME@COMMIT, or OWNER/NAME@COMMIT on the same hub")
    _commit(match["revision"])
    return text


def _file(text: str) -> str:
    if not text.isprintable() or "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("a file is named as in the repository, such as unet/config.json")
    return text


class Hub(BaseModel):
    """One model's sources. mirrors: asked in this order where the repository fails. variant: which of the weights to
    fetch, such as fp16; the entry's own if absent. files: these alone rather than the diffusers folder. manifest: of an
    earlier pull, relative to models.yaml: no source may send other bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    repository: Annotated[str, AfterValidator(_repository)]
    revision: Annotated[str, AfterValidator(_commit)]
    mirrors: Annotated[tuple[Annotated[str, AfterValidator(_mirror)], ...], Field(strict=False)] = ()
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,40}$")] | None = None
    files: Annotated[tuple[Annotated[str, AfterValidator(_file)], ...], Field(strict=False)] = ()
    manifest: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")] | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """As `safelight models pull --source` takes them, in order."""
        return (f"{self.repository}@{self.revision}", *self.mirrors)

    @property
    def single_file(self) -> str | None:
        """The checkpoint, where one file is all that is fetched."""
        is_one = len(self.files) == 1 and PurePosixPath(self.files[0]).suffix == WEIGHT_SUFFIX
        return self.files[0] if is_one else None
