"""Requests for providers, as the router hands them on: with PNG files where they start from a picture."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from server.core.providers import Form
from server.core.request import RemoteRequest, Size

SQUARE = Size(1024, 1024)
MODELS: dict[Form, str] = {
    "gpt-image": "gpt-image-2.5-flare",
    "dall-e-3": "dall-e-3",
    "dall-e-2": "dall-e-2",
    "compatible": "sdxl",
}


def png(mode: str = "RGB", side_px: int = 64) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side_px, side_px), 40).convert(mode).save(file, "PNG")
    return file.getvalue()


PNG, PNG_RGBA = png(), png("RGBA")


def remote_request(form: Form = "gpt-image", **changes: Any) -> RemoteRequest:
    """A generation, and whatever else is said."""
    whole: dict[str, Any] = {
        "operation": "generation",
        "model": MODELS[form],
        "prompt": "a red circle",
        "sent_prompt": "a red circle",
        "negative_prompt": None,
        "count": 1,
        "size": SQUARE,
        "drawn_size": SQUARE,
        "response_format": "b64_json",
        "backend": "openai",
    }
    return RemoteRequest(**{**whole, **changes})
