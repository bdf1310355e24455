"""How limits are told in headers. Pure.

Knows views and OpenAI's names for headers; knows no storage.
Source: OpenAI, "Rate limits in headers": x-ratelimit-limit-requests, -remaining-requests, -reset-requests ("6m0s").
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from server.limits.rates import View

MILLISECONDS = 1000
SECONDS_PER_MINUTE = 60


def duration(seconds: float) -> str:
    """As Go writes it: "6m0s", "59s", "1.5s", "250ms", "0s". Rounded up to a millisecond below a second and to a tenth
    of a second above, so that whoever waits for so long does not come too early."""
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return _short(math.ceil(seconds * MILLISECONDS))
    minutes, tenths = divmod(math.ceil(seconds * 10), SECONDS_PER_MINUTE * 10)
    return (f"{minutes}m" if minutes else "") + f"{tenths / 10:g}s"


def _short(milliseconds: int) -> str:
    return f"{milliseconds}ms" if milliseconds < MILLISECONDS else "1s"


def headers_of(views: Iterable[View]) -> dict[str, str]:
    """Of several windows of one kind the one that has least left is told."""
    tightest: dict[str, View] = {}
    for view in views:
        known = tightest.setdefault(view.window.what, view)
        if (view.remaining, -view.reset_seconds) < (known.remaining, -known.reset_seconds):
            tightest[view.window.what] = view
    headers: dict[str, str] = {}
    for what, view in tightest.items():
        headers[f"x-ratelimit-limit-{what}"] = str(view.window.limit)
        headers[f"x-ratelimit-remaining-{what}"] = str(view.remaining)
        headers[f"x-ratelimit-reset-{what}"] = duration(view.reset_seconds)
    return headers
