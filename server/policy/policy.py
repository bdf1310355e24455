"""What may be drawn here, and what may leave: the operator's checks in their order, each decision in the books.

Knows checks, subjects and the ledger; knows no list, no wire and no route.
Invariant: the first check that refuses ends it; every decision is durable before anybody is told of it; off unless
models.yaml says otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from server.core import errors
from server.core.policy_entry import BEFORE, CheckEntry, Reading
from server.core.request import ImageRequest, LocalRequest, Picture
from server.ledger.decisions import Decision
from server.ledger.problem import LedgerProblem
from server.policy.question import Ask, Cause, Question, Subject, Undecided

log = logging.getLogger("safelight.policy")
DIGEST_BYTES = 16
Record = Callable[[Sequence[Decision]], Awaitable[None]]
# Told of each decision once it is in the books; for whoever counts them.
OnDecision = Callable[[Decision], None]


async def nowhere(_: Sequence[Decision]) -> None:
    """For a server without checks."""


def uncounted(_: Decision) -> None:
    """Nobody counts."""


async def _closed() -> None:
    """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Check:
    """ask: None for the one that a worker makes where the picture is drawn."""

    entry: CheckEntry
    ask: Ask | None
    close: Callable[[], Awaitable[None]] = _closed

    def concerns(self, subject: Subject) -> bool:
        """Without keys there is nobody to tell apart, and every check is everybody's."""
        entry, caller = self.entry, subject.caller
        is_meant = entry.keys is None or caller.key_id is None or caller.name in entry.keys
        return is_meant and subject.level in entry.levels


@dataclass(frozen=True, slots=True)
class Texts:
    """What is judged before anything is drawn, each text once."""

    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()

    def read_by(self, entry: CheckEntry) -> tuple[str, ...]:
        by_reading: dict[Reading, tuple[str, ...]] = {
            "prompt": self.prompts,
            "negative_prompt": self.negative_prompts,
        }
        found = (text for name in BEFORE if name in entry.readings for text in by_reading[name] if text)
        return tuple(dict.fromkeys(found))


class Policy:
    """checks: in the operator's order. record: writes decisions down. keeps_prompts: with the texts that were judged.
    on_decision: told of each once it is written."""

    def __init__(
        self,
        checks: Sequence[Check] = (),
        record: Record = nowhere,
        *,
        keeps_prompts: bool = False,
        on_decision: OnDecision = uncounted,
    ) -> None:
        self.checks = tuple(checks)
        self.keeps_prompts, self.on_decision = keeps_prompts, on_decision
        self._record = record
        # Who has the books alone cannot try out which prompt a digest is of: the key is in no file, and new each start.
        self._digest_key = secrets.token_bytes(32)

    @property
    def heeds_levels(self) -> bool:
        """Whether `moderation` makes a difference here."""
        levels = {check.entry.levels for check in self.checks}
        return any(set(one) != {"auto", "low"} for one in levels)

    def judge_of(self, subject: Subject) -> Judge:
        return Judge(self, subject, tuple(check for check in self.checks if check.concerns(subject)))

    def digest(self, texts: Sequence[str]) -> str:
        """Equal for equal texts until the server stops."""
        content = "\0".join(texts).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=self._digest_key).hexdigest()

    async def write(self, decisions: Sequence[Decision]) -> None:
        """Raises SafelightError when the books cannot be kept."""
        if not decisions:
            return
        try:
            await self._record(decisions)
        except LedgerProblem as problem:
            log.error("ledger unavailable", extra={"detail": str(problem)})  # noqa: TRY400
            raise errors.ledger_unavailable() from problem
        for decision in decisions:
            self.on_decision(decision)

    async def close(self) -> None:
        await asyncio.gather(*(check.close() for check in self.checks))


