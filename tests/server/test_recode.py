"""Guards what becomes of a provider's picture: our own file of the right size, or UnusablePicture, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import zlib
from collections.abc import Awaitable
from functools import cache
from io import BytesIO
from itertools import product
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from pipelines.engine.encode import encode
from pipelines.messages import Output, OutputFormat
from server.core.request import Size
from server.images.decode import UnusablePicture, cover_image, decode_image, size_of
from server.images.decoder import Decoder
from server.images.decoder_process import MEMORY_BYTES, TOO_MUCH
from server.images.recode import MAX_RECODED_BYTES, MAX_RECODED_PIXELS, recode
from tests.server.picture_files import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    animation,
    bomb,
    chunk,
    file_of,
    halves,
    plain,
    png,
    slow_jpeg,
)
from tests.server.test_decode import GOOD_FILES, SIXTEEN_BIT, TRANSPARENT, noise
from tests.server.test_decoder import (
    PICTURE,
    good,
    pid,
    pids,
    refusal,
    run,
    state_of,
    status_bytes,
    until,
    until_decoding,
)

FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
DAMAGED, UNREADABLE = "is damaged or incomplete", "is no PNG, JPEG or WebP picture that can be read"
TOO_LARGE = "holds more than 16 megapixels"
SQUARE = Size(64, 64)
# What Pillow tells of every JPEG and of every WebP, none of it from the file's sender.
SAID_OF_EVERY_FILE = {
    "jfif",
    "jfif_version",
    "jfif_unit",
    "jfif_density",
    "loop",
    "background",
    "timestamp",
    "duration",
}


@cache
def real_bomb() -> bytes:
    """A whole PNG of 9000 x 9000 in 236 KB: Pillow's own guard lets it pass, and it takes 331 MB."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(1 + 3 * 9000)) for _ in range(9000)) + packer.flush()
    header, _, rest = png((9000, 9000), 8, 2, [b""]).partition(b"\0\0\0\x09IDAT")
    assert rest
    return header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@cache
def largest(mode: str = "RGBA") -> bytes:
    """As many pixels as are taken, in a small file that takes its time."""
    bands = len(mode)
    return png((4096, 4096), 8, {1: 0, 3: 2, 4: 6}[bands], [b"\x80" * 4096 * bands] * 4096)


HOSTILE = {
    "empty": (b"", UNREADABLE),
    "garbage": (bytes(range(256)) * 400, UNREADABLE),
    "a web page": (b"<!doctype html><title>502 Bad Gateway</title>", UNREADABLE),
    "SVG": (SVG, UNREADABLE),
    "GIF": (file_of(plain("RGB", (96, 96), RED), "GIF"), UNREADABLE),
    "animated GIF": (animation("GIF"), UNREADABLE),
    "animated PNG": (animation("PNG"), "holds more than one frame; send a single picture"),
    "animated WebP": (animation("WEBP"), "holds more than one frame; send a single picture"),
    "truncated PNG": (file_of(noise())[:-30], DAMAGED),
    "truncated JPEG": (file_of(noise(), "JPEG")[:-30], DAMAGED),
    "truncated WebP": (file_of(noise(), "WEBP")[:-30], UNREADABLE),
    "one pixel row too many": (png((4096, 4097), 8, 2, [b"\0" * 16]), TOO_LARGE),
    "bomb of a header": (bomb("PNG", 60_000), TOO_LARGE),
    "JPEG bomb": (bomb("JPEG", 9000), TOO_LARGE),
    "JPEG of thousands of scans": (slow_jpeg(5000), "is a JPEG of more than 100 scans"),
}


def opened(file: bytes) -> Image.Image:
    image = Image.open(BytesIO(file))
    image.load()
    return image


def pixels_of(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image, np.int64)


