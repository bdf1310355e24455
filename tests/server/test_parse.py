"""Guards the only parse of a request: what comes out is complete and in range, every refusal names its parameter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from server.api.asked import default_response_format
from server.api.bodies import EditBody, GenerationBody, VariationBody, allowed_text
from server.api.parsed import Parsed
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.request import LocalRequest, Operation, Size
from tests.server.parts import parse_locally
from tests.server.picture_files import RED, file_of, plain, text_of

MODELS = """\
default_model: tiny
default_aliases: [dall-e-2, dall-e-3, gpt-image-1, "gpt-image-2.5-*", chatgpt-image-latest]
models:
  tiny:
    family: sdxl
    source: weights/tiny
    defaults: {size: 512x768, steps: 12, guidance_scale: 2.5, sampler: euler}
    limits: {min_side_px: 256, max_side_px: 1024, side_multiple_px: 16, max_pixels: 786432, max_n: 4, max_steps: 50,
             max_guidance_scale: 15}
    aliases: [little]
    price_usd: 0.25
    presets:
      quality: {hd: {steps: 40, guidance_scale: 6.0, sampler: ddim}}
      style: {vivid: {prompt: "vivid {prompt}!", negative_prompt: grey, guidance_scale: 9.0}}
    loras: {brush: {source: brush.safetensors}}
    controls: {canny: {source: canny}}
  broad:
    family: sdxl
    source: weights/broad
