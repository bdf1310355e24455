"""Guards the parse of requests that start from an image or name a sampler: every rule with its parameter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest

from pipelines.messages import DIFFUSION_SAMPLERS, SAMPLERS_BY_FAMILY, FamilyName
from pipelines.work import steps_after
from server.api.parsed import Parsed
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.request import LocalRequest, Size
from tests.server.parts import parse_locally
from tests.server.picture_files import BLUE, RED, file_of, halves, plain, text_of

MODELS = """\
default_model: tiny
models:
  tiny:
    family: sdxl
    source: weights/tiny
    defaults: {size: 64x64, steps: 10, sampler: euler, strength: 0.5}
    limits: {min_side_px: 64, max_side_px: 128, side_multiple_px: 16, max_pixels: 16384, max_steps: 100}
  old:
    family: sd21
    source: weights/old
    defaults: {size: 256x256, steps: 60}
  flow:
    family: flux
    source: weights/flow
    defaults: {size: 256x256, steps: 4, guidance_scale: 0}
    limits: {max_steps: 1000}
"""
PICTURE = text_of(file_of(halves((80, 96), RED, BLUE)))
MASK = text_of(file_of(plain("L", (80, 96), 255)))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path: Path = tmp_path_factory.mktemp("catalogue") / "models.yaml"
    path.write_text(MODELS, encoding="utf-8")
    return load_catalogue(path)


def parsed(catalogue: Catalogue, **values: Any) -> Parsed[LocalRequest]:
    return parse_locally("generation", {"prompt": "a red circle"} | values, catalogue)


def parse(catalogue: Catalogue, **values: Any) -> LocalRequest:
    return parsed(catalogue, **values).request


def refusal(catalogue: Catalogue, **values: Any) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        parse(catalogue, **values)
    error = caught.value
    assert (error.status, error.code) == (400, "invalid_parameter")
    assert error.message.isascii()
    assert len(json.dumps(error.body())) < 1_500
    return error


def test_a_request_without_an_image_has_none_and_full_strength(catalogue: Catalogue) -> None:
    request = parse(catalogue)
    assert (request.image, request.mask, request.strength) == (None, None, 1.0)


def test_image_mask_and_size_come_out_as_they_were_sent(catalogue: Catalogue) -> None:
    complete = parsed(catalogue, image=PICTURE, mask=MASK, strength=0.25, size="128x64")
    assert (complete.asked.image, complete.asked.mask, complete.asked_size) == (PICTURE, MASK, Size(128, 64))
    assert (complete.request.size, complete.request.strength) == (Size(128, 64), 0.25)


@pytest.mark.parametrize("size", [{}, {"size": "auto"}, {"size": None}])
def test_without_a_size_the_choice_is_left_to_the_image(catalogue: Catalogue, size: dict[str, Any]) -> None:
    assert parsed(catalogue, image=PICTURE, **size).asked_size is None


def test_a_strength_that_was_not_given_is_the_models(catalogue: Catalogue) -> None:
    assert parse(catalogue, image=PICTURE).strength == 0.5
    assert parse(catalogue, image=PICTURE, model="old").strength == 0.8


def test_pixels_do_not_stand_in_the_text_of_a_request(catalogue: Catalogue) -> None:
    assert len(repr(parse(catalogue, image=PICTURE, mask=MASK))) < 500


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.01, 2, math.nan, math.inf, "0.5", True, [], {}, 10**25])
def test_a_strength_out_of_range_is_refused(catalogue: Catalogue, value: object) -> None:
    assert refusal(catalogue, image=PICTURE, strength=value).param == "strength"


@pytest.mark.parametrize("strength", [1, 1.0, 0.1, 0.999])
def test_a_strength_in_range_is_accepted(catalogue: Catalogue, strength: float) -> None:
    accepted = parse(catalogue, image=PICTURE, strength=strength).strength
    assert accepted == strength
    assert isinstance(accepted, float)


@pytest.mark.parametrize("name", ["image", "mask", "sampler"])
@pytest.mark.parametrize("value", [1, 1.5, True, [1], [["x"]], {}, {"url": "x"}, {"image_url": 1}])
def test_what_is_no_text_is_refused(catalogue: Catalogue, name: str, value: object) -> None:
    assert refusal(catalogue, **{"image": PICTURE} | {name: value}).param == name


@pytest.mark.parametrize(("name", "value"), [("mask", MASK), ("mask", "nonsense"), ("strength", 0.5)])
def test_mask_and_strength_need_an_image(catalogue: Catalogue, name: str, value: object) -> None:
    error = refusal(catalogue, **{name: value})
    assert error.param == name
    assert "'image'" in error.message


@pytest.mark.parametrize("model", ["tiny", "old", "flow"])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 49, 99, 100])
def test_a_strength_that_leaves_no_step_is_refused_with_the_smallest_that_does(
    catalogue: Catalogue, model: str, steps: int
) -> None:
    family = catalogue.models[model].family
    large = text_of(file_of(plain("RGB", (256, 256), RED)))
    error = refusal(catalogue, image=large, model=model, steps=steps, strength=1e-20)
    assert error.param == "strength"
    least = float(error.message.split("a number from ")[1].split(" to 1")[0])
    assert steps_after(family, steps, least) >= 1
    assert least == 0.001 or steps_after(family, steps, least - 0.001) == 0
    assert parse(catalogue, image=large, model=model, steps=steps, strength=least).strength == least


def test_the_models_own_strength_grows_where_it_would_leave_no_step(catalogue: Catalogue) -> None:
    assert parse(catalogue, image=PICTURE, steps=1).strength == 1.0
    assert parse(catalogue, image=PICTURE, steps=2).strength == 0.5


@pytest.mark.parametrize("model", ["tiny", "old", "flow"])
def test_every_sampler_of_a_models_family_is_accepted(catalogue: Catalogue, model: str) -> None:
    for name in SAMPLERS_BY_FAMILY[catalogue.models[model].family]:
        assert parse(catalogue, model=model, sampler=name, steps=4).sampler == name


def test_a_sampler_that_was_not_given_is_the_models(catalogue: Catalogue) -> None:
    assert [parse(catalogue, model=model).sampler for model in ("tiny", "flow")] == ["euler", "checkpoint"]


@pytest.mark.parametrize(
    ("model", "sampler"),
    [("tiny", "flow_euler"), ("old", "flow_euler"), ("flow", "euler"), ("flow", "lcm")]
    + [("tiny", name) for name in ("", "Euler", "EULER", "euler ", "k_euler", "\0", "\ud800", "x" * 100_000)],
)
def test_a_sampler_that_is_unknown_or_unfit_is_refused_with_those_that_fit(
    catalogue: Catalogue, model: str, sampler: str
) -> None:
    error = refusal(catalogue, model=model, sampler=sampler)
    assert error.param == "sampler"
    named = {word.strip(",.") for word in error.message.split(" are: ")[1].split(" Did")[0].split()}
    assert named == {f"'{name}'" for name in SAMPLERS_BY_FAMILY[catalogue.models[model].family]}


def test_a_near_miss_of_a_sampler_is_answered_with_a_suggestion(catalogue: Catalogue) -> None:
    assert refusal(catalogue, sampler="dpmpp_2m_karas").message.endswith("Did you mean 'dpmpp_2m_karras'?")


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"steps": 51}, "steps"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"model": "old"}, "num_inference_steps"),
    ],
)
def test_lcm_takes_no_more_steps_than_it_was_distilled_from(
    catalogue: Catalogue, values: dict[str, Any], param: str
) -> None:
    error = refusal(catalogue, sampler="lcm", **values)
    assert error.param == param
    assert "1 to 50" in error.message
    assert parse(catalogue, sampler="lcm", **values | {param: 50}).steps == 50


def test_the_tests_know_every_family(catalogue: Catalogue) -> None:
    assert {entry.family for entry in catalogue.models.values()} == set(get_args(FamilyName))
    assert "lcm" in DIFFUSION_SAMPLERS


def test_a_flux_without_guidance_says_that_it_has_no_use_for_what_only_guidance_reads(catalogue: Catalogue) -> None:
    asked = {"negative_prompt": "blue", "guidance_scale": 7.0}
    assert parsed(catalogue, model="flow", **asked).ignored == ("guidance_scale", "negative_prompt")
    assert parsed(catalogue, model="old", **asked).ignored == ()
