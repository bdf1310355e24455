"""The OpenAPI description of what is served: bodies, replies, errors, examples.

Knows the wire forms; serves nothing.
Invariant: what it says of a field is what the parse enforces, as both are made from the same classes.
Source: OpenAPI 3.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from server.api.bodies import CommonBody, EditBody, GenerationBody, VariationBody
from server.core.request import EchoedQuality

REFERENCE = "#/components/schemas/{model}"
EXAMPLES = {
    "GenerationBody": {"prompt": "a large red circle on a blue background", "size": "512x512", "seed": 7},
    "EditBody": {
        "prompt": "a green square on a blue background",
        "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo..."}],
        "strength": 0.6,
    },
}
# What every route may answer beside success.
ERROR_STATUSES: Mapping[int, str] = {
    400: "A parameter or the body is wrong.",
    404: "The model or the file does not exist.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    500: "The picture could not be drawn.",
    503: "The server is busy, stopping, or cannot draw.",
}


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageItem(_Described):
    """One picture: a URL or base64."""

    url: str | None = Field(None, description="Works for an hour, without a key.")
    b64_json: str | None = Field(None, description="The file in base64.")
    revised_prompt: str | None = Field(None, description="What was drawn, where it is not what was sent.")
    seed: int = Field(description="Draws this picture again.")


class InputDetails(_Described):
    text_tokens: int
    image_tokens: int


class Usage(_Described):
    """OpenAI's token fields and ours. A token of text is four bytes of the prompts, one of a picture 32 x 32 pixels."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: InputDetails
    total_tokens: int
    cost: float = Field(description="USD, by the price of the model in models.yaml.")
    latency_ms: int = Field(description="From the request's arrival to the answer.")
    image_size: str = Field(examples=["1024x1024"])
    model_used: str = Field(description="The id of the model that drew.")


class ImagesReply(_Described):
    """The pictures."""

    created: int = Field(description="When the work began, Unix seconds.")
    data: list[ImageItem]
    size: str
    output_format: str
    background: str
    quality: EchoedQuality | None = Field(None, description="Only where it was asked for in one of these words.")
    usage: Usage


class Model(_Described):
    """A name that requests may carry."""

    id: str
    object: str
    created: int
    owned_by: str
    served_by: str = Field(description="The id of the model that the name means.")
    state: str


class ModelList(_Described):
    object: str
    data: list[Model]


class ErrorDetail(_Described):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Described):
    """Every failure."""

    error: ErrorDetail


DESCRIBED: tuple[type[BaseModel], ...] = (
    GenerationBody,
    EditBody,
    VariationBody,
    ImagesReply,
    Model,
    ModelList,
    ErrorReply,
)


def operation(reply: type[BaseModel], body: type[CommonBody] | None = None) -> dict[str, Any]:
    """What a route adds to its description. Requests for pictures with a file of their own may also be forms."""
    described: dict[str, Any] = {"responses": {"200": _answer(reply.__doc__ or reply.__name__, reply)}}
    if body is not None:
        content = {"application/json": _media(body)}
        if body is not GenerationBody:
            content["multipart/form-data"] = {"schema": _form_of(body)}
        if "stream" in body.model_fields:
            described["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
        described["requestBody"] = {"required": True, "content": content}
    for status, text in ERROR_STATUSES.items():
        described["responses"][str(status)] = _answer(text, ErrorReply)
    return described


def _answer(description: str, reply: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference(reply)}}}


def _media(body: type[BaseModel]) -> dict[str, Any]:
    example = EXAMPLES.get(body.__name__)
    return {"schema": _reference(body), **({"example": example} if example else {})}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _form_of(body: type[CommonBody]) -> dict[str, Any]:
    """The same fields as parts of a form, with pictures as files."""
    schema = copy.deepcopy(body.model_json_schema(ref_template=REFERENCE))
    schema.pop("$defs", None)
    file = {"type": "string", "format": "binary"}
    schema["properties"] = {name: field for name, field in schema["properties"].items() if name != "images"}
    for name in ("image", "mask"):
        if name in schema["properties"]:
            schema["properties"][name] = {**file, "description": schema["properties"][name].get("description", "")}
    schema["required"] = [*schema.get("required", []), "image"]
    return schema


def describe(app: FastAPI) -> None:
    """Give the application its description, made once."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
            _, definitions = models_json_schema([(one, "validation") for one in DESCRIBED], ref_template=REFERENCE)
            made.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to extend it
