"""One line of the hostile list: what is sent, to the byte, and what must come back.

Knows HTTP's grammar, so that a case can break it; knows no server.
Invariant: a case is plain data; it can be printed, sent, and sent again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{word}" for word in ("generations", "edits", "variations"))
JSON = "application/json"
INVALID = "invalid_parameter"


@dataclass(frozen=True, slots=True)
class Case:
    """group: the class of robustness that it belongs to. sent: the request as bytes, or how they are made where they
    are many. status: None where the connection is closed without a word. pictures: how many come back. ends_early: the
    client sends no more, and says so. then: what it sends once it was answered. is_keyed: whether the server that it
    goes to asks for keys, those of `key_bearers`."""

    group: str
    name: str
    sent: bytes | Callable[[], bytes]
    status: int | None
    code: str | None = None
    param: str | None = None
    pictures: int = 0
    ends_early: bool = False
    then: bytes = b""
    is_long: bool = False
    is_keyed: bool = False

    @property
    def content(self) -> bytes:
        return self.sent if isinstance(self.sent, bytes) else self.sent()

    @property
    def id(self) -> str:
        return f"{self.group}: {self.name}"


def head(method: str, path: str | bytes, headers: Mapping[str, str | bytes], version: str = "HTTP/1.1") -> bytes:
    target = path if isinstance(path, bytes) else path.encode("latin-1")
    lines = [method.encode() + b" " + target + b" " + version.encode()]
    for name, value in {"Host": "localhost", "Connection": "close", **headers}.items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    return b"\r\n".join([*lines, b"", b""])


def message(
    body: bytes = b"", path: str = GENERATIONS, method: str = "POST", media_type: str | None = JSON, **headers: str
) -> bytes:
    """A request with its length; headers: with underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {} if media_type is None else {"Content-Type": media_type}
    return head(method, path, {**kind, "Content-Length": str(len(body)), **named}) + body


def get(path: str | bytes, method: str = "GET", **headers: str) -> bytes:
    """A request without a body; headers: with underscores for hyphens."""
    return head(method, path, {name.replace("_", "-"): value for name, value in headers.items()})


def asking(path: str = GENERATIONS, /, **values: Any) -> bytes:
    """A request in JSON with these parameters, a prompt beside them where it needs one."""
    words = {} if path == VARIATIONS else {"prompt": "a red circle"}
    return message(json.dumps({**words, **values}).encode(), path)


def asking_raw(param: str, text: str | bytes, path: str = GENERATIONS) -> bytes:
    """The same with one parameter whose value is written as it stands, JSON or not."""
    words = b"" if path == VARIATIONS or param == "prompt" else b'"prompt": "a red circle", '
    written = text if isinstance(text, bytes) else text.encode()
    return message(b'{%b"%b": %b}' % (words, param.encode(), written), path)


def shown(text: str | bytes, limit: int = 40) -> str:
    """For a name: ASCII, short, without what breaks a table."""
    whole = ascii(text if isinstance(text, str) else text.decode("latin-1"))[1:-1]
    clean = whole.replace("|", "/").replace("`", "'")
    return clean if len(clean) <= limit else f"{clean[:limit]}... ({len(text)})"
