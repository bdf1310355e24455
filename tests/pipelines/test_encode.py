"""Guards what is written into a picture file: the pixels in the format that was asked for, and facts, whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, JpegImagePlugin

from pipelines.engine.encode import SAMPLERS, Pixels, encode, parameters_text
from pipelines.messages import Facts, Output, OutputFormat, SamplerName, Submit, to_command, to_frame
from server.images.inspect import facts_of
from tests.pipelines.test_messages import HEADER_BYTES, PARAMS

ROOT = Path(__file__).resolve().parents[2]
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
LOSSY: tuple[OutputFormat, ...] = ("jpeg", "webp")
MAGIC = {"png": rb"\x89PNG\r\n\x1a\n", "jpeg": rb"\xff\xd8\xff", "webp": rb"RIFF....WEBP"}
WIDTH, HEIGHT = 96, 64
FACTS: Facts = {
    "prompt": "a red circle,\nthe second line",
    "negative_prompt": "blurry, text",
    "steps": 20,
    "sampler": "dpmpp_2m_karras",
    "guidance_scale": 7.0,
    "seed": 2**64 - 1,
    "width": WIDTH,
    "height": HEIGHT,
    "weights_digest": "45dee52b",
    "model": "demo-sdxl",
}
PARAMETERS = (
    "a red circle,\nthe second line\n"
    "Negative prompt: blurry, text\n"
    "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 18446744073709551615, Size: 96x64, Model hash: 45dee52b, "
    "Model: demo-sdxl"
)


def picture(seed: int = 0) -> Pixels:
    """Soft colours with a little noise, as a photograph has."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    soft = np.stack([across * 2, down * 3, 255 - across - down], axis=-1)
    return (soft + np.random.default_rng(seed).integers(0, 5, soft.shape)).clip(0, 255).astype(np.uint8)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def differences(content: bytes, pixels: Pixels) -> npt.NDArray[np.int64]:
    off: npt.NDArray[np.int64] = np.abs(np.asarray(opened(content).convert("RGB"), np.int64) - pixels.astype(np.int64))
    return off


def parameters_in(content: bytes) -> str | None:
    """What a tool that reads the web UI's files finds."""
    image = opened(content)
    if image.format == "PNG":
        return image.info.get("parameters")
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if comment is None:
        return None
    assert comment.startswith(b"UNICODE\0")
    return str(comment[8:].decode("utf-16-be"))


def settings_in(parameters: str) -> dict[str, str]:
    """The last line, by name."""
    found = re.findall(r'([A-Z][A-Za-z ]*): ("(?:[^"\\]|\\.)*"|[^,]*)', parameters.rpartition("\n")[2])
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("facts", [{}, FACTS], ids=["plain", "with facts"])
def test_a_file_is_what_its_format_says_and_as_large_as_its_pixels(name: OutputFormat, facts: Facts) -> None:
    content = encode(picture(), Output(name, 80, facts))
    assert re.match(MAGIC[name], content, re.DOTALL)
    image = opened(content)
    assert (image.format, image.mode, image.size) == (name.upper(), "RGB", (WIDTH, HEIGHT))
    image.load()


@pytest.mark.parametrize("compression", [0, 50, 100])
def test_a_png_holds_every_pixel_whatever_the_compression(compression: int) -> None:
    content = encode(picture(), Output("png", compression))
    assert differences(content, picture()).max() == 0
    assert content == encode(picture(), Output("png"))


@pytest.mark.parametrize("name", LOSSY)
def test_the_best_quality_is_close_to_the_pixels(name: OutputFormat) -> None:
    off = differences(encode(picture(), Output(name, 100)), picture())
    assert off.mean() < 2
    assert off.max() < 16


@pytest.mark.parametrize("name", LOSSY)
def test_a_lower_compression_value_gives_a_smaller_and_a_worse_file(name: OutputFormat) -> None:
    files = [encode(picture(), Output(name, value)) for value in (100, 75, 50, 25, 0)]
    assert all(len(better) > len(worse) for better, worse in pairwise(files))
    assert differences(files[-1], picture()).mean() > 2 * differences(files[0], picture()).mean()


def test_a_jpeg_is_never_written_above_the_quality_that_pillow_advises() -> None:
    best = encode(picture(), Output("jpeg", 95))
    assert {encode(picture(), Output("jpeg", value)) for value in range(95, 101)} == {best}
    assert encode(picture(), Output("jpeg", 94)) != best


