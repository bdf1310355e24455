"""Guards what requests and models.yaml say of adapters: what comes out is complete, and refusals name the place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.messages import Lora
from server import client
from server.api.forms import values_of
from server.api.multipart import Part
from server.api.parsed import Parsed
from server.backends.jobs import job_of
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.errors import SafelightError
from server.core.request import LocalRequest
from tests.server.parts import parse_locally

MODELS = """\
default_model: tiny
models:
  tiny:
    family: sdxl
    source: weights/tiny
    defaults: {size: 512x512, steps: 12, guidance_scale: 2.5, sampler: euler}
    limits: {max_steps: 50, max_loras: 3, max_lora_scale: 1.5}
    presets:
      quality: {hd: {steps: 40, guidance_scale: 6.0}, low: {steps: 5}}
      style: {vivid: {prompt: "vivid {prompt}", guidance_scale: 9.0}}
    loras_folder: adapters
    loras:
      brush: {scale: 0.8, description: Broad strokes.}
      lightning: {source: few/steps.safetensors, defaults: {steps: 4, guidance_scale: 0, sampler: euler}}
      lcm: {source: lcm.safetensors, defaults: {steps: 6, sampler: lcm}}
  plain:
    family: flux
    source: weights/plain
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "adapters").mkdir()
    for name in ("brush.safetensors", "my ink v1.5.safetensors", "notes.txt"):
        (tmp_path / "adapters" / name).write_bytes(b"x")
    return loaded(tmp_path, MODELS)


def loaded(folder: Path, text: str) -> Catalogue:
    (folder / "models.yaml").write_text(text)
    return load_catalogue(folder / "models.yaml")


def parsed(catalogue: Catalogue, loras: object = None, **values: Any) -> Parsed[LocalRequest]:
    return parse_locally("generation", {"prompt": "a circle", "loras": loras, **values}, catalogue)


def refusal(catalogue: Catalogue, loras: object, **values: Any) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        parsed(catalogue, loras, **values)
    return caught.value


def test_names_come_out_in_their_order_with_the_entrys_scale_where_none_is_given(catalogue: Catalogue) -> None:
    asked = [{"name": "my ink v1.5", "scale": -1}, {"name": "brush"}, {"name": "lcm", "scale": None}]
    request = parsed(catalogue, asked).request
    assert request.loras == (Lora("my ink v1.5", -1.0), Lora("brush", 0.8), Lora("lcm", 1.0))
    assert parsed(catalogue, None).request.loras == parsed(catalogue, []).request.loras == ()


SCALES: list[object] = [
    1.51,
    -1.51,
    10**25,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    "1",
    "",
    True,
    [1],
    {},
]
BAD: list[tuple[object, str, str]] = [
    ("brush", "loras", "an array of objects"),
    ({"name": "brush"}, "loras", "an array of objects"),
    (["brush"], "loras[0]", "an object such as"),
    ([None], "loras[0]", "an object such as"),
    ([{"name": "brush"}, 7], "loras[1]", "an object such as"),
    ([{}], "loras[0].name", "Missing required parameter"),
    ([{"name": 7}], "loras[0].name", "as text"),
    ([{"name": None}], "loras[0].name", "as text"),
    ([{"name": "brush", "weight": 1}], "loras[0].weight", "Unknown parameter"),
    ([{"name": "brush", "scal": 1}], "loras[0].scal", "Did you mean 'loras[0].scale'?"),
    ([{"name": "brsh"}], "loras[0].name", "Did you mean 'brush'?"),
    ([{"name": "../../etc/passwd"}], "loras[0].name", "'brush', 'lcm', 'lightning', 'my ink v1.5'"),
    ([{"name": "x" * 10_000}], "loras[0].name", "has no adapter"),
    ([{"name": "\ud800"}], "loras[0].name", "has no adapter"),
    ([{"name": ""}], "loras[0].name", "has no adapter"),
    ([{"name": "brush"}, {"name": "brush", "scale": 0}], "loras[1].name", "stands there twice"),
    ([{"name": "brush"}] * 4, "loras", "at most 3"),
    *[([{"name": "lcm"}, {"name": "brush", "scale": scale}], "loras[1].scale", "a number from -") for scale in SCALES],
]


@pytest.mark.parametrize(("loras", "param", "words"), BAD)
def test_bad_adapters_are_refused_by_their_place(catalogue: Catalogue, loras: object, param: str, words: str) -> None:
    error = refusal(catalogue, loras)
    assert (error.status, error.param) == (400, param)
    assert words in error.message
    assert error.message.isascii()
    assert len(error.message) < 500


def test_a_model_without_adapters_says_so(catalogue: Catalogue) -> None:
    error = refusal(catalogue, [{"name": "brush"}], model="plain")
    assert (error.param, error.message) == (
        "loras[0].name",
        "The model 'plain' has no adapters: leave 'loras' out.",
    )


def numbers(one: Parsed[LocalRequest]) -> tuple[int, float, str]:
    return one.request.steps, one.request.guidance_scale, one.request.sampler


def test_the_requests_own_numbers_win_then_the_first_adapters_then_the_presets(catalogue: Catalogue) -> None:
    few = [{"name": "brush"}, {"name": "lightning"}, {"name": "lcm"}]
    assert numbers(parsed(catalogue, few)) == (4, 0.0, "euler")
    assert numbers(parsed(catalogue, few, quality="hd", style="vivid")) == (4, 0.0, "euler")
    assert numbers(parsed(catalogue, few, steps=9, guidance_scale=3)) == (9, 3.0, "euler")
    assert numbers(parsed(catalogue, [{"name": "lcm"}], quality="hd")) == (6, 6.0, "lcm")
    assert numbers(parsed(catalogue, [{"name": "lcm"}], style="vivid")) == (6, 9.0, "lcm")
    assert numbers(parsed(catalogue, [{"name": "lcm", "scale": 0}])) == (12, 2.5, "euler")
    assert numbers(parsed(catalogue, [{"name": "brush"}])) == (12, 2.5, "euler")