def through_process(*cases: tuple[Any, ...], **options: float) -> list[bytes | str]:
    """The files, or the reasons for none, all by one process."""

    async def one(decoder: Decoder, case: tuple[Any, ...]) -> bytes | str:
        try:
            return await decoder.recoded(*case[:4], keeps_alpha=case[4])
        except UnusablePicture as problem:
            return problem.reason

    async def scenario(decoder: Decoder) -> list[bytes | str]:
        first = await good(decoder)
        answers = [await one(decoder, case) for case in cases]
        assert pid() == first
        return answers

    return run(scenario, **options)


async def reason(answer: Awaitable[object]) -> str:
    with pytest.raises(UnusablePicture) as caught:
        await answer
    return caught.value.reason


def test_every_format_comes_out_as_it_was_asked_for_and_as_the_worker_writes_it() -> None:
    image = noise()
    wanted = [Output(name, compression) for name, compression in product(FORMATS, (0, 50, 89, 90, 100))]
    cases = [(file_of(image), size_of(image), output.format, output.compression, False) for output in wanted]
    assert through_process(*cases) == [encode(np.asarray(image), output) for output in wanted]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("output", FORMATS)
def test_every_kind_of_picture_becomes_every_format(kind: str, output: OutputFormat) -> None:
    content = file_of(halves((96, 64), RED, BLUE), kind, quality=95)
    image = opened(recode(content, Size(96, 64), output, 100, False))
    assert (image.format, image.mode, image.size) == (output.upper(), "RGB", (96, 64))
    off = np.abs(pixels_of(image) - pixels_of(decode_image(content)))
    assert off.mean() < 3
    assert output != "png" or off.max() == 0


ALPHA = Image.merge("RGBA", (*noise().split(), Image.linear_gradient("L").resize((64, 48))))


def test_what_is_transparent_stays_so_in_a_png_where_that_was_asked_for() -> None:
    image = opened(recode(file_of(ALPHA), Size(64, 48), "png", 100, True))
    assert image.mode == "RGBA"
    assert image.tobytes() == ALPHA.tobytes()


def test_what_is_transparent_stays_so_in_a_webp_where_that_was_asked_for() -> None:
    image = opened(recode(file_of(ALPHA), Size(64, 48), "webp", 80, True))
    assert image.mode == "RGBA"
    assert image.getchannel("A").tobytes() == ALPHA.getchannel("A").tobytes()


@pytest.mark.parametrize(("output", "keeps_alpha"), [("jpeg", True), *((name, False) for name in FORMATS)])
def test_what_is_transparent_lies_on_white_otherwise(output: OutputFormat, keeps_alpha: bool) -> None:
    content = file_of(ALPHA)
    on_paper = file_of(Image.frombytes("RGB", ALPHA.size, cover_image(ALPHA, size_of(ALPHA))))
    recoded = recode(content, Size(64, 48), output, 90, keeps_alpha)
    assert recoded == recode(on_paper, Size(64, 48), output, 90, False)
    assert opened(recoded).mode == "RGB"


@pytest.mark.parametrize("output", FORMATS)
def test_an_opaque_picture_gets_no_transparency(output: OutputFormat) -> None:
    content = file_of(noise())
    kept, dropped = (recode(content, Size(64, 48), output, 100, keeps_alpha) for keeps_alpha in (True, False))
    assert kept == dropped