@pytest.mark.parametrize(("compression", "sampling"), [(100, 0), (90, 0), (89, 2), (0, 2)])
def test_a_jpeg_keeps_its_colours_whole_from_90_upwards(compression: int, sampling: int) -> None:
    image = opened(encode(picture(), Output("jpeg", compression)))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(image) == sampling


def test_a_webp_of_the_best_quality_is_lossy() -> None:
    content = encode(picture(), Output("webp", 100))
    assert b"VP8 " in content[:64]
    assert b"VP8L" not in content[:64]


def test_a_side_that_webp_cannot_hold_is_an_error_and_no_file() -> None:
    with pytest.raises(ValueError, match="16383"):
        encode(np.zeros((16384, 8, 3), np.uint8), Output("webp"))


OUTPUTS = st.builds(
    Output,
    format=st.sampled_from(FORMATS),
    compression=st.integers(0, 100),
    facts=st.dictionaries(
        st.text(max_size=20) | st.sampled_from(sorted(FACTS)),
        st.text(max_size=200) | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
        max_size=12,
    ),
)


@settings(max_examples=100, deadline=None, database=None)
@given(OUTPUTS, st.integers(0, 2**32))
def test_the_same_pixels_and_output_give_the_same_bytes(output: Output, seed: int) -> None:
    again = Output(output.format, output.compression, dict(reversed(output.facts.items())))
    assert encode(picture(seed), output) == encode(picture(seed), again)


def test_another_process_writes_the_same_bytes() -> None:
    code = (
        "import hashlib; from pipelines.engine.encode import encode; from pipelines.messages import Output\n"
        "from tests.pipelines.test_encode import FACTS, FORMATS, picture\n"
        "for name in FORMATS: print(hashlib.sha256(encode(picture(), Output(name, 90, FACTS))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        text=True,
    )
    here = [hashlib.sha256(encode(picture(), Output(name, 90, FACTS))).hexdigest() for name in FORMATS]
    assert finished.stdout.split() == here


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_facts_tells_nothing(name: OutputFormat) -> None:
    content = encode(picture(), Output(name))
    assert set(opened(content).info) & {"exif", "xmp", "parameters", "safelight", "comment", "icc_profile"} == set()
    assert all(mark not in content for mark in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf", b"Exif", b"XMP", b"xap"))


@pytest.mark.parametrize("name", FORMATS)
def test_facts_change_no_pixel(name: OutputFormat) -> None:
    plain, told = (opened(encode(picture(), Output(name, 80, facts))).tobytes() for facts in ({}, FACTS))
    assert plain == told


@settings(max_examples=200, deadline=None, database=None)
@given(OUTPUTS)
def test_any_facts_are_read_back_as_they_were_written(output: Output) -> None:
    content = encode(picture(), output)
    if output.facts:
        read = facts_of(content)
        assert read == output.facts
        assert {name: type(value) for name, value in read.items()} == {
            name: type(value) for name, value in output.facts.items()
        }
    assert (parameters_in(content) or "") == parameters_text(output.facts)


@pytest.mark.parametrize(
    "text", ["", "\0\x1b\x7f\x85\r\n", "\ufffe\uffff\ufeff", "</rdf:RDF>]]>&amp;<!--", "\U0001f534é"]
)
@pytest.mark.parametrize("name", FORMATS)
def test_texts_that_break_careless_writers_are_read_back(name: OutputFormat, text: str) -> None:
    content = encode(picture(), Output(name, 80, {"prompt": text, "steps": 4}))
    assert facts_of(content) == {"prompt": text, "steps": 4}


def test_a_png_holds_compact_json_with_sorted_names() -> None:
    text = opened(encode(picture(), Output("png", facts={"steps": 4, "prompt": "é \U0001f534"}))).info["safelight"]
    assert text == '{"prompt":"é \U0001f534","steps":4}'


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_parameters_as_the_web_ui_writes_them(name: OutputFormat) -> None:
    assert parameters_in(encode(picture(), Output(name, facts=FACTS))) == PARAMETERS


def test_the_parameters_leave_out_what_is_not_known() -> None:
    assert parameters_text({"prompt": "x", "width": 8, "seed": 0, "anything": "else"}) == "x\nSeed: 0"
    assert parameters_text({"steps": 4, "width": 8, "height": 16, "negative_prompt": ""}) == "Steps: 4, Size: 8x16"
    assert parameters_text({"anything": "else"}) == ""


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters='"'), min_size=1).filter(lambda text: text == text.strip())
)
def test_a_name_with_commas_colons_or_lines_spoils_no_other_setting(model: str) -> None:
    found = settings_in(parameters_text({"steps": 4, "model": model, "weights_digest": "sha256:ab", "seed": 7}))
    assert found == {"Steps": "4", "Seed": "7", "Model hash": "sha256:ab", "Model": model}


