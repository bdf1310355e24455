"""Every case of the hostile list is answered as docs/hostile.md says, and leaves the server as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.hostile.case import JSON, Case
from tests.hostile.table import all_cases, page
from tests.hostile.wire import Answer, answer_to
from tests.invariants import House

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile.md"
# Of each class the quick run sends every so many-th case, the first one always.
SPREAD = 24


def marked(cases: Sequence[Case]) -> Iterator[object]:
    """The fair share of the quick run, and the rest for `--all`."""
    ordered = sorted(cases, key=lambda case: case.group)
    for _, members in groupby(ordered, key=lambda case: case.group):
        for place, case in enumerate(members):
            # Those with a key have a server of their own, whose start is most of what they take.
            is_rest = case.is_long or case.is_keyed or place % SPREAD
            yield pytest.param(case, id=case.id, marks=[pytest.mark.whole] if is_rest else [])


@pytest.mark.parametrize("case", list(marked(all_cases())))
def test_a_hostile_request_is_answered_as_the_page_says_and_leaves_no_trace(house: House, case: Case) -> None:
    answer = answer_to(case, int(house.server.url.rpartition(":")[2]))
    try:
        check(case, answer)
    finally:
        if answer is not None and answer.status == 200 and case.pictures:
            house.told.add(answer.json)
    house.assert_sound()


def check(case: Case, answer: Answer | None) -> None:
    if case.status is None or answer is None:
        assert (answer and answer.status) == case.status
        return
    assert answer.status == case.status, answer.body[:500]
    assert answer.headers["x-request-id"].startswith("req_")
    if case.is_keyed:
        assert b"sl-" not in answer.body
        assert ("www-authenticate" in answer.headers) == (answer.status == 401)
    if case.status == 200:
        told = answer.json if answer.headers["content-type"] == JSON else {}
        assert len(told.get("data", [])) == case.pictures
    elif answer.body:
        check_envelope(case, answer)


def check_envelope(case: Case, answer: Answer) -> None:
    assert answer.headers["content-type"] == JSON
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (case.code, case.param), error["message"]
    # No exception's text, no address in memory, and no more of what was sent than fits into a line.
    assert 0 < len(error["message"]) < 1000
    assert not [word for word in ("Traceback", "0x7f", "object at", "Error(") if word in error["message"]]


def test_no_two_cases_have_the_same_name() -> None:
    names = [case.id for case in all_cases()]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_the_page_is_the_table_in_the_code() -> None:
    assert PAGE.read_text() == page()
