"""Guards what a provider is sent of a caller's picture: its size, its colours of a mask, its limit of bytes."""

from __future__ import annotations

import asyncio
import os
import signal
from io import BytesIO
from itertools import product
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.picture_file import write
from server.core.model_entry import Limits
from server.core.request import MaskColours, Size
from server.images.decode import UnusablePicture, cover_image, cover_mask, decode_image, decode_mask
from server.images.decoder import Decoder
from server.images.decoder_process import TOO_MUCH
from server.images.inputs import ImageInputs, fit
from server.images.pack import JPEG_QUALITIES, NOTHING_MAY_CHANGE, SMALLEST_PNG, TOO_LONG, Packed, pack
from tests.server.picture_files import BLACK, BLUE, RED, WHITE, file_of, halves, plain
from tests.server.test_decode import noise
from tests.server.test_decoder import MASK, PICTURE, good, pid, pids, refusal, run, state_of, until, until_decoding

COLOURS: tuple[MaskColours, ...] = get_args(MaskColours)
PLENTY = 50_000_000
OWN = Size(96, 64)
Pixels = npt.NDArray[np.uint8]


def opened(file: bytes) -> Image.Image:
    image = Image.open(BytesIO(file))
    image.load()
    return image


def pixels_of(file: bytes) -> Pixels:
    return np.asarray(opened(file))


def inputs_of(image: Image.Image, mask: Image.Image | None) -> ImageInputs:
    return ImageInputs(Size(*image.size), image.tobytes(), None if mask is None else mask.tobytes())


def specks(size: tuple[int, int] = (96, 64), seed: int = 2) -> Image.Image:
    """A mask without any order, so that no place can be mistaken for another."""
    return noise(size, seed).getchannel("R").point([0] * 128 + [255] * 128)


def coloured(mask: Pixels, colours: MaskColours, image: Pixels) -> Pixels:
    """The rule, pixel by pixel. mask: (H, W), 255 where it may change. image: (H, W, 3)."""
    height, width = mask.shape
    out = np.zeros((height, width, 4 if colours.startswith("alpha") else 3), np.uint8)
    for y, x in product(range(height), range(width)):
        may_change = mask[y, x] == 255
        if colours == "alpha":
            out[y, x] = (*image[y, x], 0 if may_change else 255)
        elif colours == "alpha_only":
            out[y, x] = (0, 0, 0, 0 if may_change else 255)
        elif colours == "black":
            out[y, x] = BLACK if may_change else WHITE
        else:
            out[y, x] = WHITE if may_change else BLACK
    return out


def packed(*cases: tuple[ImageInputs, Size, MaskColours, int], **options: float) -> list[Packed | str]:
    """The files, or the reasons for none, all by one process."""

    async def one(decoder: Decoder, case: tuple[ImageInputs, Size, MaskColours, int]) -> Packed | str:
        try:
            return await decoder.packed(*case)
        except UnusablePicture as problem:
            return problem.reason

    async def scenario(decoder: Decoder) -> list[Packed | str]:
        first = await good(decoder)
        answers = [await one(decoder, case) for case in cases]
        assert pid() == first
        return answers

    return run(scenario, **options)


@pytest.mark.parametrize("colours", COLOURS)
def test_every_pixel_of_a_mask_says_in_the_providers_colours_what_the_callers_said(colours: MaskColours) -> None:
    image, mask = noise((96, 64)), specks()
    (files,) = packed((inputs_of(image, mask), OWN, colours, PLENTY))
    assert isinstance(files, Packed)
    assert files.mask is not None
    assert [opened(file).format for file in (files.image, files.mask)] == ["PNG", "PNG"]
    assert (pixels_of(files.image) == np.asarray(image)).all()
    assert (pixels_of(files.mask) == coloured(np.asarray(mask), colours, np.asarray(image))).all()


def test_a_mask_in_openais_colours_is_transparent_where_the_image_may_change_and_opaque_elsewhere() -> None:
    inputs = inputs_of(plain("RGB", (96, 64), RED), halves((96, 64), (0,), (255,), "L"))
    file = pack(inputs, OWN, "alpha", PLENTY).mask
    assert file is not None
    mask = opened(file)
    assert (mask.getpixel((10, 30)), mask.getpixel((80, 30))) == ((*RED, 255), (*RED, 0))


def test_a_mask_beside_a_noisy_picture_stays_small_where_it_needs_no_colours() -> None:
    inputs = inputs_of(noise((96, 64)), halves((96, 64), (0,), (255,), "L"))
    coloured_file, bare = (pack(inputs, OWN, colours, PLENTY).mask for colours in ("alpha", "alpha_only"))
    assert coloured_file is not None
    assert bare is not None
    assert len(bare) * 20 < len(coloured_file)


