"""Guards the decoding of callers' pictures: what a viewer shows comes out; nothing hostile gets beyond a no."""

from __future__ import annotations

import random
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.core.request import Size
from server.images.decode import (
    MAX_JPEG_SCANS,
    MAX_PIXELS,
    UnusablePicture,
    cover_image,
    cover_mask,
    decode_image,
    decode_mask,
    size_of,
)
from tests.server.picture_files import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    Colour,
    animation,
    bomb,
    chunk,
    file_of,
    halves,
    plain,
    png,
    slow_jpeg,
)

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
DAMAGED, UNREADABLE = "is damaged or incomplete", "is no PNG, JPEG or WebP picture that can be read"


def noise(size: tuple[int, int] = (64, 48), seed: int = 1) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


def reason_of(content: bytes, decode: Callable[[bytes], Image.Image] = decode_image) -> str:
    with pytest.raises(UnusablePicture) as caught:
        decode(content)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.reason


def shown(content: bytes) -> list[Colour]:
    """The pixels on white paper, row by row."""
    image = decode_image(content)
    pixels = cover_image(image, size_of(image))
    return [tuple(pixels[place : place + 3]) for place in range(0, len(pixels), 3)]


def mask_pixels(content: bytes) -> list[int]:
    mask = decode_mask(content)
    return list(cover_mask(mask, size_of(mask)))


def near(colour: Colour, other: Colour, by: int = 3) -> bool:
    return all(abs(a - b) <= by for a, b in zip(colour, other, strict=True))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_picture_of_the_right_size_comes_out_byte_for_byte(kind: str, options: dict[str, bool]) -> None:
    image = noise()
    assert cover_image(decode_image(file_of(image, kind, **options)), Size(64, 48)) == image.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_a_png_becomes_rgb(mode: str) -> None:
    assert shown(file_of(plain("RGB", (8, 8), WHITE).convert(mode))) == [WHITE] * 64


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_mode_of_a_jpeg_becomes_rgb(mode: str, progressive: bool) -> None:
    content = file_of(plain("RGB", (16, 16), (200, 200, 200)).convert(mode), "JPEG", progressive=progressive)
    assert all(near(pixel, (200, 200, 200)) for pixel in shown(content))


