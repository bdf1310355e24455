"""Guards the reading of facts: whole from our own files, never from pixels, and NoFacts for everything else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.engine.encode import encode
from pipelines.messages import Facts, Output, OutputFormat
from server.images.inspect import MAX_FILE_BYTES, MAX_TEXT_BYTES, NoFacts, facts_of
from tests.server.picture_files import RED, animation, bomb, chunk, file_of, plain, png

FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
FACTS: Facts = {"prompt": "two lines\nof é \U0001f534", "seed": 2**64 - 1, "steps": 4, "guidance_scale": 7.0}
JSON = json.dumps(FACTS)
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
FILES = {name: encode(PIXELS, Output(name, 90, FACTS)) for name in FORMATS}

NO_PICTURE = "is no PNG, JPEG or WebP picture that can be read"
NO_FACTS = "is a picture without facts of Safelight's"
DAMAGED = "holds facts that are damaged"


def reason_of(content: bytes) -> str:
    with pytest.raises(NoFacts) as caught:
        facts_of(content)
    return caught.value.reason


def with_text(text: str, keyword: str = "safelight", compressed: bool = False) -> bytes:
    texts = PngInfo()
    texts.add_itxt(keyword, text, zip=compressed)
    return file_of(plain("RGB", (8, 8), RED), "PNG", pnginfo=texts)


def with_xmp(packet: str | bytes, kind: str = "WEBP") -> bytes:
    return file_of(plain("RGB", (8, 8), RED), kind, xmp=packet if isinstance(packet, bytes) else packet.encode())


def packet_of(description: str, before: str = "") -> str:
    return (
        f'{before}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{description}</rdf:RDF></x:xmpmeta>"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_facts_are_read_from_every_format(name: OutputFormat) -> None:
    assert facts_of(FILES[name]) == FACTS


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_of_somebody_else_holds_no_facts(kind: str) -> None:
    assert reason_of(file_of(plain("RGB", (8, 8), RED), kind)) == NO_FACTS
    assert reason_of(encode(PIXELS, Output("png"))) == NO_FACTS
    assert reason_of(with_text("a cat", "parameters")) == NO_FACTS


STRANGERS = {
    "nothing": b"",
    "a byte": b"\x89",
    "a PNG's first bytes": b"\x89PNG\r\n\x1a\n",
    "text": b"a red circle",
    "a GIF": animation("GIF"),
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><metadata>safelight</metadata></svg>',
    "a TIFF": file_of(plain("RGB", (8, 8), RED), "TIFF"),
    "our JSON alone": JSON.encode(),
    "a picture of 65,000 x 65,000": bomb("JPEG", 65_000),
}


@pytest.mark.parametrize("content", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    assert reason_of(content) == NO_PICTURE


def test_a_file_beyond_the_limit_is_refused_and_one_within_is_read() -> None:
    padded = FILES["png"] + bytes(MAX_FILE_BYTES - len(FILES["png"]))
    assert facts_of(padded) == FACTS
    assert reason_of(padded + b"\0") == "is larger than 64 MB"


@pytest.mark.parametrize(("name", "mark"), [("png", b"IDAT"), ("jpeg", b"\xff\xda")])
def test_facts_are_read_from_the_header_alone(name: OutputFormat, mark: bytes) -> None:
    """What is left of the file after its facts could not be decoded."""
    cut = FILES[name][: FILES[name].index(mark) + 100]
    with pytest.raises(OSError, match="truncated"):
        Image.open(BytesIO(cut)).load()
    assert facts_of(cut) == FACTS


def test_facts_are_read_however_many_pixels_are_declared() -> None:
    text = chunk(b"iTXt", b"safelight\0\0\0\0\0" + JSON.encode())
    vast = png((13_000, 13_000), 8, 2, [b"\0" * 16])
    assert facts_of(vast[:33] + text + vast[33:]) == FACTS


BROKEN = {
    "nothing": "",
    "no JSON": "prompt: x",
    "cut off": JSON[:-1],
    "followed by more": JSON + "{}",
    "a list": "[1]",
    "a text": '"x"',
    "no number": '{"guidance_scale": NaN}',
    "beyond all numbers": '{"guidance_scale": 1e999}',
    "five thousand digits": '{"seed": ' + "1" * 5000 + "}",
    "nothing in it": '{"seed": null}',
    "yes": '{"seed": true}',
    "nested": '{"seed": {"a": 1}}',
    "deep": '{"seed":' * 100_000,
    "half a character": '{"prompt": "\\ud800 "}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_facts_that_are_not_as_we_write_them_are_damaged(text: str) -> None:
    assert reason_of(with_text(text)) == DAMAGED
    escaped = text.replace("<", "&lt;")
    element = f'<rdf:Description xmlns:s="urn:safelight:"><s:facts>{escaped}</s:facts></rdf:Description>'
    assert reason_of(with_xmp(packet_of(element))) == DAMAGED


def test_a_png_that_another_tool_has_compressed_is_read() -> None:
    assert facts_of(with_text(JSON, compressed=True)) == FACTS


QUOTED = JSON.replace("&", "&amp;").replace('"', "&quot;")
REWRITTEN = {
    "as an attribute": f'<rdf:Description xmlns:safelight="urn:safelight:" safelight:facts="{QUOTED}"/>',
    "with entities": f'<rdf:Description xmlns:a="urn:safelight:"><a:facts>{QUOTED}</a:facts></rdf:Description>',
    "under another prefix": f'<rdf:Description><facts xmlns="urn:safelight:">{JSON}</facts></rdf:Description>',
    "beside other facts": f'<rdf:Description><a/><f:facts xmlns:f="urn:safelight:">{JSON}</f:facts></rdf:Description>',
}


@pytest.mark.parametrize("description", REWRITTEN.values(), ids=REWRITTEN.keys())
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_xmp_that_another_tool_has_written_anew_is_read(kind: str, description: str) -> None:
    assert facts_of(with_xmp(packet_of(description), kind)) == FACTS


ELEMENT = '<rdf:Description xmlns:s="urn:safelight:"><s:facts>{}</s:facts></rdf:Description>'
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE_XMP: dict[str, str | bytes] = {
    "nothing": b"",
    "no XML": "facts",
    "no end": packet_of("<rdf:Description>")[:-20],
    "a namespace of somebody else": packet_of(f'<d xmlns:s="urn:s"><s:facts>{JSON}</s:facts></d>'),
    "a billion laughs": packet_of(ELEMENT.format("&l9;"), f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>'),
    "an entity of its own": packet_of(ELEMENT.format("&f;"), f"<!DOCTYPE x [<!ENTITY f '{JSON}'>]>"),
    "a file of the machine": packet_of(ELEMENT.format("&f;"), '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'),
    "UTF-16": packet_of(ELEMENT.format(JSON)).encode("utf-16"),
    "no UTF-8": b"\xff\xfe\xfd",
    "deep": "<a>" * 300_000,
    "deep and closed": "<a>" * 140_000 + "</a>" * 140_000,
    "too long": packet_of(ELEMENT.format(JSON)) + " " * MAX_TEXT_BYTES,
}


@pytest.mark.parametrize("packet", HOSTILE_XMP.values(), ids=HOSTILE_XMP.keys())
def test_hostile_xmp_holds_no_facts(packet: str | bytes) -> None:
    assert reason_of(with_xmp(packet)) == NO_FACTS


def test_a_text_beyond_the_limit_holds_no_facts() -> None:
    assert reason_of(with_text(json.dumps({"prompt": "x" * MAX_TEXT_BYTES}))) == NO_FACTS


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\x40\0\0\0WEBPVP8X"]),
)
@example(struct.pack(">I", 2**31) + b"iTXtsafelight", b"\x89PNG\r\n\x1a\n")
def test_any_bytes_give_facts_or_no_facts(content: bytes, begin: bytes) -> None:
    facts_or_nothing(begin + content)


@settings(max_examples=500, deadline=None, database=None)
@given(st.sampled_from(FORMATS), st.integers(0, 5000), st.integers(0, 255))
def test_one_wrong_byte_gives_facts_or_no_facts(name: OutputFormat, place: int, byte: int) -> None:
    content = bytearray(FILES[name])
    content[place % len(content)] = byte
    facts_or_nothing(bytes(content))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_short_anywhere_gives_its_facts_or_none(name: OutputFormat) -> None:
    for length in range(0, len(FILES[name]), 7):
        assert facts_or_nothing(FILES[name][:length]) in (FACTS, None)


def facts_or_nothing(content: bytes) -> Facts | None:
    try:
        facts = facts_of(content)
    except NoFacts:
        return None
    assert all(isinstance(name, str) and type(value) in {str, int, float} for name, value in facts.items())
    return facts


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.jpg"
    path.write_bytes(FILES["jpeg"])
    return path


def test_the_command_prints_a_line_a_fact_in_the_order_of_their_names(file: Path) -> None:
    finished = inspect(file)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines() == [
        "guidance_scale: 7.0",
        "prompt: two lines\\nof é \U0001f534",
        "seed: 18446744073709551615",
        "steps: 4",
    ]


def test_the_command_prints_json_that_says_the_same(file: Path) -> None:
    finished = inspect(file, "--json")
    assert (finished.returncode, json.loads(finished.stdout)) == (0, FACTS)
    assert finished.stdout.isascii()


def test_a_stranger_cannot_write_to_the_terminal_with_a_fact(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(with_text(json.dumps({"a\x1b[2J": "b\r\x9b1m\u202e\u2028c"})))
    finished = inspect(tmp_path / "x.png")
    assert finished.stdout == "a\\x1b[2J: b\\r\\x9b1m\\u202e\\u2028c\n"


@pytest.mark.parametrize(("content", "reason"), [(b"text", NO_PICTURE), (encode(PIXELS, Output()), NO_FACTS)])
def test_the_command_says_why_there_are_no_facts_and_exits_with_1(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    finished = inspect(path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"error: {path} {reason}\n"


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory")):
        finished = inspect(path)
        assert finished.returncode == 2
        assert finished.stderr.startswith(f"error: cannot read {path}: {why}")


def test_the_command_reads_no_more_than_the_limit_of_an_endless_file() -> None:
    finished = inspect("/dev/zero")
    assert (finished.returncode, finished.stderr) == (1, "error: /dev/zero is larger than 64 MB\n")
