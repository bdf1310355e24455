"""Guards what crosses the process boundary: every message arrives as it was sent, and anything else is FramingError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import framing, messages
from pipelines.figures import DeviceMemory, ModelFigures, Timeline, WorkFigures
from pipelines.framing import FramingError, frame_length
from pipelines.messages import Command, DrawParams, Event, Submit, to_command, to_event, to_frame

ROOT = Path(__file__).resolve().parents[2]
HEADER_BYTES = framing.FRAME_HEADER.size

PARAMS = DrawParams(
    prompt="a red circle \U0001f534",
    negative_prompt=None,
    width_px=1024,
    height_px=1792,
    steps=16,
    guidance_scale=2.5,
    sampler="dpmpp_2m",
    seed=2**64 - 1,
)
EDIT = msgspec.structs.replace(PARAMS, image=b"rgb", mask=b"\x00\xff", strength=0.5)
SUBMIT = Submit("job_1", "demo-sdxl", PARAMS, wants_progress=True)
COMMANDS: list[Command] = [
    messages.Start((messages.ModelSpec("demo-sdxl", "sdxl", "/models/demo"),), "cpu", 2, 1.0),
    messages.Start((), "cuda:1", 1, 0.5),
    SUBMIT,
    Submit("job_2", "demo-sdxl", msgspec.structs.replace(PARAMS, negative_prompt="", seed=0)),
    Submit(
        "job_3", "m", msgspec.structs.replace(PARAMS, image=b"rgb", mask=b"\x00\xff", strength=0.5), "a", 2, True, (3,)
    ),
    messages.Cancel("job_1"),
    messages.Load("demo-sdxl"),
    messages.Unload("demo-sdxl"),
    messages.Pin("demo-sdxl", is_pinned=True),
    messages.Serve((messages.ModelSpec("b@2", "flux", "/models/b"),), (), (("a", "b@2"),)),
    messages.Shutdown(),
]
EVENTS: list[Event] = [
    messages.Ready("cpu", (messages.ModelReport("a", None), messages.ModelReport("b", "unet is missing"))),
    messages.Residency((messages.ModelReport("a", None, "device", 5_000_000_000, is_pinned=True, load_seconds=2.5),)),
    messages.Heartbeat(),
    messages.Figures(
        (WorkFigures("a", "denoise", 2, 7, 21, 1.5, (0, 3, 4)),),
        (ModelFigures("a", 2, 3.5, 1, 0, 5, 6, 7, 8),),
        DeviceMemory(8_000_000_000, 5_000_000_000),
    ),
    messages.Figures(),
    messages.Working(("job_1", "job_2")),
    messages.Hung(("job_1",), 31.5, 30.0),
    messages.Queued("job_1", 3),
    messages.Started("job_1"),
    messages.Progress("job_1", 3, 16),
    messages.Preview("job_1", 3, 16, bytes(range(256))),
    messages.Image("job_1", bytes(range(256)) * 100, 1.25),
    messages.Image("job_1", b"", 0.0, check_ms=12),
    messages.Refused("job_1", 1.25, 12),
    messages.Image("job_1", b"", 0.0, timeline=Timeline(0.25, 1.5, 0.5, 0.125)),
    messages.Failed("job_1", "insufficient_memory", "Too large.", "traceback"),
    messages.Failed("job_1", "generation_failed", "It failed."),
    messages.Cancelled("job_1"),
]


def body_of(message: Command | Event) -> bytes:
    frame = to_frame(message)
    assert frame_length(frame[:HEADER_BYTES]) == len(frame) - HEADER_BYTES
    return frame[HEADER_BYTES:]


def kind_of(message: Command | Event) -> str:
    return type(message).__name__


def test_every_message_class_is_tested_here() -> None:
    assert {type(message) for message in COMMANDS} == set(get_args(Command))
    assert {type(message) for message in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("message", COMMANDS, ids=kind_of)
def test_every_command_arrives_as_it_was_sent(message: Command) -> None:
    assert to_command(body_of(message)) == message


@pytest.mark.parametrize("message", EVENTS, ids=kind_of)
def test_every_event_arrives_as_it_was_sent(message: Event) -> None:
    assert to_event(body_of(message)) == message


@pytest.mark.parametrize("message", COMMANDS, ids=kind_of)
def test_a_command_is_no_event(message: Command) -> None:
    with pytest.raises(FramingError):
        to_event(body_of(message))


@pytest.mark.parametrize("message", EVENTS, ids=kind_of)
def test_an_event_is_no_command(message: Event) -> None:
    with pytest.raises(FramingError):
        to_command(body_of(message))


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.builds(
        Submit,
        job_id=st.text(),
        model=st.text(),
        params=st.builds(
            DrawParams,
            prompt=st.text(),
            negative_prompt=st.none() | st.text(),
            width_px=st.integers(8, 16384),
            height_px=st.integers(8, 16384),
            steps=st.integers(1, 1000),
            guidance_scale=st.floats(0, 1e6),
            sampler=st.sampled_from(get_args(messages.SamplerName)),
            seed=st.integers(0, 2**64 - 1),
        ),
        wants_progress=st.booleans(),
    )
)
def test_any_job_arrives_as_it_was_sent(message: Submit) -> None:
    assert to_command(body_of(message)) == message


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PARAMS.seed = 1  # type: ignore[misc]


def changed(**fields: object) -> bytes:
    """A Submit on the wire with some of its own fields replaced; `...` removes a field."""
    return msgspec.msgpack.encode(_replaced(msgspec.msgpack.decode(body_of(SUBMIT)), fields))


def changed_params(**fields: object) -> bytes:
    """A Submit on the wire with some of its parameters replaced; `...` removes one."""
    return changed(params=_replaced(msgspec.msgpack.decode(body_of(SUBMIT))["params"], fields))


def _replaced(plain: dict[str, object], fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in (plain | fields).items() if value is not ...}


NOT_UTF8 = b"\x82\xa4type\xa6Cancel\xa6job_id\xa1\xff"
DEEP_BEFORE_THE_TAG = b"\x82\xa1a" + b"\x91" * 100_000
GARBAGE = {
    "nothing": b"",
    "a zero": b"\x00",
    "an unused byte": b"\xc1",
    "an extension": b"\xd4\x01\x00",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "a pickle": b"\x80\x04K\x01.",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "an empty map": b"\x80",
    "a list": b"\x91\x01",
    "deep lists": b"\x91" * 100_000,
    "deep lists before the tag": DEEP_BEFORE_THE_TAG,
    "a length that lies": b"\xdf\xff\xff\xff\xff",
    "no utf-8": NOT_UTF8,
    "a tag that is no utf-8": b"\x81\xa4type\xa2\xff\xff",
    "a trailing byte": body_of(SUBMIT) + b"\x00",
    "two bodies": body_of(SUBMIT) * 2,
    "an unknown tag": changed(type="Format"),
    "no tag": changed(type=...),
    "an unknown field": changed(command="rm"),
    "an unknown parameter": changed_params(command="rm"),
    "a missing field": changed_params(seed=...),
    "a text for a number": changed_params(seed="1"),
    "a boolean for a number": changed_params(steps=True),
    "an unknown sampler": changed_params(sampler="plms"),
    "bytes for a text": changed_params(prompt=b"x"),
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_framing_error_to_both_sides(body: bytes) -> None:
    with pytest.raises(FramingError):
        to_command(body)
    with pytest.raises(FramingError):
        to_event(body)


@pytest.mark.parametrize("message", [*COMMANDS, *EVENTS[:6]], ids=kind_of)
def test_a_body_cut_short_anywhere_is_a_framing_error(message: Command | Event) -> None:
    body = body_of(message)
    for length in range(min(len(body), 300)):
        with pytest.raises(FramingError):
            to_command(body[:length])
        with pytest.raises(FramingError):
            to_event(body[:length])


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_a_framing_error(body: bytes) -> None:
    for decode in (to_command, to_event):
        try:
            message = decode(body)
        except FramingError:
            continue
        assert isinstance(message, messages.Message)


@settings(max_examples=300, deadline=None, database=None)
@given(st.integers(0, len(body_of(SUBMIT)) - 1), st.integers(0, 255))
def test_one_wrong_byte_is_a_message_or_a_framing_error(place: int, byte: int) -> None:
    body = bytearray(body_of(SUBMIT))
    body[place] = byte
    try:
        message = to_command(bytes(body))
    except FramingError:
        return
    assert isinstance(message, messages.Message)


def test_a_frame_of_the_longest_allowed_length_is_accepted() -> None:
    assert frame_length(framing.FRAME_HEADER.pack(framing.MAX_FRAME_BYTES)) == framing.MAX_FRAME_BYTES


@pytest.mark.parametrize("length", [framing.MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_an_oversize_frame_is_refused_by_its_header(length: int) -> None:
    with pytest.raises(FramingError, match="longer than"):
        frame_length(framing.FRAME_HEADER.pack(length))


def test_a_header_is_four_bytes_of_big_endian_length() -> None:
    frame = to_frame(messages.Heartbeat())
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4


def test_importing_the_messages_imports_no_torch() -> None:
    code = "import sys, pipelines.messages; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True, text=True
    )
    modules = set(finished.stdout.split())
    assert "pipelines" in modules
    assert modules & {"torch", "diffusers", "transformers", "numpy", "PIL", "fastapi"} == set()