@dataclass(slots=True)
class Judge:
    """Of one request. checks: those that concern it. _texts: what the books say that was judged."""

    policy: Policy
    subject: Subject
    checks: tuple[Check, ...]
    _texts: tuple[str, ...] = field(default=(), repr=False)
    _numbers: int = 0

    @property
    def needs_worker(self) -> bool:
        """Whether a worker must look at the pictures."""
        return any(check.ask is None for check in self.checks)

    @property
    def trusts_providers(self) -> bool:
        """Whether somebody may be asked whose pictures no worker sees."""
        return all(check.entry.providers == "trust" for check in self.checks if check.ask is None)

    @property
    def sees_pictures(self) -> bool:
        return any(check.entry.sees_pictures for check in self.checks)

    @property
    def reads_results(self) -> bool:
        """Whether anything is judged once it is drawn."""
        return self.sees_pictures or any("revised_prompt" in check.entry.readings for check in self.checks)

    async def prompt(self, texts: Texts) -> None:
        """Before anything is drawn. Raises SafelightError: 400 for a refusal, 503 where a check cannot be made."""
        self._texts = texts.prompts[:1]
        asked = [(check, texts.read_by(check.entry)) for check in self.checks]
        questions = [(check, Question(self.subject, "prompt", read)) for check, read in asked if read]
        refusal = await self._judged(questions)
        if refusal is not None:
            raise errors.request_against_policy() if refusal.problem is None else errors.policy_unavailable()

    async def result(self, index: int, picture: Picture, request: ImageRequest) -> Decision | None:
        """Of a picture and of what was drawn instead of the prompt: the decision that keeps it here, or None. Raises
        SafelightError where the books cannot be kept."""
        questions: list[tuple[Check, Question]] = []
        for check in self.checks:
            if "revised_prompt" in check.entry.readings and picture.revised_prompt is not None:
                question = Question(self.subject, "result", (picture.revised_prompt,), index=index)
                questions.append((check, question))
            if check.entry.sees_pictures:
                file, kind = picture.file, request.output_format
                questions.append((check, Question(self.subject, "result", (), file, kind, index)))
        is_foreign = not isinstance(request, LocalRequest)
        if is_foreign and self.trusts_providers:
            questions = [(check, question) for check, question in questions if check.ask is not None]
        return await self._judged(questions, picture)

    async def _judged(
        self, questions: Sequence[tuple[Check, Question]], picture: Picture | None = None
    ) -> Decision | None:
        """The first refusal, or None; all that was decided is in the books then."""
        decisions: list[Decision] = []
        refusal = None
        for check, question in questions:
            decision = await self._decided(check, question, picture)
            decisions.append(decision)
            if decision.decision == "refuse":
                refusal = decision
                break
        await self.policy.write(decisions)
        return refusal

    async def _decided(self, check: Check, question: Question, picture: Picture | None) -> Decision:
        began_seconds = time.monotonic()
        problem: Cause | None = None
        try:
            is_allowed = await (_seen_by_worker(picture) if check.ask is None else check.ask(question))
        except Undecided as undecided:
            problem = undecided.problem
        except Exception:
            log.exception("a content check crashed", extra={"check": check.entry.name})
            problem = "broken"
        if problem is not None:
            is_allowed = check.entry.kind == "hook" and check.entry.on_failure == "allow"
            whose = {"request_id": self.subject.request_id, "check": check.entry.name}
            log.warning("a content check could not be made", extra={**whose, "cause": problem})
        ms = round((time.monotonic() - began_seconds) * 1000)
        if check.ask is None and picture is not None and picture.check_ms is not None:
            ms = picture.check_ms
        return self._decision(check, question, problem, ms, is_allowed=is_allowed)

    def _decision(
        self, check: Check, question: Question, problem: Cause | None, ms: int, *, is_allowed: bool
    ) -> Decision:
        texts = question.texts or self._texts
        self._numbers += 1
        return Decision(
            request_id=self.subject.request_id,
            number=self._numbers,
            index=question.index,
            key_id=self.subject.caller.key_id,
            check_name=check.entry.name,
            stage=question.stage,
            level=self.subject.level,
            decision="allow" if is_allowed else "refuse",
            problem=problem,
            ms=ms,
            prompt_characters=sum(map(len, texts)),
            prompt_digest=self.policy.digest(texts),
            prompt=_storable("\n".join(texts)) if self.policy.keeps_prompts else None,
            began_unix_ms=time.time_ns() // 1_000_000,
        )


async def _seen_by_worker(picture: Picture | None) -> bool:
    """What the worker said. Raises Undecided where it said nothing."""
    if picture is None or (picture.check_ms is None and not picture.is_refused):
        raise Undecided("not_checked")
    return not picture.is_refused


def _storable(text: str) -> str:
    """Databases hold no NUL and no half of a surrogate pair, which a provider's words may hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
