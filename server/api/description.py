"""The OpenAPI description of what is served: bodies, replies, errors, examples.

Knows the wire forms; serves nothing.
Invariant: what it says of a field is what the parse enforces, as both are made from the same classes.
Source: OpenAPI 3.1.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.utils import generate_unique_id
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from server.api.bodies import CommonBody, EditBody, GenerationBody, VariationBody
from server.api.query import Param
from server.api.reply_schemas import ErrorReply, ImagesReply, Liveness, Model, ModelList, Readiness, WorkerHealth
from server.api.security import Needs, asking_for_keys
from server.api.usage_schemas import USAGE_SCHEMAS
from server.images.store import FORMATS

REFERENCE = "#/components/schemas/{model}"
EXAMPLES = {
    "GenerationBody": {"prompt": "a large red circle on a blue background", "size": "512x512", "seed": 7},
    "EditBody": {
        "prompt": "a green square on a blue background",
        "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo..."}],
        "strength": 0.6,
    },
}
# What the fields of a body cannot say one by one.
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "EditBody": {"anyOf": [{"required": ["image"]}, {"required": ["images"]}]},
    "VariationBody": {"required": ["image"]},
}
ERROR_STATUSES: Mapping[int, str] = {
    400: "A parameter or the body is wrong.",
    401: "The key is missing or not valid.",
    403: "The key does not allow it, or a page of another origin asked.",
    404: "The model or the file does not exist.",
    408: "The body did not arrive in time.",
    409: "The model is pinned.",
    410: "The file has expired.",
    413: "The body is too large.",
    415: "The body is of another type.",
    429: "A limit of the key, the server or a provider is reached for now, or a quota is used up.",
    500: "The server failed.",
    502: "A provider failed.",
    503: "The server is busy, stopping, or cannot draw.",
    504: "A provider did not answer in time, or the request's own deadline passed.",
}
# What a route that takes a body may answer beside success.
BODY_ERRORS = (400, 404, 408, 413, 415, 429, 500, 502, 503, 504)
HEADERS: Mapping[str, Any] = {
    "x-request-id": {
        "description": "Names this request in the server's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]+$"},
    },
    "openai-processing-ms": {
        "description": "From the request's arrival to the beginning of the answer.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
}


def _text_header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


ROUTE_HEADERS: Mapping[str, Any] = {
    "x-safelight-attempts": _text_header("Who was asked, and how it ended: BACKEND:MODEL=ok, or a word for why not."),
    "x-safelight-route": _text_header("Those who could serve, the best first, each with its score in seconds."),
}
LIMIT_HEADERS: Mapping[str, Any] = {
    f"x-ratelimit-{part}-{what}": _text_header(description.format(what=what))
    for what in ("requests", "images")
    for part, description in (
        ("limit", "How many {what} may come in a minute, where there is a limit."),
        ("remaining", "How many {what} are left of it."),
        ("reset", "When all of it is there again, such as 59.2s or 1m0s."),
    )
}
TIMEOUT_PARAMETER: Mapping[str, Any] = {
    "name": "x-safelight-timeout",
    "in": "header",
    "description": "Seconds until the pictures are of no use: refused at once where that is foreseen, ended then.",
    "schema": {"type": "number", "minimum": 1, "maximum": 86_400},
}
ERROR_HEADERS: Mapping[str, Any] = {
    **HEADERS,
    **ROUTE_HEADERS,
    **LIMIT_HEADERS,
    "retry-after": {
        "description": "Seconds, where repeating may help.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 60},
    },
    "x-should-retry": {
        "description": "false where the official clients must not repeat by themselves.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}
DRAWN_HEADERS: Mapping[str, Any] = {
    **HEADERS,
    **ROUTE_HEADERS,
    **LIMIT_HEADERS,
    "x-safelight-backend": _text_header("Who drew: local, or the name of a provider's backend."),
    "x-safelight-drawn-size": _text_header("The size that a provider drew, where it was brought to another."),
    "x-safelight-ignored": _text_header("The parameters that were sent and had no effect."),
    "idempotent-replayed": _text_header("true where another request with the same Idempotency-Key had this drawn."),
    "x-safelight-original-request": _text_header("The x-request-id of the request that had it drawn."),
    "x-safelight-idempotency": _text_header("not_kept where the answer cannot be had again by its Idempotency-Key."),
}
# A name in a route's path.
PLACE = re.compile(r"\{(\w+)\}", re.ASCII)


DESCRIBED: tuple[type[BaseModel], ...] = (
    GenerationBody,
    EditBody,
    VariationBody,
    ImagesReply,
    Model,
    ModelList,
    Liveness,
    WorkerHealth,
    Readiness,
    ErrorReply,
    *USAGE_SCHEMAS,
)


def asking(reply: type[BaseModel], params: Iterable[Param], *media: str) -> dict[str, Any]:
    """What a route with a query adds to its description. media: other forms of its answer."""
    described = operation(reply, refusals=(400, 403, 500, 503))
    described["responses"]["200"]["content"].update({one: {} for one in media})
    return {"parameters": [param.described() for param in params], **described}


def operation(
    reply: type[BaseModel], body: type[CommonBody] | None = None, refusals: tuple[int, ...] = (500,)
) -> dict[str, Any]:
    """What a route adds to its description. Requests for pictures with a file of their own may also be forms."""
    if body is None:
        return {"responses": {"200": _answer(reply), **_refusals(*refusals)}}
    content = {"application/json": _media(body)}
    if body is not GenerationBody:
        content["multipart/form-data"] = _form_media(body)
    drawn = {**_answer(reply), "headers": DRAWN_HEADERS}
    if "stream" in body.model_fields:
        # OpenAPI 3.1 has no words for a sequence of events; a schema would be read as that of each, or of all.
        drawn["content"]["text/event-stream"] = {}
    return {
        "parameters": [TIMEOUT_PARAMETER],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": drawn, **_refusals(*BODY_ERRORS)},
    }


def _answer(reply: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(reply)}}
    return {"description": reply.__doc__, "headers": HEADERS, "content": content}


def _refusals(*statuses: int) -> dict[str, Any]:
    refusal = {**_answer(ErrorReply), "headers": ERROR_HEADERS}
    return {str(status): {**refusal, "description": ERROR_STATUSES[status]} for status in statuses}


def _file_responses() -> dict[str, Any]:
    content = {f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in FORMATS.values()}
    return {"200": {"description": "The picture.", "headers": HEADERS, "content": content}, **_refusals(404, 410, 500)}


def _metrics_responses() -> dict[str, Any]:
    kinds = ("text/plain", "application/openmetrics-text")
    content = {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {
        "200": {"description": "What this server counts.", "headers": HEADERS, "content": content},
        **_refusals(500),
    }


def _media(body: type[BaseModel]) -> dict[str, Any]:
    example = EXAMPLES.get(body.__name__)
    return {"schema": _reference(body), **({"example": example} if example else {})}


def _form_media(body: type[CommonBody]) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": {"$ref": REFERENCE.format(model=_form_name(body))}}
    # An object is sent as parts with names such as svg[a].
    return {**media, "encoding": {"svg": {"style": "deepObject"}}} if "svg" in body.model_fields else media


def _form_name(body: type[CommonBody]) -> str:
    return body.__name__.replace("Body", "Form")


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _form_of(body: type[CommonBody]) -> dict[str, Any]:
    """The same fields as parts of a form, with pictures as files."""
    schema = body.model_json_schema(ref_template=REFERENCE)
    fields = {name: _part_of(field) for name, field in schema["properties"].items() if name != "images"}
    for name in fields.keys() & {"image", "mask", "control_image"}:
        fields[name] |= {"format": "binary"}
    told = schema["properties"]["loras"]["description"]
    fields["loras"] = {"type": "string", "contentMediaType": "application/json", "description": told}
    required = [*schema.get("required", []), "image"]
    kept = {name: schema[name] for name in ("type", "description", "additionalProperties")}
    return {"title": _form_name(body), **kept, "properties": fields, "required": required}


def _part_of(field: Mapping[str, Any]) -> dict[str, Any]:
    """A field as a part: never null, as no part is; and text or a file where JSON may hold several forms."""
    forms = [form for form in field.get("anyOf", ()) if form != {"type": "null"}]
    own = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return {"type": "string", **own, **(forms[0] if len(forms) == 1 else {})}


# The routes that bring no `operation` of their own.
RESPONSES: Mapping[str, Mapping[str, Any]] = {
    "/files/{name}": _file_responses(),
    "/health/live": {"200": _answer(Liveness), **_refusals(500)},
    "/health/ready": {"200": _answer(Readiness), "503": _answer(Readiness), **_refusals(500)},
    "/metrics": _metrics_responses(),
}


def describe(app: FastAPI, needs: Needs) -> None:
    """Give the application its description, made once. needs: of each route, where callers need a key."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            routes = list(_one_method_each(app.routes))
            made = get_openapi(title=app.title, version=app.version, routes=routes, description=app.description)
            for path, operations in made["paths"].items():
                for described in operations.values():
                    _complete(path, described)
            made["components"] = {"schemas": _schemas()}
            asking_for_keys(made, needs, _refusals)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _one_method_each(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """A route of two methods is two operations, and each needs an id of its own."""
    for route in routes:
        if isinstance(route, APIRoute):
            for method in sorted(route.methods or ()):
                single = copy.copy(route)
                single.methods = {method}
                single.unique_id = generate_unique_id(single)
                yield single


def _complete(path: str, described: dict[str, Any]) -> None:
    """Add what FastAPI cannot see, as the routes take a bare request: names in the path, and their own answers."""
    described["responses"] = dict(RESPONSES.get(path, described["responses"]))
    names = PLACE.findall(path)
    if names:
        text = {"type": "string"}
        described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
        described["responses"].update(_refusals(404))


def _schemas() -> dict[str, Any]:
    _, made = models_json_schema([(one, "validation") for one in DESCRIBED], ref_template=REFERENCE)
    schemas: dict[str, Any] = made["$defs"]
    for name, needed in NEEDED.items():
        schemas[name].update(needed)
    # Not where the bodies are: FastAPI would make floats of the ranges, and 2**64 - 1 is none.
    return {**schemas, **{_form_name(body): _form_of(body) for body in (EditBody, VariationBody)}}
