"""The wire forms of the three requests for pictures: names, types, ranges, and what a refusal says is allowed.

Knows OpenAI's parameter names and ours; knows no catalogue and no model.
Invariant: a field that is accepted is described here, with all that it allows; nothing is converted in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipelines.messages import ControlKind, OutputFormat
from server.core.request import SEED_LIMIT, Background, Fidelity, Moderation, Quality, ResponseFormat, Style

MAX_PROMPT_CHARACTERS = 32_000
MAX_PARTIAL_IMAGES = 3
PICTURE = "a PNG, JPEG or WebP picture: base64, a data URL, an http(s) URL, or an object {'image_url': ...} with one"

LORAS = "an array of objects such as {'name': 'my-style', 'scale': 0.8}, each adapter once"

Text = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]
# OpenAI's other two backends are named so that a refusal can say which are configured.
Provider = Literal["local", "openai", "bedrock"]


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a field allows, in words for its refusal."""

    text: str


class ImageUrl(BaseModel):
    """OpenAI's reference to a picture."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    image_url: str = Field(description="A data URL, or an http(s) URL where this server fetches them.")


ImageReference = str | ImageUrl


class LoraChoice(BaseModel):
    """One adapter of the model."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(description="One of the model's adapters; GET models/{model} lists them.")
    scale: float | None = Field(
        None,
        allow_inf_nan=False,
        description="How strongly it acts: 0 not at all, 1 as trained; the adapter's own default if absent. At most as "
        "far from 0, on either side, as the model allows: 2, where models.yaml says nothing else.",
    )


