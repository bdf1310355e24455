"""What the content policy makes of one request: what is judged, who is left, and who looks at the pictures.

Knows parsed requests and the policy; knows no check.
Invariant: who could serve but could not be checked is no candidate; no unfinished picture is shown where the finished
one is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from starlette.requests import Request

from server.api.asked import Asked
from server.api.bodies import PromptedBody
from server.api.gate import caller_of
from server.api.parsed import Parsed
from server.api.services import Services
from server.core import errors
from server.core.providers import LOCAL
from server.core.request import ImageRequest, LocalRequest, Picture
from server.core.request_id import REQUEST_ID
from server.policy.policy import Judge, Texts
from server.policy.question import Subject
from server.routing.judged import Examine, Kept

Candidates = tuple[Parsed[ImageRequest], ...]


@dataclass(frozen=True, slots=True)
class Judging:
    """Of one request."""

    judge: Judge
    heeds_levels: bool

    @property
    def has_checks(self) -> bool:
        return bool(self.judge.checks)

    @property
    def examine(self) -> Examine | None:
        """What pictures must pass; None where nothing judges them."""
        return self._examine if self.judge.reads_results else None

    def candidates(self, parsed: Candidates) -> Candidates:
        """Those whose pictures can be checked, with what the checks ask of them. Raises SafelightError where nobody is
        left."""
        is_here_only = self.judge.needs_worker and not self.judge.trusts_providers
        left = tuple(one for one in parsed if one.target.backend == LOCAL or not is_here_only)
        if not left:
            raise errors.backend_unavailable()
        return tuple(self._with_checks(one) for one in left)

    async def prompt(self, parsed: Candidates) -> bool:
        """True, once the texts may be drawn. Raises SafelightError."""
        await self.judge.prompt(texts_of(parsed))
        return True

    async def _examine(self, index: int, picture: Picture, request: ImageRequest) -> Kept | None:
        refusal = await self.judge.result(index, picture, request)
        if refusal is None:
            return None
        return "own_policy" if refusal.problem is None else "unjudged"

    def _with_checks(self, parsed: Parsed[ImageRequest]) -> Parsed[ImageRequest]:
        ignored, request = parsed.ignored, parsed.request
        if self.heeds_levels:
            ignored = tuple(name for name in ignored if name != "moderation")
        if self.judge.sees_pictures and request.partial_images:
            ignored, request = (*ignored, "partial_images"), replace(request, partial_images=0)
        if self.judge.needs_worker and isinstance(request, LocalRequest):
            request = replace(request, is_checked=True)
        return replace(parsed, request=request, ignored=ignored)


def judging_of(request: Request, asked: Asked, services: Services) -> Judging:
    body, caller = asked.body, caller_of(request)
    level = body.moderation if isinstance(body, PromptedBody) else None
    subject = Subject(
        request_id=request.scope[REQUEST_ID],
        caller=caller,
        model=body.model or services.catalogue.default_model,
        level=level or "auto",
        is_local_only=bool(body.local_only) or caller.local_only,
    )
    return Judging(services.policy.judge_of(subject), services.policy.heeds_levels)


def texts_of(parsed: Candidates) -> Texts:
    """All that any of them would draw from, each text once."""
    requests = [one.request for one in parsed]
    prompts = [text for one in requests for text in (one.sent_prompt, one.prompt)]
    negative = [one.negative_prompt for one in requests] + [parsed[0].asked.body.negative_prompt]
    return Texts(_distinct(prompts), _distinct(text for text in negative if text is not None))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in dict.fromkeys(texts) if text.strip())
