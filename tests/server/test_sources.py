"""Guards the intake of image and mask: base64 in two forms, nothing fetched, both fitted alike to the size drawn."""

from __future__ import annotations

import base64
import json
import socket
import time
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.framing import MAX_FRAME_BYTES
from server.api import sources
from server.api.sources import content_of
from server.core.errors import SafelightError
from server.core.model_entry import MAX_PIXELS, Limits
from server.core.request import Size
from server.images.inputs import ImageInputs, fit
from tests.server.picture_files import BLACK, BLUE, RED, WHITE, animation, bomb, file_of, halves, plain, text_of

LIMITS = Limits(min_side_px=64, max_side_px=256, side_multiple_px=16, max_pixels=192 * 256)
PICTURE = text_of(file_of(plain("RGB", (96, 96), RED)))
URLS = [
    "http://example.org/x.png",
    "https://example.org/x.png",
    "HTTPS://EXAMPLE.ORG",
    " https://example.org/x.png",
    "http://127.1/",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/",
    "http://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
    "ftp://example.org/x.png",
    "gopher://127.0.0.1:6379/_x",
    "blob:https://example.org/1",
    "C:\\pictures\\x.png",
    "javascript:alert(1)",
]
BAD_BASE64 = {
    "no padding": PICTURE.rstrip("=") if PICTURE.endswith("=") else PICTURE[:-1],
    "three signs of padding": PICTURE.rstrip("=") + "===",
    "a group of padding": PICTURE + "====",
    "one sign too many": PICTURE + "=",
    "padding in the middle": "iVBO=" + PICTURE[5:],
    "dollar": PICTURE[:8] + "$" + PICTURE[9:],
    "space": PICTURE[:8] + " " + PICTURE[8:],
    "line breaks": base64.encodebytes(base64.b64decode(PICTURE)).decode(),
    "URL-safe alphabet": "_-" + PICTURE[2:],
    "other script": "\uff21" + PICTURE[1:],
    "half a surrogate pair": "\ud800" + PICTURE[1:],
    "NUL": PICTURE + "\0",
    "words": "a red circle!",
    "a path": "../../etc/passwd",
    "quoted": f'"{PICTURE}"',
}
BAD_DATA_URLS = [
    "data:",
    "data:,",
    "data:x",
    f"data:text/plain;base64,{PICTURE}",
    f"data:application/octet-stream;base64,{PICTURE}",
    f"data:image/svg+xml;base64,{PICTURE}",
    f"data:image/gif;base64,{PICTURE}",
    f"data:image/png,{PICTURE}",
    f"data:image/png;base64{PICTURE}",
    f"data:image/png;base64;{PICTURE}",
    f"data:image/png;charset=utf-8;base64,{PICTURE}",
    f"data:;base64,{PICTURE}",
    f"data:image/{'x' * 100_000};base64,{PICTURE}",
]
# Readable base64 that holds no picture to work with.
BAD_FILES = {
    "empty": "",
    "empty data URL": "data:image/png;base64,",
    "no picture": text_of(b"x" * 1000),
    "SVG": text_of(b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "GIF of two frames": text_of(animation("GIF")),
    "PNG of two frames": text_of(animation("PNG")),
    "truncated PNG": text_of(file_of(halves((96, 96), RED, BLUE))[:-30]),
    "bomb": text_of(bomb("PNG", 60_000)),
    "twice base64": text_of(PICTURE.encode()),
    "huge": "A" * 40_000_000,
}


def read(image: str, mask: str | None = None, size: Size | None = None) -> ImageInputs:
    return fit(content_of("image", image), None if mask is None else content_of("mask", mask), size, LIMITS)


def refusal(image: str, mask: str | None = None, size: Size | None = None) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        read(image, mask, size)
    error = caught.value
    assert (error.status, error.code) == (400, "invalid_parameter")
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(json.dumps(error.body())) < 1_000
    return error


def picture(width: int, height: int) -> str:
    return text_of(file_of(plain("RGB", (width, height), RED)))


def mask_of(image: Image.Image) -> str:
    return text_of(file_of(image))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "data:image/png;base64,",
        "data:image/jpeg;base64,",
        "data:image/jpg;base64,",
        "data:image/webp;base64,",
        "DATA:IMAGE/PNG;BASE64,",
    ],
)
def test_a_picture_comes_bare_or_as_a_data_url(header: str) -> None:
    assert read(header + PICTURE).image == bytes(RED) * 96 * 96


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_refused_and_nothing_is_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> NoReturn:
        raise AssertionError("something was fetched")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, connect)
    for error in (refusal(url), refusal(PICTURE, mask=url)):
        assert "none of base64, a data URL and an http(s) URL" in error.message
    assert refusal(url).param == "image"
    assert refusal(PICTURE, mask=url).param == "mask"