def test_a_quality_that_an_adapter_overrides_in_full_is_told_to_be_without_effect(catalogue: Catalogue) -> None:
    assert parsed(catalogue, [{"name": "lightning"}], quality="low").ignored == ("quality",)
    assert parsed(catalogue, [{"name": "lcm"}], quality="hd").ignored == ()
    assert parsed(catalogue, [{"name": "brush"}], quality="low").ignored == ()


def test_lcm_takes_no_more_steps_than_it_can_also_where_an_adapter_brings_it(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "brush.safetensors").write_bytes(b"x")
    catalogue = loaded(tmp_path, MODELS.replace("max_steps: 50", "max_steps: 100"))
    assert refusal(catalogue, [{"name": "lcm"}], steps=51).param == "steps"


def form(**texts: str) -> dict[str, Any]:
    return values_of([Part(name, text.encode(), is_file=False) for name, text in texts.items()])


def test_a_form_holds_them_as_json(catalogue: Catalogue) -> None:
    text = '[{"name": "brush", "scale": 0.25}]'
    assert form(loras=text) == {"loras": [{"name": "brush", "scale": 0.25}]}
    bad = ("", "brush", "{", "[", "null", '"x"', '{"name": "brush"}', '[{"a": 1, "a": 2}]', "[" * 5000)
    for text in bad:
        assert refusal(catalogue, form(loras=text)["loras"]).param == "loras"


def test_the_job_and_the_facts_say_which_adapters_were_used(catalogue: Catalogue) -> None:
    loras = [{"name": "brush", "scale": 0.25}, {"name": "lcm", "scale": 1.0}]
    job = job_of(parsed(catalogue, loras).request, "r", 0, has_facts=True, wants_progress=False)
    assert job.params.loras == (Lora("brush", 0.25), Lora("lcm", 1.0))
    told = job.output.facts["loras"]
    assert isinstance(told, str)
    assert parsed(catalogue, form(loras=told)["loras"]).request.loras == job.params.loras
    plain = job_of(parsed(catalogue).request, "r", 0, has_facts=True, wants_progress=False)
    assert "loras" not in plain.output.facts


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("brush", {"name": "brush"}),
        ("brush:0.5", {"name": "brush", "scale": 0.5}),
        ("a:b", {"name": "a:b"}),
        ("a:b:-1", {"name": "a:b", "scale": -1.0}),
    ],
)
def test_the_command_line_names_an_adapter_and_maybe_its_scale(text: str, asked: dict[str, object]) -> None:
    assert client.lora_of(text) == asked


def test_a_worker_is_told_of_every_file_by_its_absolute_path(catalogue: Catalogue, tmp_path: Path) -> None:
    tiny, plain = catalogue.specs()
    assert tiny.loras == {
        "brush": str(tmp_path / "adapters/brush.safetensors"),
        "my ink v1.5": str(tmp_path / "adapters/my ink v1.5.safetensors"),
        "lightning": str(tmp_path / "few/steps.safetensors"),
        "lcm": str(tmp_path / "lcm.safetensors"),
    }
    assert plain.loras == {}


WRONG: list[tuple[str, str, str]] = [
    ("scale: 0.8", "scale: 3", "the scale of the adapter 'brush' is beyond max_lora_scale"),
    ("scale: 0.8", "scale: .nan", "a finite number"),
    ("scale: 0.8", "scal: 3", "Did you mean 'scale'?"),
    ("scale: 0.8", "source: ''", "at least 1 character"),
    ("{steps: 4,", "{steps: 400,", "the adapter 'lightning' takes more steps than max_steps 50"),
    ("{steps: 4,", "{step: 4,", "Did you mean 'steps'?"),
    ("sampler: lcm", "sampler: flow_euler", "cannot draw the family sdxl"),
    ("guidance_scale: 0,", "guidance_scale: 90,", "the adapter 'lightning' is above max_guidance_scale"),
    ("loras_folder: adapters", "loras_folder: nowhere", "cannot be read: No such file or directory"),
    ("    loras_folder: adapters\n", "", "the adapter 'brush' has neither a source nor a loras_folder"),
    ("brush: {", "pencil: {", "holds no pencil.safetensors, which loras names without a source"),
]


@pytest.mark.parametrize(("found", "put", "words"), WRONG)
def test_a_mistake_in_the_catalogue_is_told_with_its_line(tmp_path: Path, found: str, put: str, words: str) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "brush.safetensors").write_bytes(b"x")
    with pytest.raises(CatalogueProblem) as caught:
        loaded(tmp_path, MODELS.replace(found, put))
    (problem,) = caught.value.problems
    assert words in problem
    line = int(problem.removeprefix(f"{tmp_path}/models.yaml:").split(":")[0])
    assert 3 <= line <= 17


def test_a_file_whose_name_nobody_could_send_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    for name in ("brush", "two\nlines"):
        (tmp_path / "adapters" / f"{name}.safetensors").write_bytes(b"x")
    with pytest.raises(CatalogueProblem, match="whose name nobody can write"):
        loaded(tmp_path, MODELS)


def test_json_and_forms_ask_for_the_same(catalogue: Catalogue) -> None:
    loras = [{"name": "lcm", "scale": 1}]
    assert (
        parsed(catalogue, form(loras=json.dumps(loras))["loras"]).request.loras
        == parsed(catalogue, loras).request.loras
    )
