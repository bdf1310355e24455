"""Where a picture that a request names comes from: a file of a form, or a text of JSON; and the file in such a text.

Knows the wire's forms of a reference; fetches nothing, and opens no picture.
Invariant: exactly one picture, or a refusal that says why; nothing is decoded whose length was not judged, and nothing
passes that is not strict base64.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from server.api.long_texts import from_base64
from server.core import errors
from server.core.long_text import LongText
from server.images.inputs import refusal

# The file itself, or text: base64, a data URL, an http(s) URL.
Source = bytes | str | LongText
MAX_FILE_BYTES = 50 * 1024 * 1024
MAX_BASE64_CHARACTERS = MAX_FILE_BYTES * 4 // 3 + 4
DATA_HEADER = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE | re.ASCII)
# A colon that ends the name of a scheme; base64 has none. Longer names do not exist.
SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]{0,30}:", re.IGNORECASE | re.ASCII)
WEB_URL = re.compile(r"\s*https?:", re.IGNORECASE | re.ASCII)
# Of a long text, which has no spaces: what those three look at.
BEGINNING = slice(64)


def one_source(param: str, value: Any) -> Source:
    """The picture of a parameter that may be one reference or an array of one. Raises SafelightError."""
    references = value if isinstance(value, list) else [value]
    if not references:
        raise errors.missing_parameter(param)
    if len(references) > 1:
        message = (
            f"Invalid value for '{param}': {len(references)} pictures were sent, and the models served here change one."
        )
        raise errors.invalid_parameter(param, message)
    return _source(references[0])


def is_web_url(text: str | LongText) -> bool:
    """Whether the text asks for a picture to be fetched."""
    return WEB_URL.match(beginning_of(text)) is not None


def beginning_of(text: str | LongText) -> str:
    """A text to tell its form by."""
    return text[BEGINNING] if isinstance(text, LongText) else text


def _source(reference: Any) -> Source:
    """A reference whose form was checked before."""
    source: Source = reference["image_url"] if isinstance(reference, Mapping) else reference
    return source


def too_large(param: str) -> errors.SafelightError:
    return refusal(param, f"a file may have at most {MAX_FILE_BYTES} bytes")


def content_of(param: str, text: str | LongText) -> bytes:
    """The file that a parameter carries. Raises SafelightError. Call it in a thread."""
    if len(text) > MAX_BASE64_CHARACTERS:
        raise too_large(param)
    try:
        return from_base64(text, _start_of_base64(param, beginning_of(text)))
    except ValueError:
        reason = "it is not base64 of the standard alphabet (A-Z a-z 0-9 + /) with its padding and without line breaks"
        raise refusal(param, reason) from None


def _start_of_base64(param: str, beginning: str) -> int:
    header = DATA_HEADER.match(beginning)
    if header is not None:
        return header.end()
    scheme = SCHEME.match(beginning)
    if scheme is None:
        return 0
    if scheme[0].strip().lower() == "data:":
        begin = "'data:image/png;base64,', 'data:image/jpeg;base64,' or 'data:image/webp;base64,'"
        raise refusal(param, f"a data URL must begin with {begin}")
    raise refusal(param, "it is none of base64, a data URL and an http(s) URL")