@pytest.mark.parametrize("text", BAD_BASE64.values(), ids=BAD_BASE64)
@pytest.mark.parametrize("header", ["", "data:image/png;base64,"])
def test_text_that_is_not_strict_base64_is_refused(header: str, text: str) -> None:
    assert "not base64" in refusal(header + text).message


@pytest.mark.parametrize("text", BAD_DATA_URLS, ids=lambda text: text[:40])
def test_a_data_url_of_another_form_is_refused_with_the_forms_that_work(text: str) -> None:
    assert "'data:image/png;base64,'" in refusal(text).message


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_usable_picture_is_refused_by_the_name_of_its_parameter(text: str) -> None:
    assert refusal(text).param == "image"
    assert refusal(PICTURE, mask=text).param == "mask"


def test_a_file_above_the_limit_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BASE64_CHARACTERS", 1000)
    monkeypatch.setattr(base64, "b64decode", None)
    assert "at most 52428800 bytes" in refusal("A" * 1001).message


@pytest.mark.parametrize("text", ["A" * 50_000_000 + "$", "$" * 50_000_000, "a" * 50_000_000 + ":"])
def test_huge_text_is_judged_quickly(text: str) -> None:
    began = time.perf_counter()
    refusal(text)
    assert time.perf_counter() - began < 3


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", "data:", "data:image/png;base64,", "http:"]))
def test_any_text_gives_bytes_or_a_refusal(text: str, beginning: str) -> None:
    try:
        assert isinstance(content_of("image", beginning + text), bytes)
    except SafelightError as error:
        assert (error.status, error.param) == (400, "image")  # noqa: PT017


@pytest.mark.parametrize(("width", "height"), [(63, 64), (64, 63), (1, 1), (1000, 8)])
def test_a_side_below_the_models_least_is_refused_with_it(width: int, height: int) -> None:
    error = refusal(picture(width, height))
    assert f"{width}x{height}" in error.message
    assert "at least 64" in error.message
    assert refusal(picture(width, height), size=Size(64, 64)).param == "image"


@pytest.mark.parametrize("size", [Size(64, 64), Size(256, 64), Size(64, 256), Size(112, 96)])
def test_an_asked_size_is_covered(size: Size) -> None:
    inputs = read(picture(96, 100), mask_of(plain("L", (96, 100), 255)), size)
    assert inputs.size == size
    assert inputs.image == bytes(RED) * size.width_px * size.height_px
    assert inputs.mask == b"\xff" * size.width_px * size.height_px


@pytest.mark.parametrize(
    ("own", "drawn"),
    [
        ((96, 96), Size(96, 96)),
        ((96, 128), Size(96, 128)),
        ((100, 127), Size(96, 112)),
        ((64, 256), Size(64, 256)),
        ((192, 256), Size(192, 256)),
        ((256, 192), Size(256, 192)),
        ((256, 256), Size(208, 208)),
        ((1000, 1000), Size(208, 208)),
        ((768, 1024), Size(192, 256)),
        ((1024, 512), Size(256, 128)),
        ((64, 4000), Size(64, 256)),
        ((4000, 100), Size(256, 64)),
    ],
)
def test_without_a_size_the_pictures_own_shape_is_kept_within_the_limits(own: tuple[int, int], drawn: Size) -> None:
    inputs = read(picture(*own))
    assert inputs.size == drawn
    assert len(inputs.image) == drawn.width_px * drawn.height_px * 3