@pytest.mark.parametrize(("content", "pixels"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_every_form_of_transparency_is_kept_or_laid_on_white(content: bytes, pixels: list[tuple[int, ...]]) -> None:
    size = size_of(decode_image(content))
    kept = opened(recode(content, size, "png", 100, True))
    assert kept.mode == "RGBA"
    assert kept.tobytes() == decode_image(content).tobytes()
    laid = pixels_of(opened(recode(content, size, "png", 100, False))).reshape(-1, 3)
    assert np.abs(laid - np.array(pixels)).max() <= 1


@pytest.mark.parametrize(("content", "pixels"), SIXTEEN_BIT.values(), ids=SIXTEEN_BIT)
def test_of_sixteen_bits_the_upper_eight_stay(content: bytes, pixels: list[tuple[int, ...]]) -> None:
    image = opened(recode(content, size_of(decode_image(content)), "png", 100, False))
    assert pixels_of(image).reshape(-1, 3).tolist() == [list(pixel) for pixel in pixels]


def test_a_cmyk_jpeg_becomes_rgb_of_its_colour() -> None:
    content = file_of(plain("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    image = opened(recode(content, Size(16, 16), "png", 100, True))
    assert image.mode == "RGB"
    assert np.abs(pixels_of(image) - np.array(RED)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("output", FORMATS)
def test_a_picture_that_was_held_sideways_is_turned_and_forgets_it(kind: str, output: OutputFormat) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_of(halves((64, 32), RED, BLUE), kind, exif=exif)
    image = opened(recode(content, Size(32, 64), output, 100, False))
    assert dict(image.getexif()) == {}
    top, bottom = pixels_of(image)[8, 16], pixels_of(image)[56, 16]
    assert np.abs(top - np.array(RED)).max() <= 8
    assert np.abs(bottom - np.array(BLUE)).max() <= 8


def told(kind: str, image: Image.Image, **options: Any) -> bytes:
    """A file that says of itself all that its format can say."""
    exif = Image.Exif()
    exif[0x010E], exif[0x8825] = "CANARY", {1: "N", 2: (52.0, 31.0, 0.0)}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"CANARY"
    texts = PngInfo()
    texts.add_text("Software", "CANARY")
    texts.add_text("prompt", "CANARY", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>CANARY</x:xmpmeta>")
    told = {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}
    if kind == "PNG":
        return file_of(image, kind, **told, pnginfo=texts, **options)
    further = {"comment": b"CANARY"} if kind == "JPEG" else {}
    return file_of(image, kind, **told, xmp=b"<x:xmpmeta>CANARY</x:xmpmeta>", **further, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("size", [Size(64, 48), Size(40, 40)], ids=str)
def test_nothing_that_a_file_says_of_itself_comes_out(kind: str, output: OutputFormat, size: Size) -> None:
    content = told(kind, noise())
    assert {"exif", "icc_profile"} < opened(content).info.keys()
    assert b"CANARY" in content
    file = recode(content, size, output, 90, False)
    assert file == recode(file_of(noise(), kind), size, output, 90, False)
    image = opened(file)
    assert image.info.keys() <= SAID_OF_EVERY_FILE
    assert not isinstance(image, JpegImagePlugin.JpegImageFile) or [name for name, _ in image.applist] == ["APP0"]


def test_nothing_that_a_transparent_file_says_of_itself_comes_out() -> None:
    for kind, output in (("PNG", "png"), ("WEBP", "webp")):
        options = {} if kind == "PNG" else {"lossless": True}
        file = recode(told(kind, ALPHA, **options), Size(64, 48), output, 90, True)  # type: ignore[arg-type]
        assert opened(file).mode == "RGBA"
        assert opened(file).info.keys() <= SAID_OF_EVERY_FILE
        assert b"CANARY" not in file


def crossed(size: tuple[int, int]) -> Image.Image:
    """Blue, with a white block in the very middle, a red edge at the left and a green one at the right."""
    width, height = size
    image = plain("RGB", size, BLUE)
    image.paste(WHITE, (width // 2 - 16, height // 2 - 16, width // 2 + 16, height // 2 + 16))
    image.paste(RED, (0, 0, 28, height))
    image.paste(GREEN, (width - 28, 0, width, height))
    return image


def test_a_provider_that_knows_only_other_shapes_leaves_the_middle_in_the_middle() -> None:
    """Scaled by 4/3 to 1877 x 1024; then 43 columns go at either side, and with them the edges of 28 * 4/3."""
    (file,) = through_process((file_of(crossed((1408, 768))), Size(1792, 1024), "png", 100, False))
    assert isinstance(file, bytes)
    pixels = pixels_of(opened(file))
    assert pixels.shape == (1024, 1792, 3)
    assert np.abs(pixels - pixels_of(Image.new("RGB", (1, 1), BLUE))).max(axis=2)[:, 0].max() <= 40
    white = np.argwhere((pixels > 127).all(axis=2))
    assert white.mean(axis=0) == pytest.approx([511.5, 895.5], abs=0.1)
    assert np.ptp(white, axis=0) + 1 == pytest.approx([42.7, 42.7], abs=1.5)


def test_a_tall_shape_loses_its_top_and_bottom() -> None:
    image = crossed((1408, 768)).transpose(Image.Transpose.ROTATE_90)
    pixels = pixels_of(opened(recode(file_of(image), Size(512, 512), "png", 100, False)))
    white = np.argwhere((pixels > 127).all(axis=2))
    assert white.mean(axis=0) == pytest.approx([255.5, 255.5], abs=0.1)
    assert not (pixels[:, :, 0] > pixels[:, :, 2]).any()


SIDES = st.integers(1, 120)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(FORMATS), st.booleans())
def test_any_size_becomes_any_other(
    width: int, height: int, across: int, down: int, output: OutputFormat, keeps_alpha: bool
) -> None:
    content = file_of(plain("RGBA", (width, height), (*RED, 255)))
    image = opened(recode(content, Size(across, down), output, 100, keeps_alpha)).convert("RGB")
    assert image.size == (across, down)
    assert np.abs(pixels_of(image) - np.array(RED)).max() <= 8


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32))
def test_both_sides_of_any_picture_are_treated_alike(
    width: int, height: int, across: int, down: int, seed: int
) -> None:
    image = noise((width, height), seed)
    there, back = (
        opened(recode(file_of(turned), Size(across, down), "png", 100, False))
        for turned in (image, image.transpose(Image.Transpose.ROTATE_180))
    )
    assert np.abs(pixels_of(there) - pixels_of(back.transpose(Image.Transpose.ROTATE_180))).max() <= 2


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(GOOD_FILES), st.sampled_from(FORMATS), st.integers(0, 100), st.booleans(), SIDES, SIDES)
def test_the_same_file_gives_the_same_bytes(
    content: bytes, output: OutputFormat, compression: int, keeps_alpha: bool, width: int, height: int
) -> None:
    first, second = (recode(content, Size(width, height), output, compression, keeps_alpha) for _ in range(2))
    assert first == second


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    content=st.sampled_from(GOOD_FILES),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes_give_a_file_or_unusable_picture_and_nothing_else(
    content: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    try:
        file = recode(bytes(changed), Size(24, 24), "png", 100, True)
    except UnusablePicture:
        return
    assert opened(file).size == (24, 24)


def test_one_process_answers_as_this_one_would_and_another_process_says_the_same() -> None:
    pictures = [file_of(ALPHA), file_of(noise(), "JPEG"), file_of(ALPHA, "WEBP"), *GOOD_FILES]
    cases = list(product(pictures, (SQUARE, Size(64, 48)), FORMATS, (40, 100), (False, True)))
    answers = through_process(*cases, pictures_per_process=len(cases) + 2)
    assert answers == [recode(*case) for case in cases]
    assert answers[::7] == through_process(*cases[::7])


def test_what_is_no_picture_is_named_and_the_process_works_on() -> None:
    answers = through_process(*((content, SQUARE, "png", 100, False) for content, _ in HOSTILE.values()))
    assert dict(zip(HOSTILE, answers, strict=True)) == {name: reason for name, (_, reason) in HOSTILE.items()}


def test_a_picture_bomb_is_refused_before_it_takes_any_memory() -> None:
    assert 230_000 < len(real_bomb()) < 240_000

    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        before_bytes = status_bytes(first, "VmHWM")
        assert await reason(decoder.recoded(real_bomb(), SQUARE, "png", 100)) == TOO_LARGE
        assert pid() == first
        assert status_bytes(first, "VmHWM") - before_bytes < 8_000_000

    run(scenario)


def test_as_many_pixels_as_are_allowed_stay_far_below_the_limit_of_memory() -> None:
    async def scenario(decoder: Decoder) -> None:
        file = await decoder.recoded(largest(), Size(4096, 4096), "png", 100, keeps_alpha=True)
        assert Image.open(BytesIO(file)).size == (4096, 4096)
        assert status_bytes(pid(), "VmPeak") < 0.5 * MEMORY_BYTES

    assert MAX_RECODED_PIXELS == 4096 * 4096
    run(scenario)


def test_a_file_of_more_bytes_than_allowed_reaches_no_process() -> None:
    async def scenario(decoder: Decoder) -> None:
        too_long = bytes(MAX_RECODED_BYTES + 1)
        assert await reason(decoder.recoded(too_long, SQUARE, "png", 100)) == "has more than 64 MiB"
        assert pids() == []
        assert await reason(decoder.recoded(too_long[:-1], SQUARE, "png", 100)) == UNREADABLE

    run(scenario)


def test_a_process_that_dies_over_a_providers_picture_costs_that_picture_alone() -> None:
    async def scenario(decoder: Decoder) -> None:
        killed = asyncio.create_task(reason(decoder.recoded(largest(), Size(4096, 4096), "webp", 100)))
        in_line = asyncio.create_task(decoder.recoded(PICTURE, SQUARE, "jpeg", 80))
        process = await until_decoding()
        os.kill(process, signal.SIGKILL)
        assert await killed == TOO_MUCH
        assert await in_line == recode(PICTURE, SQUARE, "jpeg", 80, False)
        assert await good(decoder) != process

    run(scenario)


def test_a_process_that_hangs_over_a_providers_picture_is_killed_and_replaced() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        os.kill(first, signal.SIGSTOP)
        assert await reason(decoder.recoded(PICTURE, SQUARE, "png", 100)) == TOO_MUCH
        await until(lambda: state_of(first) == "")
        assert await good(decoder) != first

    run(scenario, timeout_seconds=3)


def test_a_picture_that_takes_more_memory_than_there_is_is_given_up_and_the_process_works_on() -> None:
    (answer,) = through_process((largest(), Size(4096, 4096), "png", 100, True), memory_bytes=150 * 1024**2)
    assert answer == TOO_MUCH


def test_a_provider_that_is_given_up_in_the_middle_of_its_picture_spoils_nobody_elses() -> None:
    async def scenario(decoder: Decoder) -> None:
        leaving = asyncio.create_task(decoder.recoded(largest(), Size(4096, 4096), "webp", 100))
        process = await until_decoding()
        leaving.cancel()
        assert await decoder.recoded(PICTURE, SQUARE, "png", 100) == recode(PICTURE, SQUARE, "png", 100, False)
        assert pid() != process

    run(scenario)


def test_twenty_answers_of_a_provider_beside_twenty_callers_each_stay_their_own() -> None:
    async def scenario(decoder: Decoder) -> list[bytes]:
        files = [file_of(plain("RGB", (64, 64), (10 * i, 255 - i, i))) for i in range(20)]
        recoded = (decoder.recoded(file, SQUARE, "png", 100) for file in files)
        answers = await asyncio.gather(*recoded, *(good(decoder) for _ in range(20)), return_exceptions=False)
        return [answer for answer in answers if isinstance(answer, bytes)]

    answers = run(scenario)
    assert [opened(answer).getpixel((5, 5)) for answer in answers] == [(10 * i, 255 - i, i) for i in range(20)]


def test_a_server_that_stops_is_no_fault_of_the_picture() -> None:
    async def scenario(decoder: Decoder) -> None:
        waiting = [
            asyncio.create_task(refusal(decoder.recoded(largest(), Size(4096, 4096), "webp", 100))) for _ in range(2)
        ]
        await until_decoding()
        await decoder.stop()
        assert [(await error).status for error in waiting] == [503] * 2
        assert (await refusal(decoder.recoded(PICTURE, SQUARE, "png", 100))).status == 503

    run(scenario)


def test_where_no_process_can_be_started_the_provider_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(decoder: Decoder) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            error = await refusal(decoder.recoded(PICTURE, SQUARE, "png", 100))
        assert (error.status, error.code) == (503, "server_is_overloaded")

    run(scenario)
