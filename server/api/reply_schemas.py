"""What the answers look like, but those out of the books, for the OpenAPI page.

Knows the wire's forms; makes no answer. The routes do, and the tests compare.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.messages import ControlKind, ModelState
from server.core.request import EchoedQuality
from server.routing.router import TargetState


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageItem(_Described):
    """One picture: a URL or base64."""

    url: str | None = Field(None, description="Works for an hour, without a key.")
    b64_json: str | None = Field(None, description="The file in base64.")
    revised_prompt: str | None = Field(None, description="What was drawn, where it is not what was sent.")
    seed: int | None = Field(None, description="Draws this picture again; absent where a provider does not say.")


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
    cost: float = Field(description="USD, by models.yaml's prices and the time of the device.")
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


class Step(_Described):
    """One of those who may serve a name."""

    backend: str
    model: str
    state: TargetState = Field(description="Whether it can be asked now.")


class Model(_Described):
    """A name that requests may carry."""

    id: str
    object: str
    created: int
    owned_by: str
    shutdown_date: str | None = Field(description="When the name was switched off where it came from.")
    successor: str | None = Field(description="What became of it there.")
    route: list[Step] = Field(description="Who may serve the name, in the operator's order.")
    served_by: str | None = Field(description="The id of our model that serves the name; null: providers alone do.")
    state: ModelState | Literal["unknown", "remote"] = Field(
        description="Where our model is; unknown until a worker is there, remote where providers serve alone."
    )
    problem: str | None = Field(description="Why it cannot be served, if it cannot.")
    device_bytes: int = Field(description="What of it is on the devices, parts shared with others too.")
    pinned: bool = Field(description="Whether it stays on a device.")
    loras: list[str] = Field(description="The adapters that requests may name with this model.")
    controls: list[ControlKind] = Field(description="The kinds of control image that the model takes.")


class Changed(_Described):
    """What of one part of models.yaml is otherwise than before, by its keys."""

    added: list[str]
    removed: list[str]
    changed: list[str]


class ReloadReply(_Described):
    """What was taken over from models.yaml."""

    object: str
    models: Changed
    names: Changed
    backends: Changed
    other: list[str] = Field(description="The file's other keys that have another value.")
    problems: dict[str, str] = Field(description="What of it cannot be served, by model or backend, and why.")
    not_reloaded: str = Field(description="What only a restart takes over.")


class ModelList(_Described):
    """All names that requests may carry."""

    object: str
    data: list[Model]


class Liveness(_Described):
    """The server process answers."""

    status: Literal["live"]


class WorkerHealth(_Described):
    """One device's worker process."""

    device: str | None
    state: Literal["ready", "silent", "starting"]
    restarts: int


class Readiness(_Described):
    """Whether the server can draw; if it cannot, the status is 503."""

    status: Literal["ready", "not ready"]
    reasons: list[str] = Field(description="Why not; empty when it is ready.")
    worker: Literal["ready", "silent", "starting"]
    device: str | None
    restarts: int = Field(description="How many worker processes were replaced.")
    workers: list[WorkerHealth]
    models: dict[str, Literal["available", "unavailable"]]
    ledger: str = Field(description="`ready`, or why the books cannot be kept.")


class ErrorDetail(_Described):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Described):
    """Every failure."""

    error: ErrorDetail
