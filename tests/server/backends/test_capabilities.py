"""Guards what is said of models upstream: the sizes that they are asked for are sizes that they draw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.backends.capabilities import CAPABILITIES, Capabilities, capabilities_of, gpt_image_version
from server.core.model_entry import parse_size
from server.core.providers import RemoteModel
from server.core.request import Size

OLD_GPT_SIZES = {Size(1024, 1024), Size(1536, 1024), Size(1024, 1536)}
askable = st.builds(lambda width, height: Size(width * 8, height * 8), st.integers(8, 480), st.integers(8, 480)).filter(
    CAPABILITIES["gpt-image"].limits.allows
)


def abilities(model: str, *sizes: str, **entry: object) -> Capabilities:
    return capabilities_of(model, RemoteModel.model_validate({"sizes": sizes, **entry}), "openai")


def drawn(model: str, size: str) -> str:
    return str(abilities(model).drawn_size(parse_size(size)))


@given(askable)
def test_gpt_image_2_is_asked_for_nothing_that_it_does_not_draw(size: Size) -> None:
    found = abilities("gpt-image-2").drawn_size(size)
    assert found is not None
    short_px, long_px = sorted((found.width_px, found.height_px))
    assert short_px % 16 == long_px % 16 == 0
    assert long_px <= 3840
    assert long_px <= 3 * short_px
    assert 655_360 <= short_px * long_px <= 8_294_400


@given(askable)
def test_what_gpt_image_2_draws_instead_covers_what_was_asked_for_in_its_shape(size: Size) -> None:
    found = abilities("gpt-image-2").drawn_size(size)
    assert found is not None
    short_px, long_px = sorted((size.width_px, size.height_px))
    if long_px <= 3 * short_px:
        wanted, got = size.width_px / size.height_px, found.width_px / found.height_px
        assert max(wanted / got, got / wanted) < 1.06
    if short_px * long_px < 8_000_000 and long_px <= 3 * short_px:
        assert found.width_px >= size.width_px
        assert found.height_px >= size.height_px
        assert found.width_px * found.height_px <= 1.1 * max(655_360, (short_px + 16) * (long_px + 16))


@given(askable)
def test_a_size_that_is_drawn_is_drawn_as_it_is(size: Size) -> None:
    model = abilities("gpt-image-2")
    found = model.drawn_size(size)
    assert found is not None
    assert model.drawn_size(found) == found


@pytest.mark.parametrize(
    ("size", "instead"),
    [
        ("1024x1024", "1024x1024"),
        ("1792x1024", "1792x1024"),
        ("3840x2160", "3840x2160"),
        ("256x256", "816x816"),
        ("512x512", "816x816"),
        ("1000x1000", "1008x1008"),
        ("2048x256", "2048x688"),
        ("256x2048", "688x2048"),
    ],
)
def test_gpt_image_2_draws_any_size_within_its_bounds_and_the_nearest_to_others(size: str, instead: str) -> None:
    assert drawn("gpt-image-2", size) == drawn("gpt-image-2.6-flare", size) == instead


@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "chatgpt-image-latest"])
@pytest.mark.parametrize(
    ("size", "instead"),
    [
        ("256x256", "1024x1024"),
        ("512x512", "1024x1024"),
        ("1536x1024", "1536x1024"),
        ("1792x1024", "1536x1024"),
        ("1024x1792", "1024x1536"),
        ("832x1216", "1024x1536"),
    ],
)
def test_models_before_gpt_image_2_draw_three_sizes_and_others_are_made_of_them(
    model: str, size: str, instead: str
) -> None:
    assert drawn(model, size) == instead
    assert set(abilities(model).sizes) == OLD_GPT_SIZES


def test_a_size_outside_the_limits_is_not_drawn_at_all() -> None:
    assert abilities("gpt-image-2").drawn_size(Size(4096, 1024)) is None
    assert abilities("gpt-image-2").drawn_size(Size(1001, 1024)) is None
    assert abilities("gpt-image-1.5").drawn_size(Size(32, 32)) is None
    assert abilities("dall-e-3").drawn_size(Size(512, 512)) is None


def test_the_operators_sizes_stand_for_all_others() -> None:
    model = abilities("gpt-image-2", "1536x1024", "1024x1536")
    assert model.default_size == Size(1536, 1024)
    assert model.drawn_size(Size(512, 512)) in {Size(1536, 1024), Size(1024, 1536)}
    assert model.drawn_size(Size(2048, 1152)) == Size(1536, 1024)
    assert abilities("gpt-image-2", "1536x1024", "1024x1024").default_size == Size(1024, 1024)


@pytest.mark.parametrize(
    ("model", "size"), [("gpt-image-1.5", "512x512"), ("gpt-image-2", "512x512"), ("dall-e-2", "1024x1792")]
)
def test_the_operator_cannot_name_a_size_that_the_model_does_not_draw(model: str, size: str) -> None:
    with pytest.raises(ValueError, match=f"cannot draw {size}"):
        abilities(model, size)
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        abilities(model, "wide")


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("gpt-image-1", (1, 0)),
        ("gpt-image-1-mini", (1, 0)),
        ("gpt-image-1.5-2025-12-16", (1, 5)),
        ("chatgpt-image-latest", (1, 5)),
        ("gpt-image-2", (2, 0)),
        ("gpt-image-2-2026-04-21", (2, 0)),
        ("gpt-image-2.5-flare-2026-09-08", (2, 5)),
        ("openai/gpt-image-2.6-sunburst", (2, 6)),
        ("gpt-image-10", (10, 0)),
        ("my-pictures", None),
        ("gpt-image-next", None),
    ],
)
def test_a_models_name_tells_its_version(model: str, version: tuple[int, int] | None) -> None:
    assert gpt_image_version(model) == version


def test_the_form_of_the_entry_wins_over_the_name() -> None:
    assert abilities("pictures", form="gpt-image").canvas is not None
    assert abilities("gpt-image-1.5", form="compatible") == CAPABILITIES["compatible"]
    with pytest.raises(ValueError, match="give it a form"):
        capabilities_of("sdxl", RemoteModel(), "bedrock")


def test_no_gpt_image_model_makes_variations_and_dall_e_2_changes_only_what_a_mask_shows() -> None:
    assert abilities("gpt-image-2").tasks == {"text", "image", "mask"}
    assert abilities("dall-e-3").tasks == {"text"}
    assert abilities("dall-e-2").tasks == {"text", "mask", "variation"}


def test_fidelity_to_an_image_is_a_word_of_the_old_gpt_image_models() -> None:
    assert "input_fidelity" in abilities("gpt-image-1.5").takes
    assert "input_fidelity" not in abilities("gpt-image-2").takes
