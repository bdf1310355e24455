"""What a check is asked, and how it says that it cannot tell.

Knows texts, pictures and whose request they are of; decides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from pipelines.messages import OutputFormat
from server.core.caller import Caller
from server.core.request import Moderation

Stage = Literal["prompt", "result"]
# Why a check could not tell. refused_away: it would have had to leave a machine that nothing may leave.
Cause = Literal["unreachable", "timeout", "status", "bad_answer", "refused_away", "not_checked", "broken"]


class Undecided(Exception):
    """The check could not tell."""

    def __init__(self, problem: Cause) -> None:
        super().__init__(problem)
        self.problem: Cause = problem


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose request is judged. model: as the caller named it. level: what `moderation` says. is_local_only: nothing of
    it may leave this server."""

    request_id: str
    caller: Caller
    model: str
    level: Moderation = "auto"
    is_local_only: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """texts: one at least, or a picture. picture: a file of `picture_format`. index: of which picture."""

    subject: Subject
    stage: Stage
    texts: tuple[str, ...] = field(default=(), repr=False)
    picture: bytes | None = field(default=None, repr=False)
    picture_format: OutputFormat = "png"
    index: int | None = None


# Whether it may be drawn, or may leave. Raises Undecided.
Ask = Callable[[Question], Awaitable[bool]]
