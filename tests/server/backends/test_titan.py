"""Guards Titan's words: bodies as AWS and LiteLLM have them, masks by the pixels in them, replies of all kinds."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.backends import titan
from server.backends.bedrock_replies import Share
from server.backends.capabilities import CAPABILITIES, TITAN_SIZES
from server.backends.trouble import Trouble
from server.core.request import RemoteRequest, Size
from tests.server.picture_files import BLACK, RED, WHITE, file_of, halves, plain, text_of
from tests.upstreams.bedrock_endpoint import pictures, said
from tests.upstreams.bedrock_requests import asked
from tests.upstreams.litellm_bodies import EDIT_CASES, EDIT_COMMON, IMAGE, PROMPT, TITAN_CASES

LITELLM = json.loads((Path(__file__).parents[2] / "upstreams" / "litellm_bodies.json").read_text())
SEED = 7
IMAGE_FILE = file_of(plain("RGB", (512, 512), RED))
HOLE = (100, 150, 300, 250)
# AWS's user guide, "Amazon Titan Image Generator G1 models", code examples.
AWS_CONFIG = {"numberOfImages": 1, "height": 512, "width": 512, "cfgScale": 8.0}
AWS_BODIES: dict[str, dict[str, Any]] = {
    "TEXT_IMAGE": {
        "taskType": "TEXT_IMAGE",
        "textToImageParams": {"text": "A photograph of a cup of coffee from the side."},
        "imageGenerationConfig": {"numberOfImages": 1, "height": 1024, "width": 1024, "cfgScale": 8.0, "seed": 0},
    },
    "INPAINTING": {
        "taskType": "INPAINTING",
        "inPaintingParams": {
            "text": "Modernize the windows of the house",
            "negativeText": "bad quality, low res",
            "image": "...",
            "maskImage": "...",
        },
        "imageGenerationConfig": AWS_CONFIG,
    },
    "OUTPAINTING": {
        "taskType": "OUTPAINTING",
        "outPaintingParams": {
            "text": "Draw a chocolate chip cookie",
            "negativeText": "bad quality, low res",
            "image": "...",
            "maskImage": "...",
            "outPaintingMode": "PRECISE",
        },
        "imageGenerationConfig": AWS_CONFIG,
    },
    "IMAGE_VARIATION": {
        "taskType": "IMAGE_VARIATION",
        "imageVariationParams": {
            "text": "Modernize the house, photo-realistic, 8k, hdr",
            "negativeText": "bad quality, low resolution, cartoon",
            "images": ["..."],
            "similarityStrength": 0.7,
        },
        "imageGenerationConfig": AWS_CONFIG,
    },
}


def mask_file(*changed: tuple[int, int, int, int], size: tuple[int, int] = (512, 512)) -> bytes:
    """White but for these boxes, which are black: where the picture is to change."""
    mask = plain("RGB", size, WHITE)
    for box in changed:
        mask.paste(BLACK, box)
    return file_of(mask)


def body_of(request: RemoteRequest, count: int = 1, seed: int = SEED) -> dict[str, Any]:
    """As it is sent."""
    sent: dict[str, Any] = json.loads(json.dumps(titan.body(request, Share(count, seed))))
    return sent


def picture_in(params: dict[str, Any], name: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(params[name])))


def without_pictures(body: dict[str, Any]) -> dict[str, Any]:
    """Pictures as AWS's examples show them."""
    names = ("image", "maskImage", "images")
    return {
        key: {name: ["..."] if name == "images" else "..." if name in names else one for name, one in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in body.items()
    }


@pytest.mark.parametrize("task", AWS_BODIES)
def test_a_body_is_as_in_awss_examples(task: str) -> None:
    example = AWS_BODIES[task]
    params = next(value for name, value in example.items() if name.endswith("Params"))
    config = example["imageGenerationConfig"]
    masks = {"INPAINTING": mask_file(HOLE), "OUTPAINTING": mask_file((400, 0, 512, 512))}
    request = asked(
        size=f"{config['width']}x{config['height']}",
        prompt=params["text"],
        negative_prompt=params.get("negativeText"),
        guidance_scale=config["cfgScale"],
        image=None if task == "TEXT_IMAGE" else IMAGE_FILE,
        mask=masks.get(task),
        strength=0.3 if "similarityStrength" in params else None,
    )
    # What the examples leave to Titan is told: the quality has its price, and without a seed all pictures are one.
    told = {"quality": "standard", "seed": SEED}
    assert without_pictures(body_of(request)) == example | {"imageGenerationConfig": config | told}


@pytest.mark.parametrize("name", TITAN_CASES)
def test_a_body_is_what_litellm_sends(name: str) -> None:
    case = TITAN_CASES[name]
    request = asked(
        size=case["size"],
        prompt=PROMPT,
        asked_quality=case["quality"],
        negative_prompt=case.get("negativeText"),
        count=case["n"],
    )
    body = body_of(request, case["n"])
    assert body["imageGenerationConfig"].pop("seed") == SEED
    assert body == LITELLM["titan"][name]


@pytest.mark.parametrize("name", EDIT_CASES)
def test_a_body_with_a_picture_is_what_litellm_sends_to_titans_successor(name: str) -> None:
    case = EDIT_CASES[name]
    similarity = case.get("similarityStrength")
    masks = {"INPAINTING": mask_file(HOLE), "OUTPAINTING": mask_file((0, 0, 512, 40))}
    request = asked(
        size="512x512",
        prompt=PROMPT,
        asked_quality=EDIT_COMMON["quality"],
        guidance_scale=EDIT_COMMON["cfgScale"],
        negative_prompt=EDIT_COMMON["negativeText"],
        image=IMAGE,
        mask=masks[case["taskType"]] if "mask" in case else None,
        strength=None if similarity is None else 1 - similarity,
    )
    body, wanted = body_of(request), LITELLM["edits"][name]
    for params in (value for value in (*body.values(), *wanted.values()) if isinstance(value, dict)):
        params.pop("maskImage", None)  # ours is a real one
    assert body == wanted


def test_a_variation_without_a_prompt_has_no_text() -> None:
    body = body_of(asked(size="512x512", operation="variation", prompt="", image=IMAGE_FILE))
    assert body["taskType"] == "IMAGE_VARIATION"
    assert body["imageVariationParams"] == {"images": [text_of(IMAGE_FILE)]}


@pytest.mark.parametrize("size", TITAN_SIZES, ids=str)
def test_each_of_the_25_sizes_is_asked_for_as_it_is(size: Size) -> None:
    assert CAPABILITIES["titan"].drawn_size(size) == size
    config = body_of(asked(size=str(size)))["imageGenerationConfig"]
    assert (config["width"], config["height"]) == (size.width_px, size.height_px)


def test_there_are_25_sizes() -> None:
    assert len(set(TITAN_SIZES)) == 25


@settings(deadline=None)
@given(st.integers(8, 256), st.integers(8, 256))
def test_any_other_size_is_drawn_in_the_nearest_shape(width_multiple: int, height_multiple: int) -> None:
    wanted = Size(8 * width_multiple, 8 * height_multiple)
    drawn = CAPABILITIES["titan"].drawn_size(wanted)
    assert drawn in TITAN_SIZES

    def distance(size: Size) -> float:
        ratio = size.width_px * wanted.height_px / (size.height_px * wanted.width_px)
        return max(ratio, 1 / ratio)

    assert distance(drawn) <= min(map(distance, TITAN_SIZES)) + 0.001
    alike = [one for one in TITAN_SIZES if abs(distance(one) - distance(drawn)) < 1e-9]
    enough = [one for one in alike if one.width_px >= wanted.width_px and one.height_px >= wanted.height_px]
    if enough and drawn != wanted:
        assert drawn.width_px * drawn.height_px <= min(one.width_px * one.height_px for one in enough)


@pytest.mark.parametrize(
    ("quality", "word"),
    [
        *((quality, "premium") for quality in ("hd", "high", "xhigh", "max")),
        *((quality, "standard") for quality in ("standard", "low", "medium", "auto", None)),
    ],
)
def test_the_better_qualities_are_premium(quality: str | None, word: str) -> None:
    assert body_of(asked(asked_quality=quality))["imageGenerationConfig"]["quality"] == word


@settings(deadline=None)
@given(st.floats(0, 1, exclude_min=True))
def test_the_more_strength_the_less_similarity_within_titans_range(strength: float) -> None:
    def similarity(asked_strength: float) -> float:
        request = asked(size="512x512", image=IMAGE_FILE, strength=asked_strength)
        found: float = body_of(request)["imageVariationParams"]["similarityStrength"]
        return found

    assert similarity(strength) == pytest.approx(min(max(1 - strength, 0.2), 1.0), abs=1e-6)
    assert similarity(1.0) <= similarity(strength) <= similarity(0.01) + 0.01


def test_an_inpainting_mask_is_black_where_the_picture_may_change() -> None:
    body = body_of(asked(size="512x512", image=IMAGE_FILE, mask=mask_file(HOLE)))
    mask = picture_in(body["inPaintingParams"], "maskImage")
    assert (mask.mode, mask.size) == ("RGB", (512, 512))
    assert mask.getpixel((HOLE[0], HOLE[1])) == mask.getpixel((HOLE[2] - 1, HOLE[3] - 1)) == BLACK
    assert mask.getpixel((HOLE[0] - 1, HOLE[1])) == mask.getpixel((HOLE[2], HOLE[3])) == WHITE
    assert picture_in(body["inPaintingParams"], "image").getpixel((0, 0)) == RED


def test_an_outpainting_mask_is_black_where_the_picture_stays() -> None:
    body = body_of(asked(size="512x512", image=IMAGE_FILE, mask=mask_file((0, 0, 512, 100))))
    params = body["outPaintingParams"]
    mask = picture_in(params, "maskImage")
    assert mask.getpixel((5, 99)) == WHITE
    assert mask.getpixel((5, 100)) == BLACK
    # Otherwise Titan may change what was to stay.
    assert params["outPaintingMode"] == "PRECISE"


def test_a_mask_that_is_sent_has_no_greys() -> None:
    grey = file_of(halves((512, 512), (127, 127, 127), (128, 128, 128)))
    mask = picture_in(body_of(asked(size="512x512", image=IMAGE_FILE, mask=grey))["outPaintingParams"], "maskImage")
    assert sorted(count for count, _ in mask.getcolors() or ()) == [512 * 256] * 2
    assert mask.getpixel((0, 0)) == WHITE


W, H = 1152, 768


@pytest.mark.parametrize(
    ("task", "changed"),
    [
        ("OUTPAINTING", [(0, 0, W, 1)]),
        ("OUTPAINTING", [(0, H - 1, W, H)]),
        ("OUTPAINTING", [(0, 0, 1, H)]),
        ("OUTPAINTING", [(W - 1, 0, W, H)]),
        ("OUTPAINTING", [(0, 0, W, 200), (0, 0, 300, H)]),
        ("OUTPAINTING", [(0, 0, 500, H), (501, 0, W, H)]),
        ("INPAINTING", [(400, 300, 500, 400)]),
        ("INPAINTING", [(0, 0, W - 1, 300)]),
        ("INPAINTING", [(0, 0, 300, 300), (W - 300, H - 300, W, H)]),
        ("INPAINTING", [(0, 300, W, 400)]),
        ("INPAINTING", [(500, 0, 600, H)]),
        ("INPAINTING", [(0, 0, W, H)]),
        ("INPAINTING", []),
    ],
)
def test_a_mask_that_asks_for_a_whole_edge_continues_the_picture(
    task: str, changed: list[tuple[int, int, int, int]]
) -> None:
    """All others, those included that keep nothing, are holes to be filled."""
    mask = mask_file(*changed, size=(W, H))
    assert body_of(asked(size=f"{W}x{H}", image=IMAGE_FILE, mask=mask))["taskType"] == task


@settings(deadline=None)
@given(st.data())
def test_what_stays_is_told_to_stay_whichever_the_task(data: st.DataObject) -> None:
    """Black is what changes in an inpainting, and what stays in an outpainting."""
    sides = st.tuples(st.integers(0, 16), st.integers(0, 16)).map(sorted)
    (left, right), (top, bottom) = data.draw(sides), data.draw(sides)
    size = (16, 16)
    mask = mask_file((left, top, right, bottom), size=size)
    body = body_of(asked(size="512x512", image=IMAGE_FILE, mask=mask))
    is_out = body["taskType"] == "OUTPAINTING"
    sent = picture_in(body["outPaintingParams" if is_out else "inPaintingParams"], "maskImage")
    for place in ((x, y) for x in range(16) for y in range(16)):
        changes = left <= place[0] < right and top <= place[1] < bottom
        assert sent.getpixel(place) == (BLACK if changes != is_out else WHITE)


def test_with_a_seed_each_call_draws_one_picture_with_its_own() -> None:
    request = asked(seed=40, count=3)
    shares = [titan.share_of(request, first, 3 - first, spare_seed=5) for first in range(3)]
    assert shares == [Share(1, 40), Share(1, 41), Share(1, 42)]
    assert titan.share_of(asked(seed=2_147_483_646), 1, 1, spare_seed=5) == Share(1, 0)


def test_without_a_seed_up_to_five_pictures_come_of_one_call_and_a_random_one() -> None:
    assert titan.share_of(asked(count=4), 0, 4, spare_seed=99) == Share(4, 99)
    assert titan.share_of(asked(count=9), 0, 9, spare_seed=2**31) == Share(5, 1)


def test_a_picture_of_its_own_call_has_a_seed_and_those_of_one_call_have_none() -> None:
    one = titan.answer(pictures(b"a").body, Share(1, 40))
    two = titan.answer(pictures(b"a", b"b", error=None).body, Share(2, 40))
    assert [(picture.file, picture.seed) for picture in one.pictures] == [(b"a", 40)]
    assert [(picture.file, picture.seed) for picture in two.pictures] == [(b"a", None), (b"b", None)]


BLOCKED = (
    "The generated image(s) have been blocked by our content filters: they may conflict our AUP or AWS Responsible AI "
    "Policy."
)


@pytest.mark.parametrize("error", [None, BLOCKED])
def test_where_some_pictures_were_moderated_away_the_others_come(error: str | None) -> None:
    answer = titan.answer(pictures(b"a", b"b", error=error).body, Share(3, 1))
    assert [picture.file for picture in answer.pictures] == [b"a", b"b"]


def test_no_more_pictures_come_than_were_asked_for() -> None:
    assert len(titan.answer(pictures(b"a", b"b").body, Share(1, 1)).pictures) == 1


@pytest.mark.parametrize(
    ("cause", "reply"),
    [
        ("policy", said({"images": [], "error": BLOCKED}).body),
        ("policy", said({"error": BLOCKED}).body),
        ("failed", said({"images": None, "error": "Something went wrong"}).body),
        ("failed", pictures(b"a", error="Something went wrong").body),
        ("broken", said({"images": []}).body),
        ("broken", said({}).body),
        ("broken", said([]).body),
        ("broken", said({"images": "aGk="}).body),
        ("broken", said({"images": [None]}).body),
        ("broken", said({"images": [{}]}).body),
        ("broken", said({"images": ["a"]}).body),
        ("broken", said({"images": ["aGk=", "@@@@"]}).body),
        ("broken", said({"images": [""]}).body),
        ("broken", said({"images": ["aGk="], "error": 5}).body),
        ("broken", b""),
        ("broken", b"{"),
        ("broken", b'{"images": ["aGk='),
        ("broken", b"\xff\xfe"),
        ("broken", b"[" * 100_000),
        ("broken", b'{"x":' * 100_000),
    ],
)
def test_a_reply_without_usable_pictures_is_trouble_that_may_have_cost(cause: str, reply: bytes) -> None:
    with pytest.raises(Trouble) as caught:
        titan.answer(reply, Share(3, 1))
    assert caught.value.cause == cause
    assert caught.value.facts.is_charged
    assert "filters" not in caught.value.facts.detail
