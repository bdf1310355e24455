"""What LiteLLM would send to Bedrock for some requests, and read from some replies, written down for comparison.

LiteLLM pins packages to versions that this project cannot have, so it runs in an environment of its own:

    python -m venv venv && venv/bin/pip install litellm && venv/bin/pip install --no-deps litellm==1.109.1
    cd tests/upstreams && LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python litellm_bodies.py > litellm_bodies.json

Of Titan's tasks it covers text to image. The others it has for Nova Canvas alone, Titan's successor, whose INPAINTING,
OUTPAINTING and IMAGE_VARIATION have the same fields. Of Stability's models it passes fields on under their own names,
and starts from a picture in its form for those that edit.
"""

from __future__ import annotations

import base64
import json
import sys
from importlib.metadata import version
from typing import Any

# Not real PNG files: LiteLLM does not look into them.
IMAGE, MASK = b"the image", b"the mask"
TITAN = "amazon.titan-image-generator-v2:0"
STABILITY = "stability.sd3-5-large-v1:0"
TITAN_CASES: dict[str, dict[str, Any]] = {
    "plain": {"size": "1024x1024", "n": 1, "quality": "standard"},
    "five small ones": {"size": "512x512", "n": 5, "quality": "medium"},
    "hd": {"size": "1152x896", "n": 2, "quality": "hd"},
    "high": {"size": "704x384", "n": 1, "quality": "high"},
    "low": {"size": "1173x640", "n": 3, "quality": "low"},
    "negative": {"size": "768x768", "n": 1, "quality": "hd", "negativeText": "fog"},
}
EDIT_CASES: dict[str, dict[str, Any]] = {
    "inpainting": {"taskType": "INPAINTING", "mask": MASK},
    "outpainting": {"taskType": "OUTPAINTING", "mask": MASK, "outPaintingMode": "PRECISE"},
    "variation": {"taskType": "IMAGE_VARIATION", "similarityStrength": 0.25},
    "variation without a strength": {},
}
EDIT_COMMON: dict[str, Any] = {
    "size": "512x512",
    "n": 1,
    "quality": "hd",
    "seed": 7,
    "cfgScale": 8.0,
    "negativeText": "fog",
}
STABILITY_CASES: dict[str, dict[str, Any]] = {
    "text": {"mode": "text-to-image", "aspect_ratio": "16:9", "output_format": "png", "seed": 7},
    "negative": {"mode": "text-to-image", "aspect_ratio": "1:1", "output_format": "png", "negative_prompt": "fog"},
}
STABILITY_IMAGE = {"mode": "image-to-image", "strength": 0.35, "seed": 7, "negative_prompt": "fog"}
REPLIES: dict[str, dict[str, Any]] = {
    "one": {"images": [base64.b64encode(b"one").decode()], "seeds": [1], "finish_reasons": [None]},
    "filtered": {"finish_reasons": ["Filter reason: prompt"]},
    "failed": {"finish_reasons": ["Inference error"]},
}
PROMPT = "a lighthouse at dusk"


def made() -> dict[str, Any]:
    return {
        "litellm": version("litellm"),
        "titan": {name: _titan(dict(case)) for name, case in TITAN_CASES.items()},
        "edits": {name: _edit({**EDIT_COMMON, **case}) for name, case in EDIT_CASES.items()},
        "stability": {name: _stability(dict(case)) for name, case in STABILITY_CASES.items()},
        "stability image": _stability_image(),
        "stability replies": {name: _stability_reply(reply) for name, reply in REPLIES.items()},
    }


def _titan(case: dict[str, Any]) -> Any:
    from litellm.llms.bedrock.image_generation import amazon_titan_transformation as titan  # noqa: PLC0415

    others = {name: case.pop(name) for name in ("negativeText",) if name in case}
    config = titan.AmazonTitanImageGenerationConfig
    return config.transform_request_body(PROMPT, config.map_openai_params(case, others))


def _edit(case: dict[str, Any]) -> Any:
    from litellm.llms.bedrock.image_edit import amazon_nova_canvas_image_edit_transformation as nova  # noqa: PLC0415

    config = nova.BedrockAmazonNovaCanvasImageEditConfig()
    mapped = config.map_openai_params(case, "amazon.nova-canvas-v1:0", drop_params=False)
    return config.transform_image_edit_request("amazon.nova-canvas-v1:0", PROMPT, IMAGE, mapped, {}, {})[0]


def _stability(case: dict[str, Any]) -> Any:
    from litellm.llms.bedrock.image_generation import amazon_stability3_transformation as stability  # noqa: PLC0415

    return stability.AmazonStability3Config.transform_request_body(PROMPT, case)


def _stability_image() -> Any:
    from litellm.llms.bedrock.image_edit import stability_transformation as stability  # noqa: PLC0415

    config = stability.BedrockStabilityImageEditConfig()
    return config.transform_image_edit_request(STABILITY, PROMPT, IMAGE, dict(STABILITY_IMAGE), {}, {})[0]


def _stability_reply(reply: dict[str, Any]) -> Any:
    from litellm.llms.bedrock.common_utils import BedrockError  # noqa: PLC0415
    from litellm.llms.bedrock.image_generation import amazon_stability3_transformation as stability  # noqa: PLC0415
    from litellm.types.utils import ImageResponse  # noqa: PLC0415

    read = stability.AmazonStability3Config.transform_response_dict_to_openai_response
    try:
        return [one.b64_json for one in read(ImageResponse(), reply).data]
    except BedrockError as error:
        return {"status": error.status_code}


if __name__ == "__main__":
    json.dump(made(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
