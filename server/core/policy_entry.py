"""What is judged before it is drawn and before it leaves, as models.yaml says it under `policy`.

Knows the file's words for checks; opens no file and asks nobody.
Invariant: an entry that exists promises nothing that its kind cannot do.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from server.core.providers import BASE_URL, PathText, VariableName
from server.core.request import Moderation
from server.core.strict import Strict

CheckKind = Literal["words", "patterns", "hook", "image"]
# prompt: as sent, and as drawn with a style. revised_prompt: what a provider says that it drew instead.
Reading = Literal["prompt", "negative_prompt", "revised_prompt", "picture"]
BEFORE: tuple[Reading, ...] = ("prompt", "negative_prompt")
READ_BY_KIND: dict[CheckKind, tuple[Reading, ...]] = {
    "words": ("prompt", "revised_prompt"),
    "patterns": ("prompt", "revised_prompt"),
    "hook": ("prompt",),
    "image": ("picture",),
}
NEEDED: dict[CheckKind, str] = {"words": "file", "patterns": "file", "hook": "url", "image": "source"}
OF_KIND: dict[CheckKind, tuple[str, ...]] = {
    "words": ("file", "reads"),
    "patterns": ("file", "reads"),
    "hook": ("url", "key_variable", "deadline_seconds", "on_failure", "reads"),
    "image": ("source", "providers"),
}
COMMON = ("name", "kind", "levels", "keys")


def _url(text: str) -> str:
    if BASE_URL.fullmatch(text) is None:
        raise ValueError("must be an http(s) URL without user, query and fragment")
    return text


class CheckEntry(Strict):
    """One check.

    name: what the books call it. levels: for which values of `moderation` it is made; a request that says none means
    `auto`. keys: the names of the keys whose requests it judges; everybody's if absent. file: of words or patterns, a
    line each. url: the operator's own moderator. key_variable: the environment variable that holds the key for it.
    deadline_seconds: for all of one answer. on_failure: what becomes of a request when there is none. reads: what is
    judged. source: the folder of a safety checker of the Stable Diffusion family. providers: whether somebody may be
    asked whose pictures that checker never sees.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    kind: CheckKind
    levels: Annotated[tuple[Moderation, ...], Field(strict=False, min_length=1)] = ("auto", "low")
    keys: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    file: PathText | None = None
    url: Annotated[str, AfterValidator(_url)] | None = None
    key_variable: VariableName | None = None
    deadline_seconds: float = Field(default=5.0, gt=0, le=60, allow_inf_nan=False)
    on_failure: Literal["allow", "refuse"] = "refuse"
    reads: Annotated[tuple[Reading, ...], Field(strict=False, min_length=1)] | None = None
    source: PathText | None = None
    providers: Literal["leave_out", "trust"] = "leave_out"

    @property
    def readings(self) -> tuple[Reading, ...]:
        return READ_BY_KIND[self.kind] if self.reads is None else self.reads

    @property
    def sees_pictures(self) -> bool:
        return "picture" in self.readings

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> CheckEntry:
        stray = next((name for name in self.model_fields_set if name not in (*COMMON, *OF_KIND[self.kind])), None)
        if stray is not None:
            raise ValueError(f"{stray} means nothing for the kind {self.kind}")
        if getattr(self, NEEDED[self.kind]) is None:
            raise ValueError(f"the kind {self.kind} needs a {NEEDED[self.kind]}")
        if self.kind in ("words", "patterns") and self.sees_pictures:
            raise ValueError(f"the kind {self.kind} reads texts only; pictures are read by hook and image")
        return self


class PolicyEntry(Strict):
    """keep_prompts: whether the books hold the texts that were judged. checks: in the order in which they are made."""

    keep_prompts: bool = False
    checks: Annotated[tuple[CheckEntry, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _are_told_apart(self) -> PolicyEntry:
        names = [check.name for check in self.checks]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ValueError(f"two checks are called '{twice}'")
        if sum(check.kind == "image" for check in self.checks) > 1:
            raise ValueError("two checks are of the kind image: a worker has one safety checker")
        return self