"""
INVALID, UNKNOWN, MISSING = "invalid_parameter", "unknown_parameter", "missing_required_parameter"
GIANT = 10**25


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path: Path = tmp_path_factory.mktemp("catalogue") / "models.yaml"
    path.write_text(MODELS, encoding="utf-8")
    return load_catalogue(path)


def parse_generation(values: dict[str, Any], catalogue: Catalogue) -> Parsed[LocalRequest]:
    return parse_locally("generation", values, catalogue)


def parse(catalogue: Catalogue, **values: Any) -> LocalRequest:
    return parse_generation({"prompt": "a red circle"} | values, catalogue).request


def refusal(catalogue: Catalogue, values: dict[str, Any]) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        parse_generation(values, catalogue)
    return caught.value


def rows(
    param: str, *values: object, status: int = 400, code: str = INVALID
) -> list[tuple[dict[str, Any], int, str, str]]:
    """Hostile values of one parameter, each beside a good prompt."""
    return [({"prompt": "x", param: value}, status, code, param) for value in values]


NO_TEXTS: tuple[object, ...] = (1, 1.5, True, [], ["x"], {}, {"x": "y"})
HOSTILE: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, MISSING, "prompt"),
    ({"n": 1}, 400, MISSING, "prompt"),
    ({"prompt": None}, 400, MISSING, "prompt"),
    *rows("prompt", "", " ", " \t\r\n", "\u3000\u00a0", "\0", "a\0b", "\ud800", "x\udfffy", *NO_TEXTS),
    *rows("prompt", "x" * 32_001, "x" * 1_000_000, "\U0001f600" * 32_001),
    *rows("n", 0, -1, 5, 11, GIANT, -GIANT, 1e9, 1.0, 1.5, math.nan, math.inf, "1", "", True, False, [], [1], {}),
    *rows("size", "", " ", "x", "512", "512x", "x512", "512X512", "512*512", "512x512x512", "512 x 512", " 512x512"),
    *rows("size", "512x512\n", "0x0", "0512x0512", "-512x512", "+512x512", "5e2x512", "512.0x512", "Auto", "AUTO"),
    *rows("size", "\uff15\uff11\uff12x512", "\u0665\u0661\u0662x512", "512\u00d7512", "\0", "\ud800", "\U0001f600"),
    *rows("size", "99999x99999", "100000x10000", "9" * 10_000 + "x1", "x" * 100_000),
    *rows("size", "240x512", "512x240", "1040x512", "512x1040", "1024x1024", "520x512", "512x513", "1x1"),
    *rows("size", 512, 512.0, True, [512, 512], {"width": 512}),
    *rows("seed", -1, 2**64, GIANT, -GIANT, 1.5, 1.0, 1e3, math.nan, math.inf, "42", "", True, False, [], {}),
    *rows("model", "unknown", "Tiny", "TINY", "tiny ", "", " ", "*", "gpt-image-3", status=404, code="model_not_found"),
    *rows("model", "../../etc/passwd", "/etc/passwd", "x" * 10_240, "\u00e9", status=404, code="model_not_found"),
    *rows("model", "\0", "tiny\0", "\ud800", *NO_TEXTS),
    *rows("steps", 0, -1, 51, 101, GIANT, -GIANT, 12.0, 1.5, math.nan, math.inf, "12", "", True, [], {}),
    *rows("num_inference_steps", 0, -1, 51, 101, GIANT, -GIANT, 12.0, 1.5, math.nan, math.inf, "12", "", True, [], {}),
    ({"prompt": "x", "steps": 5, "num_inference_steps": 5}, 400, INVALID, "steps"),
    *rows("guidance_scale", -1, -0.01, 15.01, 16, GIANT, 1e308, math.nan, math.inf, -math.inf, "5", "", True, [], {}),
    *rows("negative_prompt", "\0", "\ud800", "x" * 32_001, *NO_TEXTS),
    *rows("response_format", "", "URL", "png", "b64", "url ", *NO_TEXTS),
    *rows("user", "\0", "\ud800", *NO_TEXTS),
    *rows("quality", "", "ultra", "HD", *NO_TEXTS),
    *rows("style", "", "anime", *NO_TEXTS),
    *rows("background", "", "transparent", *NO_TEXTS),
    *rows("output_format", "", "jpg", "gif", "svg", "PNG", *NO_TEXTS),
    *rows("output_compression", -1, 101, GIANT, 50.0, math.nan, "50", True, [], {}),
    *rows("moderation", "", "none", *NO_TEXTS),
    *rows("safety_identifier", "\0", "\ud800", *NO_TEXTS),
    *rows("stream", "false", "", 1, 0, 0.0, [], {}),
    *rows("partial_images", 4, -1, GIANT, "0", "", True, False, 0.0, [], {}),
    *rows("provider", "", "openai", "bedrock", "LOCAL", "x", *NO_TEXTS),
    *rows("input_fidelity", "", "high", "low", "medium", *NO_TEXTS),
    *rows("complexity", "", "max", *NO_TEXTS),
    *rows("frame_count", 1, 17, "2", 2.0, True, [], {}),
    *rows("frame_duration_ms", 0, -1, "2", 2.0, True, [], {}),
    *rows("svg", "", 1, True, [], ["x"]),
    *rows("promt", "x", code=UNKNOWN),
    *rows("width", 512, code=UNKNOWN),
    *rows("images", "data:,", code=UNKNOWN),
    *rows("image", 1, 1.5, True, [1], [["x"]], {}, {"x": "y"}, {"image_url": 1}, {"image_url": "x", "file_id": "y"}),
    *rows("image", ["x", "y"], [{"image_url": "x"}, "y"], [None]),
    *rows("image", [], code=MISSING),
    *rows("mask", "data:,", "", "x", *NO_TEXTS),
    *rows("strength", 0, 0.5, 1, 1.01, -1, math.nan, math.inf, "0.5", "", True, [], {}),
    *rows("sampler", "", "Euler", "flow_euler", "\0", "\ud800", "x" * 10_240, *NO_TEXTS),
    *rows("Prompt", "x", code=UNKNOWN),
    *rows("__class__", "x", code=UNKNOWN),
    *rows("model_config", {}, code=UNKNOWN),
    *rows("", 1, code=UNKNOWN),
]


def named(row: object) -> str | None:
    return json.dumps(row)[:60] if isinstance(row, dict) else None


@pytest.mark.parametrize(("values", "status", "code", "param"), HOSTILE, ids=named)
def test_a_hostile_value_is_refused_by_the_name_of_its_parameter(
    catalogue: Catalogue, values: dict[str, Any], status: int, code: str, param: str
) -> None:
    error = refusal(catalogue, values)
    assert (error.status, error.code, error.param) == (status, code, param)
    sent = json.dumps(error.body(), ensure_ascii=False).encode("utf-8")
    assert len(sent) < 1_500
    assert error.message.isascii()
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("promt", "'prompt'"),
        ("num_inference_step", "'num_inference_steps'"),
        ("guidance", "'guidance_scale'"),
        ("responseformat", "'response_format'"),
        ("negativeprompt", "'negative_prompt'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(catalogue: Catalogue, name: str, hint: str) -> None:
    assert refusal(catalogue, {"prompt": "x", name: 1}).message.endswith(f"Did you mean {hint}?")


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "\u202e", "a\nb"])
def test_an_unknown_key_that_is_no_text_is_refused_without_param(catalogue: Catalogue, name: str) -> None:
    error = refusal(catalogue, {"prompt": "x", name: 1})
    assert (error.status, error.code, error.param) == (400, UNKNOWN, None)
    assert error.message.isascii()


def test_a_giant_unknown_key_is_not_sent_back_in_full(catalogue: Catalogue) -> None:
    error = refusal(catalogue, {"prompt": "x", "k" * 1_000_000: 1})
    assert error.code == UNKNOWN
    assert len(json.dumps(error.body())) < 1_000


def test_an_unknown_model_is_refused_with_the_nearest_known_one(catalogue: Catalogue) -> None:
    assert "Did you mean 'tiny'?" in refusal(catalogue, {"prompt": "x", "model": "tinny"}).message


def test_a_size_is_refused_with_what_is_allowed(catalogue: Catalogue) -> None:
    message = refusal(catalogue, {"prompt": "x", "size": "1024x1024"}).message
    assert "'1024x1024'" in message
    assert "'512x512'" in message
    assert "'auto'" in message
    assert "multiples of 16" in message
    assert "786432 pixels" in message


@pytest.mark.parametrize(
    ("values", "words"),
    [({"n": 5}, "1 to 4"), ({"steps": 51}, "1 to 50"), ({"guidance_scale": 15.5}, "0 to 15")],
)
def test_a_models_own_limit_is_named_in_the_refusal(catalogue: Catalogue, values: dict[str, Any], words: str) -> None:
    assert words in refusal(catalogue, {"prompt": "x"} | values).message


@pytest.mark.parametrize("name", GenerationBody.model_fields)
def test_a_refusal_of_a_wrong_type_says_what_is_allowed(catalogue: Catalogue, name: str) -> None:
    error = refusal(catalogue, {"prompt": "x"} | {name: [[]] if name != "loras" else {}})
    assert error.param == name
    assert allowed_text(GenerationBody, name) in error.message


@pytest.mark.parametrize("body", [GenerationBody, EditBody, VariationBody])
def test_what_is_allowed_is_written_down_for_every_field(body: type[GenerationBody]) -> None:
    assert all(allowed_text(body, name) for name in body.model_fields)


PICTURE = text_of(file_of(plain("RGB", (512, 768), RED)))
# What a parameter says nothing without.
BESIDE: dict[str, dict[str, Any]] = {
    "mask": {"image": PICTURE},
    "strength": {"image": PICTURE},
    "input_fidelity": {"image": PICTURE},
    "partial_images": {"stream": True},
    "output_compression": {"output_format": "jpeg"},
    **{name: {"control_image": PICTURE} for name in ("control", "control_scale", "control_start", "control_end")},
}
# One accepted value of each parameter, different from what the model does by default.
ACCEPTED: dict[str, Any] = {
    "prompt": "a blue square",
    "model": "broad",
    "n": 2,
    "size": "256x256",
    "response_format": "b64_json",
    "user": "somebody",
    "local_only": True,
    "seed": 8,
    "num_inference_steps": 5,
    "steps": 6,
    "guidance_scale": 3.5,
    "negative_prompt": "text",
    "sampler": "ddim",
    "image": PICTURE,
    "mask": text_of(file_of(plain("L", (512, 768), 255))),
    "strength": 0.6,
    "quality": "hd",
    "style": "vivid",
    "background": "opaque",
    "output_format": "webp",
    "output_compression": 50,
    "moderation": "low",
    "safety_identifier": "somebody",
    "stream": True,
    "partial_images": 2,
    "provider": "local",
    "input_fidelity": "high",
    "complexity": "low",
    "frame_count": 2,
    "frame_duration_ms": 5,
    "svg": {"model": "x"},
    "loras": [{"name": "brush", "scale": 0.5}],
    "control": "canny",
    "control_image": PICTURE,
    "control_scale": 0.5,
    "control_start": 0.25,
    "control_end": 0.75,
}
# What says no more than what happens anyway, or what nobody expects to change a picture.
NEEDS_NO_MENTION = {"user", "background", "provider", "control", "local_only"}
WITHOUT_EFFECT = {"moderation", "safety_identifier", "complexity", "frame_count", "frame_duration_ms", "svg"}


def told(parsed: Parsed[LocalRequest]) -> tuple[object, ...]:
    """All that somebody acts on."""
    asked = parsed.asked
    return parsed.request, parsed.asked_size, asked.image, asked.mask, asked.hint, asked.is_stream


def test_exactly_the_fields_that_change_nothing_are_listed_as_without_effect(catalogue: Catalogue) -> None:
    assert set(ACCEPTED) == set(GenerationBody.model_fields)
    idle = set()
    for name, value in ACCEPTED.items():
        others = {"prompt": "a red circle", "seed": 7} | BESIDE.get(name, {})
        with_it = parse_generation(others | {name: value}, catalogue)
        if told(with_it) == told(parse_generation(others, catalogue)):
            idle.add(name)
    assert idle == WITHOUT_EFFECT | NEEDS_NO_MENTION


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_parameter_is_reported_as_ignored_exactly_when_it_has_no_effect(catalogue: Catalogue, name: str) -> None:
    values = {"prompt": "x", name: ACCEPTED[name]} | BESIDE.get(name, {})
    ignored = parse_generation(values, catalogue).ignored
    assert ignored == ((name,) if name in WITHOUT_EFFECT else ())


def test_ignored_parameters_are_reported_in_one_order_and_without_nulls(catalogue: Catalogue) -> None:
    values: dict[str, Any] = {"prompt": "x", "style": "natural", "moderation": None, "svg": {}, "quality": "low"}
    assert parse_generation(values, catalogue).ignored == ("quality", "svg", "style")


@pytest.mark.parametrize("quality", ["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"])
def test_every_quality_of_openais_is_accepted_and_told_where_it_does_nothing(
    catalogue: Catalogue, quality: str
) -> None:
    parsed = parse_generation({"prompt": "x", "quality": quality}, catalogue)
    does_more = quality in ("hd", "high", "xhigh", "max")
    assert parsed.request.steps == (40 if does_more else 12)
    assert parsed.ignored == (("quality",) if quality == "low" else ())


@pytest.mark.parametrize(("quality", "told"), [("high", "high"), ("low", "low"), ("hd", None), ("auto", None)])
def test_a_quality_is_echoed_only_in_words_that_strict_clients_know(
    catalogue: Catalogue, quality: str, told: str | None
) -> None:
    assert parse(catalogue, quality=quality).quality == told


def test_what_is_asked_for_wins_over_presets_and_a_style_over_a_quality(catalogue: Catalogue) -> None:
    both = parse(catalogue, quality="hd", style="vivid")
    assert (both.steps, both.sampler, both.guidance_scale, both.negative_prompt) == (40, "ddim", 9.0, "grey")
    own = {"steps": 3, "sampler": "heun", "guidance_scale": 2.0, "negative_prompt": "x"}
    asked = parse(catalogue, quality="hd", style="vivid", **own)
    assert (asked.steps, asked.sampler, asked.guidance_scale, asked.negative_prompt) == (3, "heun", 2.0, "x")


def test_a_style_changes_the_prompt_that_is_drawn_and_keeps_the_one_that_was_sent(catalogue: Catalogue) -> None:
    request = parse(catalogue, prompt="a {prompt} here", style="vivid")
    assert (request.prompt, request.sent_prompt) == ("vivid a {prompt} here!", "a {prompt} here")


def test_high_fidelity_keeps_more_of_the_image_and_an_asked_strength_wins(catalogue: Catalogue) -> None:
    low, high = (parse(catalogue, image=PICTURE, input_fidelity=word) for word in ("low", "high"))
    assert high.strength < low.strength
    parsed = parse_generation({"prompt": "x", "image": PICTURE, "input_fidelity": "high", "strength": 0.9}, catalogue)
    assert (parsed.request.strength, parsed.ignored) == (0.9, ("input_fidelity",))


def test_a_mask_has_all_that_may_change_drawn_anew(catalogue: Catalogue) -> None:
    assert parse(catalogue, image=PICTURE, mask=PICTURE).strength == 1.0


def test_partial_images_are_for_streams(catalogue: Catalogue) -> None:
    plain = parse_generation({"prompt": "x", "partial_images": 3}, catalogue)
    assert (plain.request.partial_images, plain.asked.is_stream, plain.ignored) == (0, False, ("partial_images",))
    streamed = parse_generation({"prompt": "x", "partial_images": 3, "stream": True}, catalogue)
    assert (streamed.request.partial_images, streamed.asked.is_stream, streamed.ignored) == (3, True, ())


def test_transparency_is_refused_with_the_reason(catalogue: Catalogue) -> None:
    assert "paints every pixel" in refusal(catalogue, {"prompt": "x", "background": "transparent"}).message


@pytest.mark.parametrize(
    "image", [PICTURE, [PICTURE], {"image_url": PICTURE}, [{"image_url": PICTURE}], b"file", [b"file"]]
)
def test_one_picture_comes_in_every_form_of_the_wire(catalogue: Catalogue, image: object) -> None:
    source = parse_generation({"prompt": "x", "image": image}, catalogue).asked.image
    assert source == (b"file" if source == b"file" else PICTURE)


def test_several_pictures_are_refused_with_the_reason(catalogue: Catalogue) -> None:
    for several in ([b"a", b"b"], [PICTURE, PICTURE]):
        error = refusal(catalogue, {"prompt": "x", "image": several})
        assert error.param == "image"
        assert "2 pictures were sent" in error.message


@pytest.mark.parametrize("values", [{"images": [{"image_url": PICTURE}]}, {"image": PICTURE}, {"image": [b"file"]}])
def test_an_edit_names_its_picture_in_openais_form_or_in_ours(catalogue: Catalogue, values: dict[str, Any]) -> None:
    request = parse_locally("edit", {"prompt": "x"} | values, catalogue).request
    assert (request.operation, request.response_format) == ("edit", "b64_json")


@pytest.mark.parametrize("markup", [b"file", PICTURE])
def test_a_markup_is_accepted_and_reported_as_ignored(catalogue: Catalogue, markup: object) -> None:
    assert parse_locally("edit", {"prompt": "x", "image": PICTURE, "markup": markup}, catalogue).ignored == ("markup",)


@pytest.mark.parametrize("operation", ["edit", "variation"])
def test_an_edit_or_a_variation_without_a_picture_is_refused(catalogue: Catalogue, operation: Operation) -> None:
    values: dict[str, Any] = {"prompt": "x"} if operation == "edit" else {}
    with pytest.raises(SafelightError) as caught:
        parse_locally(operation, values, catalogue)
    assert (caught.value.code, caught.value.param) == (MISSING, "image")


def test_an_edit_with_both_names_of_its_picture_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(SafelightError, match="mean the same"):
        parse_locally("edit", {"prompt": "x", "image": PICTURE, "images": [PICTURE]}, catalogue)


def test_a_variation_has_an_empty_prompt_and_a_strength_of_its_own(catalogue: Catalogue) -> None:
    request = parse_locally("variation", {"image": b"file"}, catalogue).request
    assert (request.prompt, request.response_format, request.strength) == ("", "url", 0.6)
    with pytest.raises(SafelightError) as caught:
        parse_locally("variation", {"image": b"file", "prompt": "x"}, catalogue)
    assert caught.value.code == UNKNOWN


def test_a_webp_file_has_no_more_pixels_a_side_than_the_format_can(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    limits = "{max_side_px: 16384, max_pixels: 50000000}"
    path.write_text(f"default_model: wide\nmodels: {{wide: {{family: sdxl, source: x, limits: {limits}}}}}\n")
    values = {"prompt": "x", "size": "16384x1024", "output_format": "webp"}
    with pytest.raises(SafelightError) as caught:
        parse_locally("generation", values, load_catalogue(path))
    assert caught.value.param == "output_format"


def test_a_bare_prompt_gets_the_default_models_defaults(catalogue: Catalogue) -> None:
    request = parse(catalogue)
    assert request == LocalRequest(
        operation="generation",
        model="tiny",
        family="sdxl",
        prompt="a red circle",
        sent_prompt="a red circle",
        negative_prompt=None,
        count=1,
        size=Size(512, 768),
        steps=12,
        guidance_scale=2.5,
        sampler="euler",
        seed=request.seed,
        response_format="url",
        price_usd=0.25,
    )


def test_every_value_that_is_given_comes_out(catalogue: Catalogue) -> None:
    request = parse(
        catalogue,
        model="little",
        n=4,
        size="1024x768",
        response_format="b64_json",
        seed=42,
        steps=50,
        guidance_scale=15,
        negative_prompt="text",
    )
    assert (request.model, request.prompt, request.negative_prompt) == ("tiny", "a red circle", "text")
    assert (request.count, request.size, request.steps, request.guidance_scale) == (4, Size(1024, 768), 50, 15.0)
    assert (request.sampler, request.seed, request.response_format) == ("euler", 42, "b64_json")
    assert isinstance(request.guidance_scale, float)


def test_null_means_not_given(catalogue: Catalogue) -> None:
    nulls = dict.fromkeys(GenerationBody.model_fields) | {"prompt": "x", "seed": 1}
    assert parse_generation(nulls, catalogue) == parse_generation({"prompt": "x", "seed": 1}, catalogue)


def test_limits_and_defaults_are_those_of_the_chosen_model(catalogue: Catalogue) -> None:
    request = parse(catalogue, model="broad", n=10, size="2048x2048", steps=100)
    assert (request.model, request.count, request.size, request.steps) == ("broad", 10, Size(2048, 2048), 100)


@pytest.mark.parametrize(
    ("name", "model"),
    [("tiny", "tiny"), ("little", "tiny"), ("broad", "broad"), ("dall-e-3", "tiny"), ("gpt-image-2.5-flare", "tiny")],
)
def test_ids_and_aliases_mean_their_model(catalogue: Catalogue, name: str, model: str) -> None:
    assert parse(catalogue, model=name).model == model


def test_auto_is_the_models_default_size(catalogue: Catalogue) -> None:
    assert parse(catalogue, size="auto").size == Size(512, 768)
    assert parse(catalogue, size="auto", model="broad").size == Size(1024, 1024)


@pytest.mark.parametrize("size", ["256x256", "256x1024", "1024x256", "1024x768", "272x512"])
def test_a_size_at_the_edge_of_the_limits_is_accepted(catalogue: Catalogue, size: str) -> None:
    assert str(parse(catalogue, size=size).size) == size


@pytest.mark.parametrize("name", ["steps", "num_inference_steps"])
def test_both_names_of_the_steps_mean_the_same(catalogue: Catalogue, name: str) -> None:
    assert parse(catalogue, **{name: 7}).steps == 7


@pytest.mark.parametrize("scale", [0, 0.0, 1, 2.5, 15, 15.0])
def test_a_guidance_scale_within_the_limits_is_accepted(catalogue: Catalogue, scale: float) -> None:
    assert parse(catalogue, guidance_scale=scale).guidance_scale == scale


@pytest.mark.parametrize("prompt", ["x", "\U0001f600" * 32_000, "x" * 32_000, " x\n", "\u5706", "e\u0301", "\u200d"])
def test_a_prompt_comes_out_as_it_was_written(catalogue: Catalogue, prompt: str) -> None:
    assert parse(catalogue, prompt=prompt).prompt == prompt


def test_an_empty_negative_prompt_is_accepted(catalogue: Catalogue) -> None:
    assert parse(catalogue, negative_prompt="").negative_prompt == ""


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_a_seed_of_64_bits_comes_out_exactly(catalogue: Catalogue, seed: int) -> None:
    assert parse(catalogue, seed=seed).seed == seed


def test_each_picture_has_the_next_seed_and_the_last_wraps_around(catalogue: Catalogue) -> None:
    request = parse(catalogue, seed=2**64 - 2, n=4)
    assert [request.seed_of(index) for index in range(4)] == [2**64 - 2, 2**64 - 1, 0, 1]


def test_a_seed_that_was_not_given_is_random(catalogue: Catalogue) -> None:
    seeds = {parse(catalogue).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**64 for seed in seeds)


FORMATS = [
    (None, "url"),
    ("tiny", "url"),
    ("little", "url"),
    ("dall-e-2", "url"),
    ("dall-e-3", "url"),
    ("gpt-image-1", "b64_json"),
    ("gpt-image-2.5-flare", "b64_json"),
    ("chatgpt-image-latest", "b64_json"),
]


@pytest.mark.parametrize(("name", "response_format"), FORMATS)
def test_the_response_format_follows_the_name_that_the_caller_used(
    catalogue: Catalogue, name: str | None, response_format: str
) -> None:
    assert parse(catalogue, model=name).response_format == response_format


@pytest.mark.parametrize(("name", "response_format"), FORMATS)
def test_names_of_our_own_may_be_configured_to_answer_in_base64(name: str | None, response_format: str) -> None:
    is_ours = name in ("tiny", "little")
    assert default_response_format("generation", name, "b64_json") == ("b64_json" if is_ours else response_format)


@pytest.mark.parametrize("name", [name for name, _ in FORMATS])
@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_a_response_format_that_is_given_wins(catalogue: Catalogue, name: str | None, response_format: str) -> None:
    assert parse(catalogue, model=name, response_format=response_format).response_format == response_format


def test_the_callers_values_are_left_as_they_were(catalogue: Catalogue) -> None:
    values = {"prompt": "x", "n": None, "size": "auto"}
    parse_generation(values, catalogue)
    assert values == {"prompt": "x", "n": None, "size": "auto"}