def test_a_cmyk_jpeg_has_the_colour_that_it_was_given() -> None:
    assert all(near(pixel, RED) for pixel in shown(file_of(plain("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")))


SIXTEEN_BIT = {
    "grey": (png((3, 1), 16, 0, [b"\0\0\x80\0\xff\xff"]), [BLACK, (128, 128, 128), WHITE]),
    "grey just above 255": (png((1, 1), 16, 0, [b"\x01\x00"]), [(1, 1, 1)]),
    "grey with alpha": (png((2, 1), 16, 4, [b"\0\0\0\0\0\0\xff\xff"]), [WHITE, BLACK]),
    "RGB": (png((1, 1), 16, 2, [b"\xab\xcd\x12\x34\xff\x01"]), [(0xAB, 0x12, 0xFF)]),
    "RGBA": (png((1, 1), 16, 6, [b"\xab\xcd\x12\x34\xff\x01\xff\xff"]), [(0xAB, 0x12, 0xFF)]),
    "grey with a transparent value": (
        png((2, 1), 16, 0, [b"\x12\x34\x20\x00"], chunk(b"tRNS", b"\x12\x34")),
        [WHITE, (32, 32, 32)],
    ),
}


@pytest.mark.parametrize(("content", "pixels"), SIXTEEN_BIT.values(), ids=SIXTEEN_BIT)
def test_sixteen_bits_are_scaled_not_clipped(content: bytes, pixels: list[Colour]) -> None:
    assert shown(content) == pixels


PALETTE = chunk(b"PLTE", bytes((*RED, *GREEN, *BLUE)))
TRANSPARENT = {
    "palette": (png((3, 1), 8, 3, [b"\0\1\2"], PALETTE, chunk(b"tRNS", b"\0")), [WHITE, GREEN, BLUE]),
    "half transparent palette": (png((1, 1), 8, 3, [b"\0"], PALETTE, chunk(b"tRNS", b"\x80")), [(255, 127, 127)]),
    "RGB with a transparent colour": (
        png((2, 1), 8, 2, [bytes((*RED, *BLUE))], chunk(b"tRNS", b"\0\xff\0\0\0\0")),
        [WHITE, BLUE],
    ),
    "grey with a transparent value": (png((2, 1), 8, 0, [b"\5\6"], chunk(b"tRNS", b"\0\5")), [WHITE, (6, 6, 6)]),
    "one bit with a transparent value": (png((2, 1), 1, 0, [b"\x40"], chunk(b"tRNS", b"\0\0")), [WHITE, WHITE]),
    "RGBA": (file_of(halves((2, 1), (0, 0, 0, 0), (*RED, 255), "RGBA")), [WHITE, RED]),
    "lossless WebP": (
        file_of(halves((2, 1), (0, 0, 0, 0), (*RED, 255), "RGBA"), "WEBP", lossless=True),
        [WHITE, RED],
    ),
}


@pytest.mark.parametrize(("content", "pixels"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_what_is_transparent_lies_on_white(content: bytes, pixels: list[Colour]) -> None:
    assert all(near(pixel, expected, 1) for pixel, expected in zip(shown(content), pixels, strict=True))


def test_the_colour_under_a_transparent_place_never_bleeds_into_the_scaled_picture() -> None:
    image = decode_image(file_of(halves((64, 64), (*GREEN, 0), (*WHITE, 255), "RGBA")))
    assert set(cover_image(image, Size(16, 16))) == {255}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (15, 0)),
        (3, (15, 31)),
        (4, (0, 31)),
        (5, (0, 0)),
        (6, (31, 0)),
        (7, (31, 15)),
        (8, (0, 15)),
        (0, (0, 0)),
        (9, (0, 0)),
        (65535, (0, 0)),
    ],
)
def test_a_picture_is_turned_as_its_camera_was_held(kind: str, orientation: int, corner: tuple[int, int]) -> None:
    """A red block in the top left of 16 x 32 pixels lands where a viewer shows it."""
    image = plain("RGB", (16, 32), BLACK)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind != "PNG" else {}
    upright = decode_image(file_of(image, kind, exif=exif, **options))
    assert upright.size == ((32, 16) if orientation in {5, 6, 7, 8} else (16, 32))
    red = upright.getchannel("R").point(lambda value: 255 if value > 128 else 0)
    assert red.getbbox() is not None
    assert red.getpixel(corner) == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"", b"x", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*" + b"\xff" * 60])
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    assert decode_image(file_of(plain("RGB", (16, 32), RED), "JPEG", exif=exif)).size == (16, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_was_cut_short_anywhere_is_refused(kind: str) -> None:
    content = file_of(noise((24, 16)), kind)
    # The last four bytes of a PNG are the checksum of an empty end.
    for length in range(len(content) - (4 if kind == "PNG" else 0)):
        assert reason_of(content[:length]) in {DAMAGED, UNREADABLE}


def test_a_flipped_bit_in_the_pixels_of_a_png_is_refused() -> None:
    content = bytearray(file_of(noise()))
    content[len(content) // 2] ^= 1
    assert reason_of(bytes(content)) == DAMAGED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"x" * 1000,
        SVG,
        EPS,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"GIF89a",
        b"<html>",
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    assert reason_of(content) in {UNREADABLE, DAMAGED}


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA"])
def test_other_kinds_of_pictures_are_refused(kind: str) -> None:
    assert reason_of(file_of(plain("RGB", (32, 32), RED), kind)) == UNREADABLE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_a_picture_of_several_frames_is_refused_rather_than_cut_to_its_first(kind: str) -> None:
    assert "more than one frame" in reason_of(animation(kind))


def test_a_gif_of_two_frames_is_refused() -> None:
    assert reason_of(animation("GIF")) == UNREADABLE


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
@pytest.mark.parametrize(
    ("kind", "side"),
    [
        *[("PNG", side) for side in (8001, 9000, 60_000, 2**31 - 1)],
        *[(kind, side) for kind in ("JPEG", "WEBP") for side in (9000, 60_000)],
    ],
)
def test_a_bomb_is_refused_by_its_declared_size_before_anything_is_decoded(
    decode: Callable[[bytes], Image.Image], kind: str, side: int
) -> None:
    content = bomb(kind, side)
    tracemalloc.start()
    try:
        reason = reason_of(content, decode)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason == f"holds more than {MAX_PIXELS // 1_000_000} megapixels" or kind == "WEBP"
    assert peak_bytes < 2_000_000


@pytest.mark.parametrize("side", [9000, 60_000])
def test_a_bomb_is_refused_where_warnings_are_only_printed(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "megapixels" in reason_of(bomb("PNG", side))


def test_sixty_four_megapixels_are_not_too_many() -> None:
    assert reason_of(bomb("PNG", 8000)) == DAMAGED


@pytest.mark.parametrize("size", [(0, 0), (0, 64), (64, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    assert reason_of(png(size, 8, 2, [b""])) in {DAMAGED, UNREADABLE}


def test_a_jpeg_of_thousands_of_scans_is_refused_by_their_number() -> None:
    assert f"more than {MAX_JPEG_SCANS} scans" in reason_of(slow_jpeg(5000))


def test_a_palette_that_is_missing_or_too_short_never_crashes() -> None:
    for content in (png((2, 1), 8, 3, [b"\0\1"]), png((2, 1), 8, 3, [b"\0\xff"], PALETTE)):
        try:
            decode_image(content)
        except UnusablePicture as problem:
            assert problem.reason in {DAMAGED, UNREADABLE}  # noqa: PT017


def test_a_compressed_comment_that_swells_is_refused() -> None:
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 200_000_000))
    assert reason_of(png((1, 1), 8, 2, [b"\0\0\0"], text)) in {DAMAGED, UNREADABLE}


GOOD_FILES = [
    file_of(noise((20, 12))),
    file_of(noise((20, 12)), "JPEG"),
    file_of(noise((20, 12)), "JPEG", progressive=True),
    file_of(noise((20, 12)), "WEBP"),
    file_of(halves((20, 12), (0, 0, 0, 0), (*RED, 255), "RGBA"), "WEBP", lossless=True),
    file_of(noise((20, 12)).quantize(16), transparency=3),
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(GOOD_FILES),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes_give_a_picture_or_a_refusal_and_nothing_else(
    content: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    for decode in (decode_image, decode_mask):
        try:
            image = decode(bytes(changed))
        except UnusablePicture:
            continue
        assert image.mode in {"RGB", "RGBA", "L"}


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBPVP8 "])
)
def test_any_bytes_are_refused(content: bytes, beginning: bytes) -> None:
    assert reason_of(beginning + content)


@pytest.mark.parametrize(("value", "may_change"), [(0, 0), (1, 0), (127, 0), (128, 255), (200, 255), (255, 255)])
def test_the_light_half_of_a_mask_may_change(value: int, may_change: int) -> None:
    for mode in ("L", "RGB"):
        image = plain(mode, (4, 2), value if mode == "L" else (value,) * 3)
        assert mask_pixels(file_of(image)) == [may_change] * 8


@pytest.mark.parametrize(("alpha", "may_change"), [(0, 255), (1, 255), (127, 255), (128, 0), (254, 0)])
def test_what_a_mask_makes_transparent_may_change_whatever_its_colour(alpha: int, may_change: int) -> None:
    for colour in (BLACK, WHITE, RED):
        image = halves((4, 1), (*colour, alpha), (*colour, 255), "RGBA")
        assert mask_pixels(file_of(image)) == [may_change] * 2 + [0] * 2


def test_a_mask_whose_alpha_is_all_opaque_is_read_by_its_grey() -> None:
    assert mask_pixels(file_of(halves((4, 1), (*BLACK, 255), (*WHITE, 255), "RGBA"))) == [0, 0, 255, 255]


def test_a_palette_mask_with_a_transparent_entry_follows_the_rule_of_transparency() -> None:
    assert mask_pixels(png((3, 1), 8, 3, [b"\0\1\2"], PALETTE, chunk(b"tRNS", b"\0"))) == [255, 0, 0]


def test_a_mask_of_one_bit_or_sixteen_is_read_by_its_grey() -> None:
    assert mask_pixels(png((2, 1), 1, 0, [b"\x40"])) == [0, 255]
    assert mask_pixels(png((3, 1), 16, 0, [struct.pack(">HHH", 300, 0x7FFF, 0x8000)])) == [0, 0, 255]


def test_a_mask_may_be_a_jpeg_and_is_turned_like_any_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = decode_mask(file_of(halves((32, 16), BLACK, WHITE), "JPEG", exif=exif))
    assert mask.size == (16, 32)
    assert (mask.getpixel((8, 2)), mask.getpixel((8, 29))) == (0, 255)


def test_a_wide_picture_is_scaled_to_cover_and_loses_its_left_and_right() -> None:
    image = plain("RGB", (200, 50), BLUE)
    image.paste(RED, (73, 0, 127, 50))
    assert cover_image(image, Size(50, 50)) == bytes(RED) * 2500


def test_a_tall_picture_is_scaled_to_cover_and_loses_its_top_and_bottom() -> None:
    image = plain("RGB", (50, 200), BLUE)
    image.paste(RED, (0, 73, 50, 127))
    assert cover_image(image, Size(50, 50)) == bytes(RED) * 2500


def test_a_mask_is_placed_as_its_picture_and_has_nothing_between_yes_and_no() -> None:
    picture = halves((300, 100), BLACK, WHITE)
    mask = decode_mask(file_of(picture))
    pixels, places = cover_image(picture, Size(64, 96)), cover_mask(mask, Size(64, 96))
    assert set(places) == {0, 255}
    different = sum(abs(light - place) > 127 for light, place in zip(pixels[::3], places, strict=True))
    assert different <= 96


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), across=st.integers(1, 40), down=st.integers(1, 40))
def test_any_size_covers_any_other(width: int, height: int, across: int, down: int) -> None:
    size = Size(across * 8, down * 8)
    assert set(cover_image(Image.new("RGB", (width, height), WHITE), size)) == {255}
    assert len(cover_image(Image.new("RGBA", (width, height), WHITE), size)) == across * down * 64 * 3
    assert cover_mask(Image.new("L", (width, height), 255), size) == b"\xff" * (across * down * 64)
