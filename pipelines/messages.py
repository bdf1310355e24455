"""What crosses the process boundary between the server and a worker, and how it is framed.

Knows plain frozen data and bytes; knows no tensors, no HTTP and no event loop. Imports no torch.
Invariant: a frame is a 4-byte big-endian length and that many bytes of MessagePack; nothing is ever unpickled.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

FRAME_HEADER = struct.Struct(">I")
# A picture of 4096 x 4096 in PNG stays below; a longer frame means that the stream is out of step.
MAX_FRAME_BYTES = 256 * 1024 * 1024

# `checkpoint` is the sampler that the model's own configuration names.
SamplerName = Literal["checkpoint", "euler", "ddim", "dpmpp_2m"]
FailureCode = Literal["generation_failed", "insufficient_memory", "model_unavailable"]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The base of all messages; the class name travels as the tag."""


class ModelSpec(msgspec.Struct, frozen=True):
    """One model that a worker may be asked for: its id, its family and the absolute path of its folder."""

    id: str
    family: str
    folder: str


class ModelReport(msgspec.Struct, frozen=True):
    """Whether a model's files are there and sound; `problem` is None when they are."""

    id: str
    problem: str | None


class Start(Message, frozen=True):
    """First message to a worker: what it serves and where."""

    models: tuple[ModelSpec, ...]
    device: str
    threads: int
    heartbeat_seconds: float


class DrawParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides a picture. The seed is fixed by the server, so that a second try draws the same one.

    Sizes are pixels; guidance_scale <= 1 means no guidance; seed 0 to 2**64 - 1; a negative_prompt of None is not the
    empty one: a checkpoint may ask for zeros in its place.
    """

    prompt: str
    negative_prompt: str | None
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    sampler: SamplerName
    seed: int


class Submit(Message, frozen=True):
    """One image to draw with one model."""

    job_id: str
    model: str
    params: DrawParams
    wants_progress: bool = False


class Cancel(Message, frozen=True):
    """Stop a job before its next step. Unknown and finished jobs are no error."""

    job_id: str


class Shutdown(Message, frozen=True):
    """End the process now."""


class Ready(Message, frozen=True):
    """First message from a worker: it takes jobs, for every model whose report names no problem."""

    device: str
    models: tuple[ModelReport, ...]


class Heartbeat(Message, frozen=True):
    """Sent at a steady pace by a thread of its own; its absence means that the process hangs."""


class Queued(Message, frozen=True):
    """The job waits in the worker behind `ahead` others."""

    job_id: str
    ahead: int


class Started(Message, frozen=True):
    """The worker begins with the job: if it dies from now on, the job may be the cause."""

    job_id: str


class Progress(Message, frozen=True):
    """`step` of `steps` denoise steps are done."""

    job_id: str
    step: int
    steps: int


class Image(Message, frozen=True):
    """The job succeeded: the encoded picture and how long the device worked on it."""

    job_id: str
    png: bytes
    device_seconds: float


class Failed(Message, frozen=True):
    """The job failed, for the stated reason; no other job is concerned. `detail` is for the log, not for callers."""

    job_id: str
    code: FailureCode
    message: str
    detail: str = ""


class Cancelled(Message, frozen=True):
    """The job was cancelled and holds nothing any more."""

    job_id: str


Command = Start | Submit | Cancel | Shutdown
Event = Ready | Heartbeat | Queued | Started | Progress | Image | Failed | Cancelled

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


# What msgspec raises for bytes that are no message: invalid UTF-8 and deep nesting have errors of their own.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FramingError(Exception):
    """The byte stream holds something that is no frame of ours."""


def to_frame(message: Command | Event) -> bytes:
    body = _encoder.encode(message)
    return FRAME_HEADER.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """The number of bytes that follow a 4-byte header. Raises FramingError when it is beyond MAX_FRAME_BYTES."""
    length: int = FRAME_HEADER.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise FramingError(f"a frame of {length} bytes is longer than {MAX_FRAME_BYTES}")
    return length


def to_command(body: bytes) -> Command:
    """Raises FramingError when the body is no command."""
    try:
        return _command_decoder.decode(body)
    except UNDECODABLE as error:
        raise FramingError(f"no message of ours: {type(error).__name__}") from error


def to_event(body: bytes) -> Event:
    """Raises FramingError when the body is no event."""
    try:
        return _event_decoder.decode(body)
    except UNDECODABLE as error:
        raise FramingError(f"no message of ours: {type(error).__name__}") from error
