"""Reads out of a picture the facts that its file holds: how it came about.

Knows bytes, Pillow, and where our own files keep facts; knows no HTTP and no terminal.
Invariant: no pixel is decoded, and bytes that hold no facts give NoFacts and nothing else.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import msgspec
from PIL import Image

from pipelines.messages import Facts

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 64 * 1024 * 1024
# Two prompts of 32,000 characters stay below, however they are escaped.
MAX_TEXT_BYTES = 1024 * 1024
PNG_KEYWORD, XMP_NAME = "safelight", "{urn:safelight:}facts"


class NoFacts(Exception):
    """No facts to be read; `reason` follows "the file" in a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def facts_of(content: bytes) -> Facts:
    """What the file of a picture says about it, as it was written. Raises NoFacts."""
    if len(content) > MAX_FILE_BYTES:
        raise NoFacts(f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MB")
    text = _text_of(_header_of(content))
    if text is None:
        raise NoFacts("is a picture without facts of Safelight's")
    try:
        return msgspec.json.decode(text.encode(), type=Facts)
    except (msgspec.MsgspecError, UnicodeError):
        raise NoFacts("holds facts that are damaged") from None


def _header_of(content: bytes) -> dict[str | tuple[int, int], Any]:
    """What Pillow learns from a file before any pixel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about many pixels and odd metadata, neither of which is touched
            return Image.open(BytesIO(content), formats=FORMATS).info
    except Exception:  # Pillow raises whatever its readers stumble over
        raise NoFacts("is no PNG, JPEG or WebP picture that can be read") from None


def _text_of(header: dict[str | tuple[int, int], Any]) -> str | None:
    text = header.get(PNG_KEYWORD)
    if not isinstance(text, str):
        text = _text_in_xmp(header.get("xmp", b""))
    return text if text is not None and len(text) <= MAX_TEXT_BYTES else None


def _text_in_xmp(packet: bytes) -> str | None:
    """The value of our property, as an element or, as some tools rewrite it, an attribute."""
    if len(packet) > MAX_TEXT_BYTES:
        return None
    try:
        text = packet.decode()
        if "<!DOCTYPE" in text:  # without one there are no entities to blow up, and XMP has none
            return None
        root = ElementTree.fromstring(text)  # noqa: S314
    except (UnicodeError, ElementTree.ParseError):
        return None
    for element in root.iter():
        if element.tag == XMP_NAME:
            return element.text or ""
        if XMP_NAME in element.attrib:
            return element.attrib[XMP_NAME]
    return None
