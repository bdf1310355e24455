"""Guards the way from a form's parts to values: every client's spelling, numbers as numbers, nothing taken twice."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.forms import values_of
from server.api.multipart import Part
from server.core.errors import SafelightError


def text(name: str, content: str) -> Part:
    return Part(name, content.encode(), is_file=False)


def file(name: str, content: bytes = b"picture") -> Part:
    return Part(name, content, is_file=True)


def refusal(*parts: Part) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        values_of(parts)
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    return caught.value


@pytest.mark.parametrize("name", ["image", "image[]", "images", "images[]", "image%5B%5D"])
def test_every_spelling_of_an_image_means_the_image(name: str) -> None:
    assert values_of([file(name)]) == {"image": [b"picture"]}
    assert values_of([file(name, b"a"), file(name, b"b")]) == {"image": [b"a", b"b"]}


@pytest.mark.parametrize("name", ["mask", "mask[]"])
def test_both_spellings_of_a_mask_mean_the_mask(name: str) -> None:
    assert values_of([file(name)]) == {"mask": [b"picture"]}


@pytest.mark.parametrize(("one", "other"), [("image", "image[]"), ("images[]", "image"), ("mask", "mask[]")])
def test_two_spellings_in_one_form_are_refused(one: str, other: str) -> None:
    error = refusal(file(one), file(other))
    assert error.param == one.removesuffix("[]").replace("images", "image")
    assert "use one of them" in error.message


def test_an_image_may_come_as_text() -> None:
    assert values_of([text("image", "data:image/png;base64,AAAA")]) == {"image": ["data:image/png;base64,AAAA"]}


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("n", "2", 2),
        ("n", "-1", -1),
        ("n", "2.0", "2.0"),
        ("n", "0x2", "0x2"),
        ("n", "", ""),
        ("n", "9" * 5000, "9" * 5000),
        ("n", "\uff12", "\uff12"),
        ("seed", "18446744073709551615", 2**64 - 1),
        ("strength", "0.5", 0.5),
        ("strength", "1", 1.0),
        ("strength", "nan", "nan"),
        ("strength", "1e400", float("inf")),
        ("guidance_scale", "7.5e0", 7.5),
        ("guidance_scale", "inf", "inf"),
        ("stream", "true", True),
        ("stream", "false", False),
        ("stream", "True", "True"),
        ("stream", "1", "1"),
        ("prompt", "12", "12"),
        ("size", "512x512", "512x512"),
        ("unheard_of", "x", "x"),
    ],
)
def test_a_text_becomes_a_number_only_where_it_can_be_nothing_else(name: str, content: str, value: object) -> None:
    assert values_of([text(name, content)]) == {name: value}


def test_nested_objects_arrive_in_brackets() -> None:
    assert values_of([text("svg[model]", "x"), text("svg[effort]", "y")]) == {"svg": {"model": "x", "effort": "y"}}
    deep = [text("svg[model]", "x"), text("svg[reasoning][effort]", "none")]
    assert values_of(deep) == {"svg": {"model": "x", "reasoning": {"effort": "none"}}}


def test_a_markup_comes_as_a_file() -> None:
    assert values_of([file("markup")]) == {"markup": b"picture"}


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([text("n", "1"), text("n", "2")], "n"),
        ([text("svg[model]", "x"), text("svg[model]", "y")], "model"),
        ([text("svg", "x"), text("svg[model]", "y")], "model"),
        ([text("svg[model]", "x"), text("svg[model][effort]", "y")], "effort"),
        ([text("svg", "x"), text("svg[reasoning][effort]", "y")], "effort"),
        ([file("markup"), file("markup")], "markup"),
        ([file("prompt")], "prompt"),
        ([file("x" * 100)], None),
    ],
)
def test_what_stands_there_twice_or_as_a_file_is_refused(parts: list[Any], param: str | None) -> None:
    assert refusal(*parts).param == param
