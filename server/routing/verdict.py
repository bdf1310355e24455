"""What a failed attempt means: what its caller is told, whether another backend could cure it, how bad it is for the
target.

Knows causes and rows of errors; knows no attempts and no order.
Invariant: a request that is wrong, and one that somebody will not draw, is never handed on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from server.backends.trouble import Cause, Trouble
from server.core import error_table, errors
from server.core.error_table import ErrorRow
from server.core.errors import SafelightError
from server.core.providers import Life, Target
from server.routing.breaker import Strain

LONGEST_RETRY_SECONDS = 60
# What is wrong with our own devices and not with the request.
CURABLE_ROWS: tuple[ErrorRow, ...] = (
    error_table.OVERLOADED,
    error_table.QUEUE_TOO_LONG,
    error_table.TOO_SLOW_FOR_A_PLAIN_ANSWER,
    error_table.QUEUE_BEYOND_DEADLINE,
    error_table.DEADLINE_TOO_SHORT,
    error_table.WORKER_UNAVAILABLE,
    error_table.WORKER_LOST,
    error_table.INSUFFICIENT_MEMORY,
    error_table.MODEL_UNAVAILABLE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """cause: one word, for headers and books. is_unfit: the request, good as it is, is none for this target."""

    cause: str
    error: SafelightError
    is_curable: bool
    strain: Strain = "none"
    is_unfit: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    error: Callable[[], SafelightError]
    is_curable: bool
    strain: Strain


def _unjudged() -> SafelightError:
    """It was drawn and paid for: clients must not have it drawn again by themselves."""
    error = errors.policy_unavailable()
    error.more_headers["x-should-retry"] = "false"
    return error


RULES: dict[Cause, _Rule] = {
    "unreachable": _Rule(errors.backend_failed, is_curable=True, strain="some"),
    "timeout": _Rule(errors.backend_timeout, is_curable=True, strain="some"),
    "broken": _Rule(errors.backend_failed, is_curable=True, strain="some"),
    "failed": _Rule(errors.backend_failed, is_curable=True, strain="some"),
    "bad_picture": _Rule(errors.backend_failed, is_curable=True, strain="some"),
    "throttled": _Rule(errors.backend_busy, is_curable=True, strain="some"),
    "overloaded": _Rule(errors.backend_busy, is_curable=True, strain="some"),
    "no_quota": _Rule(errors.insufficient_quota, is_curable=True, strain="lasting"),
    "unauthorised": _Rule(errors.backend_unavailable, is_curable=True, strain="lasting"),
    "unknown_model": _Rule(errors.backend_unavailable, is_curable=True, strain="lasting"),
    "refused": _Rule(errors.backend_refused, is_curable=False, strain="none"),
    "policy": _Rule(errors.content_policy_violation, is_curable=False, strain="none"),
    "own_policy": _Rule(errors.request_against_policy, is_curable=False, strain="none"),
    "unjudged": _Rule(_unjudged, is_curable=False, strain="none"),
}


def verdict_of(failure: SafelightError | Trouble, target: Target, life: Life) -> Verdict:
    """life: of the target's model, for the name of its successor."""
    if isinstance(failure, SafelightError):
        return Verdict(failure.code, failure, failure.row in CURABLE_ROWS)
    if failure.cause == "retired":
        error = errors.model_retired(target.model, life.successor)
        return Verdict("retired", error, is_curable=True, strain="for_good")
    rule = RULES[failure.cause]
    error = rule.error()
    wait_seconds = failure.facts.retry_after_seconds
    if wait_seconds is not None and error.row.retry_after_seconds is not None:
        error.more_headers["retry-after"] = str(min(max(1, round(wait_seconds)), LONGEST_RETRY_SECONDS))
    return Verdict(failure.cause, error, rule.is_curable, rule.strain)


def unasked(refusal: SafelightError, target: Target) -> Verdict:
    """Of a target that was not asked: its request could not be made ready, or the day's limit is reached."""
    if refusal.row in (error_table.INSUFFICIENT_QUOTA, error_table.QUOTA_USED_UP):
        return Verdict("daily_limit", refusal, is_curable=True)
    if refusal.status == HTTPStatus.BAD_REQUEST:
        return Verdict(refusal.code, refusal, is_curable=True, is_unfit=True)
    return verdict_of(refusal, target, Life())
