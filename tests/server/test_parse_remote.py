"""Guards what a request means for a provider's model: who stays a candidate, and what a picture is reckoned at."""

from __future__ import annotations

import pytest

from server.api.parse import Reach, parse
from server.api.parsed import Parsed
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.request import ImageRequest
from server.remotes import upstreams_of

MODELS = """\
default_model: ours
models:
  ours: {family: sdxl, source: somewhere, loras: {my-style: {source: my.safetensors}}}
backends:
  openai:
    kind: openai
    models:
      gpt-image-2: {prices: [{quality: medium, usd: 0.05}, {size: 1024x1024, quality: high, usd: 0.2}, {usd: 0.3}]}
      dall-e-3: {prices: [{size: 1024x1024, usd: 0.04}, {size: 1024x1792, usd: 0.08}]}
      other: {}
names:
  both: {route: [openai:gpt-image-2, local:ours]}
  far: {route: [openai:gpt-image-2]}
  old: {route: [openai:dall-e-3]}
  other: {route: [openai:other]}
"""


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Reach:
    path = tmp_path_factory.mktemp("catalogue") / "models.yaml"
    path.write_text(MODELS)
    catalogue = load_catalogue(path)
    upstreams = upstreams_of("openai", catalogue.backends["openai"])
    return Reach(catalogue, {upstream.target: upstream for upstream in upstreams})


def candidates(reach: Reach, **values: object) -> tuple[Parsed[ImageRequest], ...]:
    return parse("generation", {"prompt": "a circle", **values}, reach)


@pytest.mark.parametrize(
    ("model", "values", "usd"),
    [
        ("far", {"quality": "medium"}, 0.05),
        ("far", {"quality": "standard"}, 0.05),
        ("far", {"quality": "hd"}, 0.2),
        # Told no quality, it chooses itself, and may choose the dearest.
        ("far", {}, 0.3),
        ("far", {"quality": "auto"}, 0.3),
        # 256x256 is drawn in another size, whose line does not stand here.
        ("far", {"quality": "high", "size": "256x256"}, 0.3),
        ("old", {"size": "1024x1792", "quality": "hd"}, 0.08),
        # No line fits: better too much than nothing.
        ("old", {"size": "1792x1024"}, 0.08),
        ("other", {}, 0.0),
    ],
)
def test_a_picture_is_reckoned_at_what_the_provider_bills(
    reach: Reach, model: str, values: dict[str, str], usd: float
) -> None:
    (candidate,) = candidates(reach, model=model, **values)
    assert candidate.request.price_usd == usd


def test_whoever_has_no_adapters_is_no_candidate_for_a_request_that_names_one(reach: Reach) -> None:
    assert [str(one.target) for one in candidates(reach, model="both")] == ["openai:gpt-image-2", "local:ours"]
    loras = [{"name": "my-style"}]
    assert [str(one.target) for one in candidates(reach, model="both", loras=loras)] == ["local:ours"]
    with pytest.raises(SafelightError) as caught:
        candidates(reach, model="far", loras=loras)
    assert caught.value.param == "loras"


def test_whoever_takes_no_hints_is_no_candidate_for_a_request_with_one(reach: Reach) -> None:
    for model in ("far", "both"):
        with pytest.raises(SafelightError) as caught:
            candidates(reach, model=model, control_image="data:image/png;base64,AAAA")
        assert (caught.value.status, caught.value.param) == (400, "control_image")