class CommonBody(BaseModel):
    """What all three requests may say. `null` means: not given."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: Annotated[str | None, Allowed("the id or an alias of a model, as text")] = Field(
        None, description="A model's id or alias; the default model if absent.", examples=["dall-e-3"]
    )
    provider: Annotated[Provider | None, Allowed("'local', 'openai' and 'bedrock'")] = Field(
        None, description="Which backend draws; the best of those configured if absent."
    )
    local_only: Annotated[bool | None, Allowed("true and false")] = Field(
        None, description="Whether the request must not leave this server for a provider; false if absent."
    )
    n: Annotated[int | None, Allowed("an integer from 1 to 10")] = Field(
        None, ge=1, le=10, description="How many pictures, 1 to 10; 1 if absent."
    )
    size: Annotated[str | None, Allowed("text such as '1024x1024', or 'auto'")] = Field(
        None,
        description="WIDTHxHEIGHT in pixels, or auto: the image's own, or the model's default.",
        examples=["512x512"],
    )
    quality: Annotated[
        Quality | None, Allowed("'standard', 'hd', 'low', 'medium', 'high', 'xhigh', 'max' and 'auto'")
    ] = Field(None, description="The model's preset: low, standard (also medium and auto), or hd (high, xhigh, max).")
    response_format: Annotated[ResponseFormat | None, Allowed("'url' and 'b64_json'")] = Field(
        None, description="If absent: b64_json for edits and for gpt-image names, else url, or as configured."
    )
    output_format: Annotated[OutputFormat | None, Allowed("'png', 'jpeg' and 'webp'")] = Field(
        None, description="What kind of file a picture is; png if absent."
    )
    output_compression: Annotated[int | None, Allowed("an integer from 0 to 100")] = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp, 100 is best; without effect on png."
    )
    background: Annotated[Background | None, Allowed("'opaque', 'auto' and 'transparent'")] = Field(
        None, description="opaque, auto, or transparent where a provider's model serves that can."
    )
    user: Annotated[str | None, Allowed("any text")] = Field(None, description="The end user; accepted, not stored.")
    safety_identifier: Annotated[str | None, Allowed("any text")] = Field(None, description="Accepted, not stored.")
    seed: Annotated[int | None, Allowed("an integer from 0 to 18446744073709551615")] = Field(
        None, ge=0, lt=SEED_LIMIT, description="0 to 2**64 - 1; picture i is drawn with seed + i. Random if absent."
    )
    num_inference_steps: Annotated[int | None, Allowed("an integer from 1")] = Field(
        None, ge=1, description="Denoise steps; the model's default if absent."
    )
    steps: Annotated[int | None, Allowed("an integer from 1")] = Field(
        None, ge=1, description="Another name for num_inference_steps."
    )
    guidance_scale: Annotated[float | None, Allowed("a number from 0")] = Field(
        None, ge=0, allow_inf_nan=False, description="How strongly the prompt acts; 1 or less: no guidance."
    )
    negative_prompt: Annotated[Text | None, Allowed(f"a text of at most {MAX_PROMPT_CHARACTERS} characters")] = Field(
        None, description="What not to draw."
    )
    sampler: Annotated[str | None, Allowed("the name of a sampler, as text")] = Field(
        None, description="A sampler of the model's family; the model's default if absent."
    )
    strength: Annotated[float | None, Allowed("a number above 0 and at most 1")] = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="How far the image may be left, above 0 and at most 1."
    )

    control: Annotated[ControlKind | None, Allowed("'canny' and 'depth'")] = Field(
        None,
        description="What the control image shows: canny (edges, white on black) or depth (near is light). If absent, "
        "the one that the model has.",
    )
    control_image: Annotated[ImageReference | None, Allowed(PICTURE)] = Field(
        None, description="A hint beside the prompt, ready-made: a picture of edges or of depth."
    )
    control_scale: Annotated[float | None, Allowed("a number from 0 to 2")] = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="How strongly the hint acts, 0 to 2; 1 if absent."
    )
    control_start: Annotated[float | None, Allowed("a number from 0, below 'control_end'")] = Field(
        None, ge=0, lt=1, allow_inf_nan=False, description="From which share of the steps on it acts; 0 if absent."
    )
    control_end: Annotated[float | None, Allowed("a number above 'control_start', at most 1")] = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="Up to which share of the steps it acts; 1 if absent."
    )
    loras: Annotated[list[LoraChoice] | None, Allowed(LORAS)] = Field(
        None,
        description="Adapters that act on this picture, each named once; none if absent. A form holds them as JSON.",
        examples=[[{"name": "my-style", "scale": 0.8}]],
    )


class PromptedBody(CommonBody):
    """What generations and edits may say."""

    prompt: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARACTERS)],
        Allowed(f"a text of 1 to {MAX_PROMPT_CHARACTERS} characters that are not all spaces"),
    ] = Field(description="What to draw, 1 to 32,000 characters.", examples=["a red circle on a blue background"])
    mask: Annotated[ImageReference | None, Allowed(PICTURE)] = Field(
        None, description="Where the image may change: transparent, or white where nothing is transparent."
    )
    input_fidelity: Annotated[Fidelity | None, Allowed("'high' and 'low'")] = Field(
        None, description="How closely to keep to the image: high means a smaller strength. `strength` wins."
    )
    stream: Annotated[bool | None, Allowed("true and false")] = Field(
        None, description="Send server-sent events: partial images as asked for, then every picture."
    )
    partial_images: Annotated[int | None, Allowed(f"an integer from 0 to {MAX_PARTIAL_IMAGES}")] = Field(
        None, ge=0, le=MAX_PARTIAL_IMAGES, description="How often an unfinished picture is streamed; 0 if absent."
    )
    moderation: Annotated[Moderation | None, Allowed("'low' and 'auto'")] = Field(
        None, description="For providers whose models take it, and for the operator's content checks."
    )
    # Documented by OpenAI for its own newest models: checked, and named in x-safelight-ignored.
    complexity: Annotated[Literal["low", "medium", "high"] | None, Allowed("'low', 'medium' and 'high'")] = Field(
        None, description="Accepted without effect."
    )
    frame_count: Annotated[int | None, Allowed("an integer from 2 to 16")] = Field(
        None, ge=2, le=16, description="Accepted without effect: no model served here draws moving pictures."
    )
    frame_duration_ms: Annotated[int | None, Allowed("an integer from 1")] = Field(
        None, ge=1, description="Accepted without effect: no model served here draws moving pictures."
    )
    svg: Annotated[dict[str, Any] | None, Allowed("an object")] = Field(
        None, description="Accepted without effect: no model served here draws vectors."
    )


class GenerationBody(PromptedBody):
    """POST images/generations."""

    style: Annotated[Style | None, Allowed("'natural' and 'vivid'")] = Field(
        None, description="The model's preset of this name; drawn as sent if absent."
    )
    image: Annotated[ImageReference | list[ImageReference] | None, Allowed(PICTURE)] = Field(
        None, description="A picture to start from. URLs are fetched only where the server's settings allow it."
    )


class EditBody(PromptedBody):
    """POST images/edits."""

    image: Annotated[ImageReference | list[ImageReference] | None, Allowed(PICTURE)] = Field(
        None, description="The picture to change."
    )
    images: Annotated[list[ImageReference] | None, Allowed(f"an array of one: {PICTURE}")] = Field(
        None, description="OpenAI's name for it in JSON: an array with the picture to change."
    )
    markup: Annotated[Any, Allowed("anything")] = Field(None, description="Accepted without effect.")


class VariationBody(CommonBody):
    """POST images/variations: another picture like this one, without a prompt."""

    image: Annotated[ImageReference | list[ImageReference] | None, Allowed(PICTURE)] = Field(
        None, description="The picture to vary."
    )


def allowed_text(body: type[CommonBody], param: str) -> str:
    """What the field allows, for its refusal."""
    return next(item.text for item in body.model_fields[param].metadata if isinstance(item, Allowed))