@pytest.mark.parametrize("colours", ["alpha", "alpha_only", "white"])
def test_a_packed_mask_is_read_by_our_own_rule_as_it_was_sent(colours: MaskColours) -> None:
    file = pack(inputs_of(noise((96, 64)), specks()), OWN, colours, PLENTY).mask
    assert file is not None
    assert decode_mask(file).tobytes() == specks().tobytes()


@pytest.mark.parametrize("colours", COLOURS)
def test_a_picture_without_a_mask_gets_none(colours: MaskColours) -> None:
    files = pack(inputs_of(noise((96, 64)), None), OWN, colours, PLENTY)
    assert files == Packed(write(noise((96, 64)), "png"), None)


@pytest.mark.parametrize("drawn", [Size(64, 64), Size(192, 128), Size(48, 96)], ids=str)
@pytest.mark.parametrize("colours", COLOURS)
def test_in_another_size_both_are_placed_alike_and_the_mask_has_nothing_between(
    drawn: Size, colours: MaskColours
) -> None:
    image, mask = noise((96, 64)), specks()
    shape = (drawn.height_px, drawn.width_px)
    covered = np.frombuffer(cover_image(image, drawn), np.uint8).reshape(*shape, 3)
    placed = np.frombuffer(cover_mask(mask, drawn), np.uint8).reshape(shape)
    files = pack(inputs_of(image, mask), drawn, colours, PLENTY)
    assert files.mask is not None
    assert (pixels_of(files.image) == covered).all()
    assert (pixels_of(files.mask) == coloured(placed, colours, covered)).all()


def test_what_a_caller_sent_keeps_its_middle_on_its_way_to_a_provider_of_other_shapes() -> None:
    """1792 x 1024 in 1408 x 768: scaled by 11/14 to 1408 x 805, of which 18 rows go above and below."""
    image = plain("RGB", (1792, 1024), BLUE)
    image.paste(RED, (868, 484, 924, 540))
    mask = plain("L", (1792, 1024), 0)
    mask.paste(255, (868, 484, 924, 540))

    async def scenario(decoder: Decoder) -> Packed:
        inputs = await decoder.fit(file_of(image), file_of(mask), None, Limits(side_multiple_px=64))
        assert inputs.size == Size(1792, 1024)
        return await decoder.packed(inputs, Size(1408, 768), "black", PLENTY)

    files = run(scenario)
    assert files.mask is not None
    red = np.argwhere(pixels_of(files.image)[:, :, 0] > 127)
    inside = np.argwhere(pixels_of(files.mask)[:, :, 0] == 0)
    for places in (red, inside):
        assert places.mean(axis=0) == pytest.approx([383.5, 703.5], abs=0.1)
        assert np.ptp(places, axis=0) + 1 == pytest.approx([44, 44], abs=1)


def test_a_mask_of_which_nothing_is_left_is_refused_before_a_provider_is_paid_for_nothing() -> None:
    mask = plain("L", (96, 64), 0)
    mask.paste(255, (0, 0, 10, 64))
    inputs = inputs_of(noise((96, 64)), mask)
    (answer, kept) = packed((inputs, Size(64, 64), "black", PLENTY), (inputs, OWN, "black", PLENTY))
    assert answer == NOTHING_MAY_CHANGE
    assert isinstance(kept, Packed)


def stripes() -> Image.Image:
    """Stripes of noise, again and again: of little use to Huffman, and of much to a search for what repeats."""
    return Image.frombytes("RGB", (96, 64), noise((96, 2)).tobytes() * 32)


@pytest.mark.parametrize("colours", COLOURS)
def test_a_picture_that_is_too_long_is_compressed_harder_and_loses_nothing(colours: MaskColours) -> None:
    quick, small = write(stripes(), "png"), write(stripes(), "png", **SMALLEST_PNG)
    assert len(small) < len(quick) // 4
    inputs = inputs_of(stripes(), None)
    assert pack(inputs, OWN, colours, len(quick)).image == quick
    for max_bytes in (len(quick) - 1, len(small)):
        assert pack(inputs, OWN, colours, max_bytes).image == small
    assert (pixels_of(small) == np.asarray(stripes())).all()


@pytest.mark.parametrize("colours", ["black", "white"])
def test_a_picture_that_no_png_makes_short_enough_becomes_a_jpeg_of_the_best_quality_that_is(
    colours: MaskColours,
) -> None:
    image, mask = noise((96, 64)), halves((96, 64), (0,), (255,), "L")
    jpegs = [write(image, "jpeg", quality) for quality in JPEG_QUALITIES]
    assert JPEG_QUALITIES == (95, 85, 75)
    assert len(write(image, "png", **SMALLEST_PNG)) > len(jpegs[0]) > len(jpegs[1]) > len(jpegs[2])
    cases = [(inputs_of(image, mask), OWN, colours, len(jpeg) + more) for jpeg in jpegs for more in (0, -1)]
    answers = packed(*cases)
    files = [answer.image if isinstance(answer, Packed) else answer for answer in answers]
    assert files == [jpegs[0], jpegs[1], jpegs[1], jpegs[2], jpegs[2], TOO_LONG]
    masks = {answer.mask for answer in answers if isinstance(answer, Packed)}
    assert masks == {pack(*cases[0]).mask}


