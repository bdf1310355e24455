"""Guards the words of Stability's models: bodies as AWS and LiteLLM have them, replies of all kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.backends import stability
from server.backends.bedrock_replies import Share
from server.backends.capabilities import STABILITY_SIZES, row_of
from server.backends.trouble import Trouble
from server.core.request import RemoteRequest, Size
from tests.upstreams.bedrock_endpoint import pictures, said
from tests.upstreams.bedrock_requests import CORE, SD35, ULTRA, asked
from tests.upstreams.litellm_bodies import IMAGE, PROMPT, REPLIES, STABILITY_CASES, STABILITY_IMAGE

LITELLM = json.loads((Path(__file__).parents[2] / "upstreams" / "litellm_bodies.json").read_text())


def body_of(request: RemoteRequest, first: int = 0) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(json.dumps(stability.body(request, stability.share_of(request, first, 1, 0))))
    return sent


@pytest.mark.parametrize("name", STABILITY_CASES)
def test_a_body_is_what_litellm_sends(name: str) -> None:
    case = STABILITY_CASES[name]
    size = str(STABILITY_SIZES[case["aspect_ratio"]])
    request = asked(CORE, size, prompt=PROMPT, seed=case.get("seed"), negative_prompt=case.get("negative_prompt"))
    assert body_of(request) == LITELLM["stability"][name]


def test_a_body_with_a_picture_is_what_litellm_sends() -> None:
    request = asked(
        SD35,
        prompt=PROMPT,
        image=IMAGE,
        seed=STABILITY_IMAGE["seed"],
        strength=STABILITY_IMAGE["strength"],
        negative_prompt=STABILITY_IMAGE["negative_prompt"],
    )
    assert body_of(request) == LITELLM["stability image"]


def test_a_picture_has_its_own_shape_and_needs_a_strength() -> None:
    body = body_of(asked(ULTRA, "1344x768", image=IMAGE))
    assert "aspect_ratio" not in body
    assert body["strength"] == 0.8


def test_without_a_seed_none_is_sent_and_with_one_each_picture_has_its_own() -> None:
    assert "seed" not in body_of(asked(CORE))
    assert [body_of(asked(CORE, seed=40), first)["seed"] for first in range(3)] == [40, 41, 42]
    assert stability.share_of(asked(CORE, count=4), 0, 4, spare_seed=9) == Share(1, None)


@pytest.mark.parametrize("ratio", STABILITY_SIZES)
def test_each_shape_is_asked_for_by_its_ratio(ratio: str) -> None:
    size = STABILITY_SIZES[ratio]
    assert body_of(asked(CORE, str(size)))["aspect_ratio"] == ratio
    wide, high = map(int, ratio.split(":"))
    assert size.width_px / size.height_px == pytest.approx(wide / high, rel=0.04)


@settings(deadline=None)
@given(st.integers(8, 256), st.integers(8, 256))
def test_any_other_size_is_drawn_in_the_nearest_shape(width_multiple: int, height_multiple: int) -> None:
    wanted = Size(8 * width_multiple, 8 * height_multiple)
    drawn = row_of("stability", CORE).drawn_size(wanted)
    assert drawn is not None

    def distance(size: Size) -> float:
        ratio = size.width_px * wanted.height_px / (size.height_px * wanted.width_px)
        return max(ratio, 1 / ratio)

    assert distance(drawn) <= min(map(distance, STABILITY_SIZES.values())) + 0.001
    assert body_of(asked(CORE, str(drawn)))["aspect_ratio"] in STABILITY_SIZES


@pytest.mark.parametrize("model", [ULTRA, SD35, "eu.stability.sd3-5-large-v1:0"])
def test_ultra_and_sd_35_start_from_a_picture_too(model: str) -> None:
    can = row_of("stability", model)
    assert can.tasks == {"text", "image"}
    assert "strength" in can.takes


@pytest.mark.parametrize("model", [CORE, "stability.something-new-v1:0"])
def test_core_and_what_nobody_knows_draw_from_words_alone(model: str) -> None:
    can = row_of("stability", model)
    assert can.tasks == {"text"}
    assert "strength" not in can.takes
    assert {"seed", "negative_prompt"} <= can.takes


def test_the_reply_names_the_seed() -> None:
    for seeds, seed in (([2130420379], 2130420379), (["7"], 7), ([], None), (["-7"], None), (["9" * 30], None)):
        answer = stability.answer(pictures(b"a", seeds=seeds, finish_reasons=[None]).body, Share(1, None))
        assert [(one.file, one.seed) for one in answer.pictures] == [(b"a", seed)]


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_read_as_litellm_reads_it(name: str) -> None:
    reply, theirs = json.dumps(REPLIES[name]).encode(), LITELLM["stability replies"][name]
    if isinstance(theirs, list):
        files = [picture.file for picture in stability.answer(reply, Share(1, None)).pictures]
        assert files == [b"one"]
        assert theirs == REPLIES[name]["images"]
    else:
        with pytest.raises(Trouble):
            stability.answer(reply, Share(1, None))


@pytest.mark.parametrize(
    ("cause", "reply"),
    [
        *(
            ("policy", said({"finish_reasons": [f"Filter reason: {what}"]}).body)
            for what in ("prompt", "output image", "input image")
        ),
        ("policy", pictures(b"a", finish_reasons=["Filter reason: output image"]).body),
        ("failed", said({"finish_reasons": ["Inference error"]}).body),
        ("failed", said({"finish_reasons": ["Something new"], "images": []}).body),
        ("broken", said({"finish_reasons": [None], "seeds": [1]}).body),
        ("broken", said({"finish_reasons": "no", "images": ["aGk="]}).body),
        ("broken", said({"images": [""]}).body),
        ("broken", said({"images": ["%"]}).body),
        ("broken", b"null"),
        ("broken", b""),
    ],
)
def test_a_reply_without_a_usable_picture_is_trouble(cause: str, reply: bytes) -> None:
    with pytest.raises(Trouble) as caught:
        stability.answer(reply, Share(1, None))
    assert caught.value.cause == cause