LIMITS_OF_ALL_KINDS = st.builds(
    Limits,
    min_side_px=st.integers(8, 600),
    max_side_px=st.integers(600, 3000),
    side_multiple_px=st.sampled_from([8, 16, 32, 64, 96]),
    max_pixels=st.integers(700 * 700, 4_000_000),
)


@settings(max_examples=500)
@given(limits=LIMITS_OF_ALL_KINDS, width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_the_nearest_size_is_always_allowed_and_lies_as_the_picture_does(
    limits: Limits, width: int, height: int
) -> None:
    least = -(-limits.min_side_px // limits.side_multiple_px) * limits.side_multiple_px
    if limits.allows(Size(least, least)):
        nearest = limits.nearest(Size(width, height))
        assert limits.allows(nearest)
        assert (nearest.width_px - nearest.height_px) * (width - height) >= 0


@settings(max_examples=500)
@given(limits=LIMITS_OF_ALL_KINDS, across=st.integers(1, 400), down=st.integers(1, 400))
def test_a_size_that_is_allowed_stays_as_it_is(limits: Limits, across: int, down: int) -> None:
    size = Size(across * 8, down * 8)
    if limits.allows(size):
        assert limits.nearest(size) == size


@pytest.mark.parametrize("size", [(95, 96), (96, 95), (48, 48), (192, 192)])
def test_a_mask_of_another_size_is_refused_with_both_sizes(size: tuple[int, int]) -> None:
    error = refusal(PICTURE, mask_of(plain("L", size, 255)))
    assert error.param == "mask"
    assert f"{size[0]}x{size[1]}" in error.message
    assert "96x96" in error.message


def test_a_mask_is_compared_with_the_image_as_both_are_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = text_of(file_of(plain("RGB", (128, 96), RED), exif=exif))
    assert read(turned, mask_of(plain("L", (96, 128), 255))).size == Size(96, 128)
    assert refusal(turned, mask_of(plain("L", (128, 96), 255))).param == "mask"


@pytest.mark.parametrize(
    "mask",
    [
        plain("L", (96, 96), 0),
        plain("RGB", (96, 96), (127, 127, 127)),
        plain("1", (96, 96), 0),
        plain("RGBA", (96, 96), (*BLACK, 255)),
        plain("RGBA", (96, 96), (*WHITE, 254)),
    ],
)
def test_a_mask_that_lets_nothing_change_is_refused(mask: Image.Image) -> None:
    error = refusal(PICTURE, mask_of(mask))
    assert error.param == "mask"
    assert "nothing may change" in error.message


def test_a_mask_whose_white_is_cropped_away_is_refused() -> None:
    mask = plain("L", (200, 96), 0)
    mask.paste(255, (0, 0, 20, 96))
    error = refusal(picture(200, 96), mask_of(mask), Size(96, 96))
    assert "nothing may change" in error.message
    assert "96x96" in error.message


def test_image_and_mask_are_fitted_alike() -> None:
    both = halves((200, 100), BLACK, WHITE)
    inputs = read(mask_of(both), mask_of(both), Size(128, 128))
    assert inputs.mask is not None
    assert set(inputs.mask) == {0, 255}
    assert sum(abs(a - b) > 127 for a, b in zip(inputs.image[::3], inputs.mask, strict=True)) == 0


def test_the_largest_picture_that_a_catalogue_allows_fits_into_a_frame_with_its_mask_and_a_hint() -> None:
    assert 7 * MAX_PIXELS + 1_000_000 < MAX_FRAME_BYTES
