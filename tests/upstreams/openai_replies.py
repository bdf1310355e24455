"""What an upstream of OpenAI's kind answers, as replies for a script."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from tests.upstreams.scripted import Reply

USAGE = {
    "input_tokens": 50,
    "output_tokens": 4160,
    "total_tokens": 4210,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}


def said(content: object, **how: Any) -> Reply:
    return Reply(body=json.dumps(content).encode(), **how)


def pictures(*files: bytes, usage: object = None, **beside: Any) -> Reply:
    """A 200 with these files in base64; `beside` stands in every picture."""
    data = [{"b64_json": base64.b64encode(file).decode(), **beside} for file in files]
    return said({"created": 1_760_000_000, "data": data, **({} if usage is None else {"usage": usage})})


def urls(*places: str) -> Reply:
    return said({"created": 1_760_000_000, "data": [{"url": place} for place in places]})


def error(
    status: int,
    kind: str | None = None,
    code: str | None = None,
    param: str | None = None,
    message: str = "words of the provider",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """OpenAI's envelope."""
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return said(content, status=status, headers=headers or {})


def redirect(place: str, status: int = 302) -> Reply:
    return Reply(status, headers={"Location": place})
