"""Guards what is asked of each form of upstream: a table of what is sent, held against what OpenAI's SDK knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import ImageCreateVariationParams, ImageEditParams, ImageGenerateParams

from server.backends.openai_forms import Call, UnsendableRequest, call_for
from server.core.providers import FORMS_BY_KIND, Form
from server.core.request import Quality, Size
from tests.upstreams.openai_requests import MODELS, PNG, PNG_RGBA, remote_request

FORMS = FORMS_BY_KIND["openai"]
EVERYTHING: dict[str, Any] = {
    "negative_prompt": "fog",
    "asked_quality": "hd",
    "style": "vivid",
    "background": "transparent",
    "input_fidelity": "high",
    "moderation": "low",
    "seed": 41,
    "steps": 20,
    "guidance_scale": 6.5,
    "sampler": "euler",
    "strength": 0.5,
}
TEXT: dict[str, Any] = {"operation": "generation"}
IMAGE: dict[str, Any] = {"operation": "edit", "image": PNG_RGBA}
MASK = IMAGE | {"mask": PNG_RGBA}
VARIATION: dict[str, Any] = {"operation": "variation", "image": PNG_RGBA, "prompt": ""}
KNOBS: dict[str, Any] = {
    "seed": 43,
    "num_inference_steps": 20,
    "guidance_scale": 6.5,
    "negative_prompt": "fog",
    "sampler": "euler",
}
ASKED = {"prompt": "a red circle", "n": 1, "size": "1024x1024"}


def call(form: Form, first: int = 0, count: int = 1, **changes: Any) -> Call:
    return call_for(remote_request(form, **changes), form, first, count)


def refusal(form: Form, count: int = 1, **changes: Any) -> str:
    with pytest.raises(UnsendableRequest) as caught:
        call(form, 0, count, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("form", "task", "route", "fields", "extra"),
    [
        (
            "gpt-image",
            TEXT,
            "generations",
            ASKED | {"quality": "high", "background": "transparent", "moderation": "low", "output_format": "png"},
            {},
        ),
        (
            "gpt-image",
            IMAGE,
            "edits",
            ASKED | {"quality": "high", "background": "transparent", "output_format": "png"},
            {},
        ),
        (
            "gpt-image",
            MASK,
            "edits",
            ASKED | {"quality": "high", "background": "transparent", "output_format": "png"},
            {},
        ),
        (
            "dall-e-3",
            TEXT,
            "generations",
            ASKED | {"quality": "hd", "style": "vivid", "response_format": "b64_json"},
            {},
        ),
        ("dall-e-2", TEXT, "generations", ASKED | {"response_format": "b64_json"}, {}),
        ("dall-e-2", MASK, "edits", ASKED | {"response_format": "b64_json"}, {}),
        ("dall-e-2", VARIATION, "variations", {"n": 1, "size": "1024x1024", "response_format": "b64_json"}, {}),
        (
            "compatible",
            TEXT,
            "generations",
            ASKED
            | {
                "quality": "hd",
                "style": "vivid",
                "background": "transparent",
                "moderation": "low",
                "response_format": "b64_json",
            },
            KNOBS,
        ),
        (
            "compatible",
            MASK,
            "edits",
            ASKED
            | {
                "quality": "hd",
                "background": "transparent",
                "input_fidelity": "high",
                "response_format": "b64_json",
            },
            KNOBS | {"strength": 0.5},
        ),
        (
            "compatible",
            VARIATION,
            "variations",
            {"n": 1, "size": "1024x1024", "response_format": "b64_json"},
            KNOBS | {"strength": 0.5, "quality": "hd", "background": "transparent"},
        ),
    ],
)
def test_all_that_can_be_asked_for_is_sent_in_the_forms_own_words(
    form: Form, task: dict[str, Any], route: str, fields: dict[str, Any], extra: dict[str, Any]
) -> None:
    made = call(form, first=2, **{**EVERYTHING, **task})
    assert made.route == route
    assert made.fields == {"model": MODELS[form], **fields}
    assert made.extra == extra
    names = ("image",) if form == "dall-e-2" else ("image", "mask")
    assert dict(made.files) == {name: task[name] for name in names if name in task}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_said_is_not_sent(form: Form) -> None:
    expected = {"model": MODELS[form], **ASKED}
    expected |= {"output_format": "png"} if form == "gpt-image" else {"response_format": "b64_json"}
    assert call(form) == Call("generations", expected)


SDK_KEYS = {
    "generations": {key for one in get_args(ImageGenerateParams) for key in one.__annotations__},
    "edits": {key for one in get_args(ImageEditParams) for key in one.__annotations__},
    "variations": set(ImageCreateVariationParams.__annotations__),
}


@given(
    st.sampled_from(FORMS),
    st.sampled_from([TEXT, IMAGE, MASK, VARIATION]),
    st.sets(st.sampled_from(sorted(EVERYTHING))),
)
def test_every_field_is_one_that_the_sdk_has(form: Form, task: dict[str, Any], said: set[str]) -> None:
    changes = {name: EVERYTHING[name] for name in said} | task
    try:
        made = call(form, **changes)
    except UnsendableRequest:
        return
    assert set(made.fields) | set(made.files) <= SDK_KEYS[made.route]
    assert not set(made.fields) & set(made.extra)
    assert None not in [*made.fields.values(), *made.extra.values()]
    if form == "gpt-image":
        assert not {"response_format", "style", "seed"} & (set(made.fields) | set(made.extra))
    if form != "compatible":
        assert made.extra == {}


NEWER = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max", "auto": None}


@pytest.mark.parametrize(
    ("form", "model", "words"),
    [
        ("gpt-image", "gpt-image-2.5-flare", NEWER | {"standard": "medium", "hd": "high"}),
        ("gpt-image", "gpt-image-2.6-sunburst", NEWER | {"standard": "medium", "hd": "high"}),
        (
            "gpt-image",
            "gpt-image-2",
            NEWER | {"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"},
        ),
        (
            "gpt-image",
            "gpt-image-1.5",
            NEWER | {"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"},
        ),
        ("gpt-image", "pictures", NEWER | {"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"}),
        (
            "dall-e-3",
            "dall-e-3",
            {
                "auto": None,
                "low": "standard",
                "medium": "standard",
                "standard": "standard",
                **dict.fromkeys(("hd", "high", "xhigh", "max"), "hd"),
            },
        ),
        ("dall-e-2", "dall-e-2", dict.fromkeys(get_args(Quality))),
        ("compatible", "sdxl", {word: word for word in get_args(Quality)}),
    ],
)
def test_each_word_for_quality_becomes_the_models_own(form: Form, model: str, words: dict[str, str | None]) -> None:
    sent = {word: call(form, model=model, asked_quality=word).fields.get("quality") for word in get_args(Quality)}
    assert sent == words


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("gpt-image-1.5", "high", "high"),
        ("gpt-image-1.5", "low", "low"),
        ("gpt-image-1-mini", "high", None),
        ("gpt-image-1-mini", "low", "low"),
        ("gpt-image-2", "high", None),
        ("gpt-image-2.5-flare", "high", None),
        ("pictures", "high", None),
    ],
)
def test_fidelity_is_asked_only_of_models_that_know_it(model: str, asked: str, sent: str | None) -> None:
    assert call("gpt-image", **IMAGE, model=model, input_fidelity=asked).fields.get("input_fidelity") == sent


def test_the_size_that_is_drawn_is_asked_for_and_not_the_one_that_is_answered() -> None:
    made = call("gpt-image", size=Size(512, 512), drawn_size=Size(816, 816))
    assert made.fields["size"] == "816x816"


def test_a_picture_to_start_from_makes_an_edit_of_a_generation() -> None:
    assert call("gpt-image", operation="generation", image=PNG).route == "edits"


@pytest.mark.parametrize(("seed", "first", "sent"), [(0, 0, 0), (7, 3, 10), (2**64 - 1, 1, 0)])
def test_a_later_picture_is_drawn_with_the_seed_that_it_would_have_had(seed: int, first: int, sent: int) -> None:
    assert call("compatible", first, seed=seed).extra == {"seed": sent}


def test_a_strength_without_a_picture_means_nothing() -> None:
    assert "strength" not in call("compatible", strength=0.5).extra


@pytest.mark.parametrize(
    ("form", "task"),
    [
        ("gpt-image", VARIATION),
        ("dall-e-3", IMAGE),
        ("dall-e-3", MASK),
        ("dall-e-3", VARIATION),
        ("dall-e-2", IMAGE),
    ],
)
def test_what_a_form_cannot_do_is_not_sent(form: Form, task: dict[str, Any]) -> None:
    assert refusal(form, **task).startswith(f"the form {form} cannot do")


@pytest.mark.parametrize(("form", "count"), [("dall-e-3", 2), ("gpt-image", 11), ("dall-e-2", 0)])
def test_more_pictures_than_a_call_may_have_are_not_asked_for(form: Form, count: int) -> None:
    assert "pictures in a call" in refusal(form, count)


def test_dall_e_2_is_sent_the_picture_with_its_hole_as_one_file() -> None:
    assert call("dall-e-2", operation="edit", image=PNG, mask=PNG_RGBA).files == {"image": PNG_RGBA}
    assert call("dall-e-2", operation="variation", image=PNG).files == {"image": PNG}


@pytest.mark.parametrize("form", ["gpt-image", "dall-e-2", "compatible"])
def test_only_png_files_are_sent_and_masks_only_with_transparency(form: Form) -> None:
    assert "no PNG file with transparency" in refusal(form, **{**MASK, "mask": PNG})
    assert "the image is no PNG file" in refusal(form, **{**MASK, "image": b"GIF89a"})
    assert "no PNG file" in refusal(form, **{**MASK, "mask": PNG_RGBA[:20]})


def test_a_mask_or_a_variation_needs_a_picture() -> None:
    assert refusal("gpt-image", mask=PNG_RGBA) == "no picture to start from"
    assert refusal("compatible", operation="variation") == "no picture to start from"
    assert call("compatible", **VARIATION, mask=PNG_RGBA).files.keys() == {"image"}


def test_files_that_are_too_long_are_not_sent() -> None:
    assert "may have 4000000" in refusal("dall-e-2", **{**MASK, "image": PNG + bytes(4_000_000)})
    assert "may have 4000000" in refusal("gpt-image", **{**MASK, "mask": PNG_RGBA + bytes(4_000_000)})
    assert "may have 50000000" in refusal("gpt-image", **{**MASK, "image": PNG + bytes(50_000_000)})


def test_a_call_does_not_show_its_pictures() -> None:
    made = call("gpt-image", **MASK)
    assert "PNG" not in repr(made)
    assert "PNG" not in repr(replace(remote_request(), image=PNG))