def test_a_guidance_that_is_no_whole_number_is_written_in_full() -> None:
    assert settings_in(parameters_text({"guidance_scale": 7.25})) == {"CFG scale": "7.25"}


def test_every_sampler_but_the_checkpoints_own_has_the_web_uis_name() -> None:
    assert set(SAMPLERS) == set(get_args(SamplerName)) - {"checkpoint"}
    assert settings_in(parameters_text({"sampler": "checkpoint"})) == {"Sampler": "checkpoint"}


ALPHABETS = {"ascii": "a", "two bytes": "é", "three bytes": "語", "four bytes": "\U0001f534", "control": "\x01"}


@pytest.mark.parametrize("character", ALPHABETS.values(), ids=ALPHABETS.keys())
@pytest.mark.parametrize("name", ["png", "webp"])
def test_the_longest_prompts_stay_whole_in_png_and_webp(name: OutputFormat, character: str) -> None:
    facts = FACTS | {"prompt": character * 32_000, "negative_prompt": character * 32_000}
    assert facts_of(encode(picture(), Output(name, 80, facts))) == facts


def test_a_long_prompt_of_plain_letters_stays_whole_in_a_jpeg() -> None:
    facts = FACTS | {"prompt": "a" * 32_000}
    assert facts_of(encode(picture(), Output("jpeg", 80, facts))) == facts


@pytest.mark.parametrize("character", list(ALPHABETS.values())[1:], ids=list(ALPHABETS)[1:])
def test_a_prompt_too_long_for_a_jpeg_is_cut_where_the_room_ends_and_the_file_says_so(character: str) -> None:
    prompt = character * 64_000
    content = encode(picture(), Output("jpeg", 80, FACTS | {"prompt": prompt}))
    facts = facts_of(content)
    kept = str(facts["prompt"])
    assert facts == FACTS | {"prompt": kept, "prompt_is_cut": 1}
    assert prompt.startswith(kept)
    fullest = max(len(segment) for segment in segments_of(content))
    assert 65_533 - 12 <= fullest <= 65_533
    assert parameters_in(content) == PARAMETERS.replace(str(FACTS["prompt"]), kept)


def segments_of(content: bytes) -> list[bytes]:
    """The metadata segments of a JPEG, without marker and length."""
    image = opened(content)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return [segment for _, segment in image.applist]


def test_both_prompts_are_cut_to_one_length_and_a_short_one_stays_whole() -> None:
    facts = facts_of(encode(picture(), Output("jpeg", 80, FACTS | {"prompt": "é" * 40_000, "negative_prompt": "no"})))
    assert facts["negative_prompt"] == "no"
    facts = facts_of(encode(picture(), Output("jpeg", 80, {"prompt": "a" * 32_000, "negative_prompt": "b" * 32_000})))
    assert len(str(facts["prompt"])) == len(str(facts["negative_prompt"])) > 16_000


@pytest.mark.parametrize(
    ("name", "facts"),
    [("jpeg", {"model": "x" * 70_000}), *((name, {"guidance_scale": float("nan")}) for name in FORMATS)],
)
def test_facts_that_cannot_be_written_are_an_error_and_never_left_out(name: OutputFormat, facts: Facts) -> None:
    with pytest.raises(ValueError, match=r"facts|JSON"):
        encode(picture(), Output(name, 80, facts))


@settings(max_examples=50, deadline=None, database=None)
@given(OUTPUTS)
def test_an_output_crosses_to_the_worker_as_it_was_asked(output: Output) -> None:
    job = Submit("job_1", "demo-sdxl", PARAMS, output=output)
    assert to_command(to_frame(job)[HEADER_BYTES:]) == job
