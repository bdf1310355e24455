"""Reads how long something is to last, or until when, as a person types it. Pure: it is told the time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def seconds_in(text: str) -> int:
    """Of 90s, 45m, 12h or 30d. Raises ValueError."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration such as 90s, 45m, 12h or 30d")
    return int(found[1]) * SECONDS[found[2]]


def moment_in(text: str, now_unix_seconds: int) -> int:
    """Unix seconds of now and a duration (30d), of a day's begin in UTC (2027-01-31), or of a moment
    (2027-01-31T18:00+01:00; UTC where it does not say). Raises ValueError."""
    if DURATION.fullmatch(text):
        return now_unix_seconds + seconds_in(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no duration such as 30d, and no date such as 2027-01-31") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def moment_text(unix_seconds: int) -> str:
    """In UTC, to the minute."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
