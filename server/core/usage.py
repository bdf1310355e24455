"""What a request used, in OpenAI's token fields and in ours.

Knows requests and numbers; knows no wire.
Invariant: counts depend on the request alone, so that the same request always counts the same.
"""

from __future__ import annotations

import math
from typing import Any

from server.core.request import ImageRequest, Size

# A token of text is four bytes of UTF-8, a token of a picture a square of 32 x 32 pixels: near what OpenAI counts for
# English and for 1024 x 1024 in medium quality, and the same for every model.
BYTES_PER_TOKEN = 4
TOKEN_SIDE_PX = 32


def text_tokens(request: ImageRequest) -> int:
    texts = (request.prompt, request.negative_prompt or "")
    return sum(math.ceil(len(text.encode()) / BYTES_PER_TOKEN) for text in texts)


def picture_tokens(size: Size) -> int:
    return math.ceil(size.width_px / TOKEN_SIDE_PX) * math.ceil(size.height_px / TOKEN_SIDE_PX)


def usage_of(request: ImageRequest, count: int, latency_ms: int, cost_usd: float) -> dict[str, Any]:
    """Of `count` of the request's pictures. latency_ms: from the request's arrival to the answer. cost_usd: of them
    all."""
    text, images = text_tokens(request), 0 if request.image is None else picture_tokens(request.size)
    output = count * picture_tokens(request.size)
    return {
        "input_tokens": text + images,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": text + images + output,
        "cost": round(cost_usd, 6),
        "latency_ms": latency_ms,
        "image_size": str(request.size),
        "model_used": request.model,
    }
