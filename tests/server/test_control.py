"""Guards what requests and models.yaml say of hints: what comes out is complete, and refusals name the parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.messages import Control
from server.api.forms import values_of
from server.api.multipart import Part
from server.api.parsed import Parsed
from server.backends.jobs import facts_of
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.errors import SafelightError
from server.core.request import LocalRequest
from tests.server.parts import parse_locally

MODELS = """\
default_model: both
models:
  both: {family: sdxl, source: w, controls: {canny: {source: nets/canny}, depth: {source: nets/depth}}}
  one: {family: sd21, source: w, controls: {depth: {source: nets/depth}}}
  flux-canny: {family: flux, source: w, controls: {canny: {}}}
  plain: {family: sdxl, source: w}
"""
HINT = "aGk="


def loaded(folder: Path, text: str) -> Catalogue:
    (folder / "models.yaml").write_text(text)
    return load_catalogue(folder / "models.yaml")


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return loaded(tmp_path, MODELS)


def parsed(catalogue: Catalogue, **values: Any) -> Parsed[LocalRequest]:
    return parse_locally("generation", {"prompt": "a circle", **values}, catalogue)


def test_a_hint_comes_out_with_its_defaults_and_its_kind_where_the_model_has_one_alone(catalogue: Catalogue) -> None:
    asked = parsed(catalogue, control="canny", control_image=HINT)
    assert (asked.request.control, asked.asked.hint) == (Control("canny", b""), HINT)
    full = parsed(catalogue, control="depth", control_image=HINT, control_scale=0, control_start=0.25, control_end=0.5)
    assert full.request.control == Control("depth", b"", 0.0, 0.25, 0.5)
    for model, kind in (("one", "depth"), ("flux-canny", "canny")):
        request = parsed(catalogue, model=model, control_image=HINT).request
        assert request.control is not None
        assert request.control.kind == kind
    assert parsed(catalogue).request.control is None


OUT_OF_RANGE: list[tuple[str, object]] = [
    ("control_scale", -0.1),
    ("control_scale", 2.1),
    ("control_scale", "1"),
    ("control_scale", float("nan")),
    ("control_start", -0.1),
    ("control_start", 1.0),
    ("control_start", True),
    ("control_end", 0),
    ("control_end", 1.1),
    ("control_end", []),
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"control": "pose", "control_image": HINT}, "control", "'canny' and 'depth'"),
    ({"control": 1, "control_image": HINT}, "control", "'canny' and 'depth'"),
    ({"control_image": HINT}, "control", "'canny' and 'depth'"),
    ({"control": "canny", "control_image": HINT, "model": "one"}, "control", "'depth'"),
    ({"control": "canny"}, "control_image", ""),
    ({"control": "canny", "control_scale": 1}, "control_image", ""),
    ({"model": "flux-canny"}, "control_image", ""),
    ({"control_image": HINT, "model": "plain"}, "control_image", "takes no control images"),
    ({"control": "canny", "control_image": HINT, "model": "plain"}, "control", "takes no control images"),
    ({"control_scale": 1, "model": "plain"}, "control_scale", "takes no control images"),
    ({"control": "canny", "control_image": 7}, "control_image", "base64"),
    ({"control": "canny", "control_image": {"image_url": HINT, "x": 1}}, "control_image", "base64"),
    *(({"control": "canny", "control_image": HINT, name: value}, name, "a number") for name, value in OUT_OF_RANGE),
    ({"control": "canny", "control_image": HINT, "control_start": 0.5, "control_end": 0.5}, "control_start", "below"),
]


@pytest.mark.parametrize(("values", "param", "allowed"), BAD)
def test_what_cannot_be_is_refused_by_its_parameter_with_what_is_allowed(
    catalogue: Catalogue, values: dict[str, Any], param: str, allowed: str
) -> None:
    with pytest.raises(SafelightError) as caught:
        parsed(catalogue, **values)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert allowed in caught.value.message


def test_flux_has_no_use_for_scale_and_span_and_says_so(catalogue: Catalogue) -> None:
    asked = parsed(catalogue, model="flux-canny", control_image=HINT, control_scale=0.5, control_end=0.5)
    assert asked.ignored == ("control_scale", "control_end")


def test_a_form_holds_the_hint_as_a_file_and_numbers_as_text(catalogue: Catalogue) -> None:
    texts = {"prompt": b"a", "control": b"canny", "control_scale": b"0.5", "control_start": b"0.1"}
    parts = [Part(name, content, is_file=False) for name, content in texts.items()]
    values = values_of([*parts, Part("control_image", b"file", is_file=True), Part("image", b"file", is_file=True)])
    asked = parse_locally("edit", values, catalogue)
    assert asked.asked.hint == b"file"
    assert asked.request.control == Control("canny", b"", 0.5, 0.1, 1.0)


def test_the_facts_tell_of_a_hint(catalogue: Catalogue) -> None:
    facts = facts_of(parsed(catalogue, control="canny", control_image=HINT, control_scale=0.5).request, 1)
    told = {name: facts[name] for name in ("control", "control_scale", "control_start", "control_end")}
    assert told == {"control": "canny", "control_scale": 0.5, "control_start": 0.0, "control_end": 1.0}
    assert len(str(facts["control_sha256"])) == 64


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{family: sdxl, source: w, controls: {canny: {}}}", "has no source"),
        ("{family: flux, source: w, controls: {canny: {source: x}}}", "has a source"),
        ("{family: flux, source: w, controls: {canny: {}, depth: {}}}", "one kind of hint"),
        ("{family: sdxl, source: w, controls: {cany: {source: x}}}", "canny"),
        ("{family: sdxl, source: w, controls: {canny: {sorce: x}}}", "Did you mean 'source'?"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(CatalogueProblem, match=said.replace("?", ".")):
        loaded(tmp_path, f"default_model: m\nmodels:\n  m: {entry}\n")


def test_a_worker_is_told_where_the_networks_are(catalogue: Catalogue, tmp_path: Path) -> None:
    specs = {spec.id: spec.controls for spec in catalogue.specs()}
    assert specs["one"] == {"depth": str((tmp_path / "nets/depth").resolve())}
    assert specs["flux-canny"] == {"canny": None}
    assert specs["plain"] == {}
