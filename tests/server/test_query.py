"""Guards the reading of query strings: what is described is taken, everything else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from server.api.cursor import cursor_of, place_of
from server.api.query import MAX_VALUES, number, text, values_of, word
from server.core.errors import SafelightError

PARAMS = (
    number("start_time", 0, 1000, "", is_required=True),
    number("limit", 1, 31, ""),
    word("bucket_width", ("1m", "1d"), ""),
    text("models", "", is_list=True),
    word("sources", ("image.edit",), "", is_list=True),
    text("sizes", "", is_list=True, pattern="[0-9]+x[0-9]+", allowed="sizes"),
)


def read(query: str) -> dict[str, Any]:
    return values_of(QueryParams(query), PARAMS)


def refusal(query: str) -> tuple[str, str | None, str]:
    with pytest.raises(SafelightError) as caught:
        read(query)
    return caught.value.code, caught.value.param, caught.value.message


def test_both_forms_of_an_array_are_one_list_and_an_absent_parameter_is_absent() -> None:
    assert read("start_time=0") == {"start_time": 0}
    assert read("start_time=7&models=a&models[]=b&models%5B%5D=a") == {
        "start_time": 7,
        "models": frozenset({"a", "b"}),
    }


def test_an_unknown_parameter_is_refused_with_the_nearest_one() -> None:
    code, param, message = refusal("start_tme=0")
    assert (code, param) == ("unknown_parameter", "start_tme")
    assert "Did you mean 'start_time'?" in message
    assert refusal("start_time[]=0")[:2] == ("unknown_parameter", "start_time[]")


def test_a_required_parameter_that_is_absent_is_named() -> None:
    assert refusal("limit=3")[:2] == ("missing_required_parameter", "start_time")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start_time=", "start_time"),
        ("start_time=-1", "start_time"),
        ("start_time=1001", "start_time"),
        ("start_time=1.0", "start_time"),
        ("start_time=%D9%A1", "start_time"),  # a digit of another script
        ("start_time=99999999999999999999999999", "start_time"),
        ("start_time=1&start_time=1", "start_time"),
        ("start_time=1&limit=0", "limit"),
        ("start_time=1&limit=32", "limit"),
        ("start_time=1&bucket_width=1w", "bucket_width"),
        ("start_time=1&models=", "models"),
        ("start_time=1&models=a%00b", "models"),
        ("start_time=1&models=a%0Ab", "models"),
        ("start_time=1&models=%FF%00", "models"),
        ("start_time=1&models=" + "m" * 211, "models"),
        ("start_time=1" + "&models=m" * (MAX_VALUES + 1), "models"),
        ("start_time=1&sources=image.generation", "sources"),
        ("start_time=1&sizes=512", "sizes"),
        ("start_time=1&sizes=1x1%0A", "sizes"),
    ],
)
def test_a_wrong_value_is_refused_with_its_parameter(query: str, param: str) -> None:
    assert refusal(query)[:2] == ("invalid_parameter", param)


QUESTION = {"start_time": 1, "models": frozenset({"b", "a"}), "limit": 5}
places = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))


@given(places)
def test_a_cursor_comes_back_as_the_place_that_it_was(place: tuple[int, int]) -> None:
    cursor = cursor_of(place, "usage", QUESTION)
    assert place_of(cursor, "usage", {**QUESTION, "limit": 9, "page": cursor}) == place


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
def test_a_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(SafelightError) as caught:
        place_of(cursor, "usage", QUESTION)
    assert (caught.value.status, caught.value.param) == (400, "page")


@given(places, st.integers(0, 31), st.integers(1, 63))
def test_a_cursor_with_one_letter_changed_is_refused(place: tuple[int, int], at: int, by: int) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    cursor = cursor_of(place, "usage", QUESTION)
    changed = cursor[:at] + letters[(letters.index(cursor[at]) + by) % 64] + cursor[at + 1 :]
    with pytest.raises(SafelightError):
        place_of(changed, "usage", QUESTION)


def test_a_cursor_of_another_question_or_route_is_refused() -> None:
    cursor = cursor_of((1, 2), "usage", QUESTION)
    for path, question in (("costs", QUESTION), ("usage", {**QUESTION, "start_time": 2}), ("usage", {})):
        with pytest.raises(SafelightError):
            place_of(cursor, path, question)
