"""What a caller may ask of the books, in OpenAI's words, and what of it the ledger is asked.

Knows parameters, callers and the ledger's question; knows no clock and runs no statement.
Invariant: no question goes to the ledger without its caller's own key in it, unless the caller is an admin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from server.api.buckets import WIDTHS
from server.api.cursor import PARAM as PAGE
from server.api.query import Param, number, text, word
from server.core import errors
from server.core.caller import Caller
from server.ledger.entries import Operation, Outcome
from server.ledger.question import Question, Standing

# The last second of the year 9999.
MAX_UNIX_SECONDS = 253_402_300_799
OPERATIONS: Mapping[str, Operation] = {f"image.{operation}": operation for operation in get_args(Operation)}
OUTCOMES: tuple[Standing, ...] = (*get_args(Outcome), "open")

START = number("start_time", 0, MAX_UNIX_SECONDS, "Unix seconds, inclusive.")
REQUIRED_START = number("start_time", 0, MAX_UNIX_SECONDS, "Unix seconds, inclusive.", is_required=True)
END = number("end_time", 0, MAX_UNIX_SECONDS, "Unix seconds, exclusive; now if absent.")
CURSOR = text(PAGE, "The `next_page` of the answer before, to the same question.")
_FILTERS = {
    "api_key_ids": text("api_key_ids", "Whose. Without an admin key: one's own.", is_list=True),
    "models": text("models", "Who drew, or the name that was asked for.", is_list=True),
    "backends": text("backends", "`local`, or a backend's name in models.yaml.", is_list=True),
    "outcomes": word("outcomes", OUTCOMES, "How it ended; `open`: it has not yet.", is_list=True),
    "sources": word("sources", tuple(OPERATIONS), "What was asked for.", is_list=True),
    "sizes": text(
        "sizes", "As served.", is_list=True, pattern="[0-9]{1,5}x[0-9]{1,5}", allowed="sizes such as 1024x1024"
    ),
    "line_items": text("line_items", "`MODEL, BACKEND`.", is_list=True),
    "project_ids": text("project_ids", "There are none here: finds nothing.", is_list=True),
    "user_ids": text("user_ids", "There are none here: finds nothing.", is_list=True),
}
OWN_FILTERS = tuple(_FILTERS[name] for name in ("api_key_ids", "models", "backends", "outcomes", "sources", "sizes"))
IMAGES_FILTERS = tuple(
    _FILTERS[name] for name in ("api_key_ids", "models", "sources", "sizes", "project_ids", "user_ids")
)
COSTS_FILTERS = tuple(_FILTERS[name] for name in ("api_key_ids", "line_items", "project_ids"))


def bucket_params(widths: tuple[str, ...], most: int, groups: tuple[str, ...]) -> tuple[Param, ...]:
    """What all pages of buckets take. most: buckets, of the narrowest width."""
    return (
        REQUIRED_START,
        END,
        word("bucket_width", widths, "Minutes, hours or days of UTC; `1d` if absent."),
        number("limit", 1, most, "Buckets on a page."),
        CURSOR,
        word("group_by", groups, "What results are kept apart by.", is_list=True),
    )


def question_of(values: Mapping[str, Any], caller: Caller, since_unix_ms: int, until_unix_ms: int) -> Question:
    """values: by parameter. Raises SafelightError."""
    operations = values.get("sources")
    return Question(
        since_unix_ms,
        until_unix_ms,
        keys=_keys(values, caller),
        models=values.get("models"),
        backends=values.get("backends"),
        outcomes=values.get("outcomes"),
        operations=None if operations is None else frozenset(OPERATIONS[name] for name in operations),
        sizes=values.get("sizes"),
        line_items=values.get("line_items"),
    )


def _keys(values: Mapping[str, Any], caller: Caller) -> frozenset[str] | None:
    """None: everybody's; an empty set: nobody's. Raises SafelightError for the key of another."""
    asked: frozenset[str] | None = values.get("api_key_ids")
    if not caller.may("admin"):
        own = frozenset(() if caller.key_id is None else (caller.key_id,))
        if asked is not None and not asked <= own:
            raise errors.foreign_usage()
        asked = own
    # No picture has a project or a user.
    return frozenset() if {"project_ids", "user_ids"} & values.keys() else asked


def width_seconds(values: Mapping[str, Any]) -> int:
    return WIDTHS[values.get("bucket_width", "1d")]
