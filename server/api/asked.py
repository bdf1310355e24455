"""What a caller said, in its types and ranges, before anybody asks who could draw it.

Knows the wire's names and forms; knows no catalogue and no model.
Invariant: what is refused here nobody could draw; every refusal names the parameter and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from server.api.bodies import CommonBody, EditBody, GenerationBody, PromptedBody, VariationBody, allowed_text
from server.api.control import CONTROL_IMAGE
from server.api.loras import loras_refusal
from server.api.sources import Source, beginning_of, one_source
from server.core import errors
from server.core.long_text import LongText
from server.core.request import EchoedQuality, Operation, ResponseFormat

# Names of models that never knew `response_format` and always answer with base64.
BASE64_FAMILIES = ("gpt-image", "chatgpt-image")
# OpenAI's names, of which some clients need a URL and none needs base64.
URL_NAMES = ("dall-e-2", "dall-e-3")
BODIES: dict[Operation, type[CommonBody]] = {
    "generation": GenerationBody,
    "edit": EditBody,
    "variation": VariationBody,
}
PICTURES = ("image", "images", "mask", "control_image")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's values. image, mask, hint: where these pictures come from."""

    operation: Operation
    body: CommonBody
    image: Source | None
    mask: Source | None
    hint: Source | None

    @property
    def prompt(self) -> str:
        return self.body.prompt if isinstance(self.body, PromptedBody) else ""

    @property
    def is_stream(self) -> bool:
        return isinstance(self.body, PromptedBody) and bool(self.body.stream)

    @property
    def partial_images(self) -> int:
        return (self.body.partial_images or 0) if isinstance(self.body, PromptedBody) and self.is_stream else 0

    @property
    def echoed_quality(self) -> EchoedQuality | None:
        """Only in words that strict clients accept."""
        return next((word for word in get_args(EchoedQuality) if word == self.body.quality), None)

    def response_format(self, local_format: ResponseFormat) -> ResponseFormat:
        """local_format: for names of our own, where a request does not say."""
        return self.body.response_format or default_response_format(self.operation, self.body.model, local_format)


def asked_for(operation: Operation, body: CommonBody, values: Mapping[str, Any]) -> Asked:
    """The checked body, with where its pictures come from. Raises SafelightError."""
    image, mask = _sources(operation, values)
    hint = None if values.get(CONTROL_IMAGE) is None else one_source(CONTROL_IMAGE, values[CONTROL_IMAGE])
    asked = Asked(operation, body, image, mask, hint)
    _check_alone(asked)
    return asked


def default_response_format(
    operation: Operation, model_name: str | None, local_format: ResponseFormat
) -> ResponseFormat:
    """What clients of each name and endpoint expect when they do not say."""
    if operation == "edit":
        return "b64_json"
    if operation == "variation" or model_name is None or model_name in URL_NAMES:
        return "url"
    return "b64_json" if model_name.startswith(BASE64_FAMILIES) else local_format


def checked_body(operation: Operation, values: Mapping[str, Any]) -> CommonBody:
    """The values but for pictures that came as files, in their types and ranges."""
    form = BODIES[operation]
    unknown = next((name for name in values if name not in form.model_fields), None)
    if unknown is not None:
        raise errors.unknown_parameter(unknown, form.model_fields)
    given = {
        name: _shortened(value)
        for name, value in values.items()
        if value is not None and not _holds_pictures(name, value)
    }
    if "prompt" in form.model_fields and "prompt" not in given:
        raise errors.missing_parameter("prompt")
    try:
        body = form.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        raise _refusal_at(form, found["loc"], found["type"]) from None
    for name in ("prompt", "negative_prompt", "model", "user", "safety_identifier"):
        _check_text(name, getattr(body, name, None))
    if isinstance(body, PromptedBody) and not body.prompt.strip():
        raise _refusal(form, "prompt")
    return body


def _holds_pictures(name: str, value: object) -> bool:
    """Whether these are files that are to be drawn from."""
    files = value if isinstance(value, list) else [value]
    return name in PICTURES and any(isinstance(item, bytes) for item in files)


def _shortened(value: Any) -> Any:
    """With the beginnings of long texts: that these are base64, and how long they are, is looked at later."""
    if isinstance(value, LongText):
        return beginning_of(value)
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    return {key: _shortened(one) for key, one in value.items()} if isinstance(value, dict) else value


def _refusal_at(form: type[CommonBody], place: tuple[int | str, ...], kind: str) -> errors.SafelightError:
    return loras_refusal(place, kind) if place[0] == "loras" else _refusal(form, str(place[0]))


def _refusal(form: type[CommonBody], param: str) -> errors.SafelightError:
    message = f"Invalid value for '{param}'. Supported values are: {allowed_text(form, param)}."
    return errors.invalid_parameter(param, message)


def _check_text(name: str, text: str | None) -> None:
    """NUL and half a surrogate pair are no text: tokenizers, files and UTF-8 refuse them."""
    if text is not None and ("\0" in text or any("\ud800" <= character <= "\udfff" for character in text)):
        raise errors.invalid_parameter(name, f"Invalid value for '{name}': it holds a character that is no text.")


def _sources(operation: Operation, values: Mapping[str, Any]) -> tuple[Source | None, Source | None]:
    """Where the image and the mask come from."""
    given = [name for name in ("image", "images") if values.get(name) is not None]
    if len(given) > 1:
        raise errors.invalid_parameter("image", "'image' and 'images' mean the same: send one of them.")
    if not given and operation != "generation":
        raise errors.missing_parameter("image")
    image = one_source("image", values[given[0]]) if given else None
    mask = values.get("mask")
    return image, None if mask is None else one_source("mask", mask)


def _check_alone(asked: Asked) -> None:
    """What says something of an image needs one."""
    for name in ("mask", "strength", "input_fidelity"):
        if asked.image is None and getattr(asked.body, name, None) is not None:
            message = f"'{name}' says what becomes of an 'image': send one too, or leave '{name}' out."
            raise errors.invalid_parameter(name, message)
