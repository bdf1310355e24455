"""Guards how moments are read."""

from __future__ import annotations

import pytest

from server.access.moments import moment_in, moment_text, seconds_in

NOW = 1_795_300_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW + 90),
        ("12h", NOW + 12 * 3600),
        ("30d", NOW + 30 * 86400),
        ("2027-01-31", 1_801_353_600),
        ("2027-01-31T01:00+01:00", 1_801_353_600),
        ("2027-01-31T00:00", 1_801_353_600),
    ],
)
def test_a_duration_counts_from_now_and_a_date_is_in_utc(text: str, moment: int) -> None:
    assert moment_in(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "30", "-3d", "1.5h", "30 d", "tomorrow", "2027-13-01", "\u0663d", "1e9d"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        moment_in(text, NOW)


def test_a_grace_is_a_duration_alone() -> None:
    assert seconds_in("7d") == 604_800
    with pytest.raises(ValueError, match="no duration"):
        seconds_in("2027-01-31")


def test_a_moment_is_told_in_utc() -> None:
    assert moment_text(1_801_353_600) == "2027-01-31 00:00Z"