@pytest.mark.parametrize("mask", [None, specks()], ids=["no mask", "mask"])
def test_where_the_mask_is_the_image_with_transparency_neither_is_ever_a_jpeg(mask: Image.Image | None) -> None:
    inputs = inputs_of(noise((96, 64)), mask)
    least = len(write(noise((96, 64)), "png")) - 1
    with pytest.raises(UnusablePicture, match=TOO_LONG):
        pack(inputs, OWN, "alpha", least)


def test_a_mask_of_two_colours_is_no_burden_to_send() -> None:
    mask = plain("L", (1024, 1024), 0)
    mask.paste(255, (200, 300, 700, 800))
    file = pack(inputs_of(plain("RGB", (1024, 1024), RED), mask), Size(1024, 1024), "black", PLENTY).mask
    assert file is not None
    assert len(file) < 20_000


def test_a_mask_that_is_too_long_is_refused_even_where_its_image_is_not() -> None:
    inputs = inputs_of(plain("RGB", (96, 64), RED), specks())
    with pytest.raises(UnusablePicture, match=TOO_LONG):
        pack(inputs, OWN, "black", 400)
    assert pack(ImageInputs(OWN, inputs.image, None), OWN, "black", 400).image


SIDES = st.integers(1, 80)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(COLOURS), st.integers(0, 2**32))
def test_any_size_is_packed_in_any_other_with_a_mask_that_says_yes_or_no(
    width: int, height: int, across: int, down: int, colours: MaskColours, seed: int
) -> None:
    drawn = Size(across, down)
    inputs = inputs_of(noise((width, height), seed), specks((width, height), seed))
    try:
        files = pack(inputs, drawn, colours, PLENTY)
    except UnusablePicture as problem:
        assert problem.reason == NOTHING_MAY_CHANGE  # noqa: PT017
        assert inputs.mask is not None
        assert 255 not in cover_mask(Image.frombytes("L", (width, height), inputs.mask), drawn)
        return
    assert files.mask is not None
    mask = opened(files.mask)
    assert opened(files.image).size == mask.size == (across, down)
    said = mask.getchannel("A") if colours == "alpha" else mask.getchannel("R")
    assert set(said.tobytes()) <= {0, 255}
    assert (255 if colours == "white" else 0) in said.tobytes()
    assert files == pack(inputs, drawn, colours, PLENTY)


def test_one_process_packs_as_this_one_would_and_another_process_writes_the_same_bytes() -> None:
    sizes = (OWN, Size(64, 64), Size(200, 40))
    pictures = (inputs_of(noise((96, 64)), specks()), inputs_of(noise((40, 72)), None), fit(PICTURE, MASK, None, WIDE))
    cases = list(product(pictures, sizes, COLOURS, (PLENTY,)))
    answers = packed(*cases)
    assert answers == [pack(*case) for case in cases]
    assert answers[::5] == packed(*cases[::5])


WIDE = Limits(min_side_px=64, max_side_px=4096, max_pixels=4096 * 4096)


def large() -> ImageInputs:
    """Takes a while: it is first written in vain."""
    return ImageInputs(Size(4096, 4096), noise((4096, 16)).tobytes() * 256, None)


def test_a_process_that_dies_while_it_packs_costs_that_request_alone() -> None:
    async def scenario(decoder: Decoder) -> None:
        killed = asyncio.create_task(decoder.packed(large(), Size(4096, 4096), "black", 1))
        process = await until_decoding()
        os.kill(process, signal.SIGKILL)
        with pytest.raises(UnusablePicture, match=TOO_MUCH):
            await killed
        assert await good(decoder) != process

    run(scenario)


def test_a_process_that_hangs_while_it_packs_is_killed_and_replaced() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(UnusablePicture, match=TOO_MUCH):
            await decoder.packed(inputs_of(noise((96, 64)), None), OWN, "black", PLENTY)
        await until(lambda: state_of(first) == "")
        assert await good(decoder) != first

    run(scenario, timeout_seconds=3)


def test_a_server_that_stops_while_a_process_packs_says_so() -> None:
    async def scenario(decoder: Decoder) -> None:
        waiting = asyncio.create_task(refusal(decoder.packed(large(), Size(4096, 4096), "black", 1)))
        await until_decoding()
        await decoder.stop()
        assert pids() == []
        assert (await waiting).status == 503

    run(scenario)


def test_a_packed_picture_holds_what_the_caller_sent_and_no_word_more() -> None:
    exif = Image.Exif()
    exif[0x010E] = "CANARY"
    content = file_of(noise((96, 64)), exif=exif)
    assert b"CANARY" in content
    files = pack(fit(content, None, None, WIDE), OWN, "alpha", PLENTY)
    assert opened(files.image).info == {}
    assert files.image == write(decode_image(content), "png")
