"""The decoder process: a picture comes in, pixels, a new file or a refusal go out.

Knows one socket and Pillow; knows no HTTP, no keys and no other picture.
Invariant: no byte of a stranger's is read before the limits are set, and the process ends with its server.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import secrets
import signal
import socket
import sys

import msgspec
from PIL import Image as Pictures

from pipelines.framing import FRAME_HEADER, decoded, frame_length
from pipelines.messages import Message, OutputFormat
from server.core import errors
from server.core.model_entry import Limits
from server.core.request import MaskColours, Size
from server.images.decode import UnusablePicture
from server.images.inputs import FittedImage, ImageInputs, beyond_limits, fit_image, fit_mask
from server.images.pack import Packed, pack
from server.images.recode import recode

# What 64 megapixels take at most, as RGBA, turned and fitted to 50 megapixels, is 1.1 GB; the file comes on top, twice,
# and the answer, twice. Beyond that there is no picture that we accept, only a decoder that ran away.
MEMORY_BYTES = 2 * 1024**3
CPU_SECONDS = 30
# Standard streams, the socket and the few that Python opens in passing.
OPEN_FILES = 16
# Linux: the signal to get when the parent ends.
PR_SET_PDEATHSIG = 1


# Why a provider's picture, or one for a provider, was given up.
TOO_MUCH = "could not be worked with within limits of time and memory"


class Ready(Message, frozen=True):
    """First message from the process: it is limited, and takes pictures."""


class FitImage(Message, frozen=True):
    """An image to fit; `limits` are the model's Limits as JSON. param: whose picture it is."""

    content: bytes
    asked_size: Size | None
    limits: str
    param: str = "image"


class FitMask(Message, frozen=True):
    """A mask to place as its image was: `image_size` before it was fitted, `size` after."""

    content: bytes
    image_size: Size
    size: Size


class Recode(Message, frozen=True):
    """A provider's file, to be written anew: what `recode` takes."""

    content: bytes
    size: Size
    output: OutputFormat
    compression: int
    keeps_alpha: bool


class Pack(Message, frozen=True):
    """What was fitted, to be packed for a provider: what `pack` takes."""

    inputs: ImageInputs
    drawn_size: Size
    colours: MaskColours
    max_bytes: int


class ImageFitted(Message, frozen=True):
    image: FittedImage


class MaskFitted(Message, frozen=True):
    """One byte a pixel."""

    pixels: bytes


class Recoded(Message, frozen=True):
    file: bytes


class FilesPacked(Message, frozen=True):
    files: Packed


class Refused(Message, frozen=True):
    """The file cannot be used. message: of a caller's file, for its sender; else the reason of UnusablePicture."""

    message: str


Fitting = FitImage | FitMask
Question = FitImage | FitMask | Recode | Pack
Answer = Ready | ImageFitted | MaskFitted | Recoded | FilesPacked | Refused

_encoder = msgspec.msgpack.Encoder()
_question_decoder: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def to_body(message: Question | Answer) -> bytes:
    return _encoder.encode(message)


def to_pieces(message: Question) -> list[bytes]:
    """What `to_body` gives, but with the file as it is: to copy tens of megabytes would hold the event loop.

    In MessagePack a byte string is its length, then its bytes; so a mark of known length can stand for it first.
    """
    if isinstance(message, Pack):
        return [to_body(message)]
    mark, file = secrets.token_bytes(16), message.content
    before, after = to_body(msgspec.structs.replace(message, content=mark)).split(b"\xc4\x10" + mark)
    return [before + b"\xc6" + len(file).to_bytes(4, "big"), file, after]


def to_question(body: bytes | bytearray) -> Question:
    """Raises FramingError when the body is no question."""
    return decoded(_question_decoder, body)


def to_answer(body: bytes | bytearray) -> Answer:
    """Raises FramingError when the body is no answer."""
    return decoded(_answer_decoder, body)


def param_of(question: Fitting) -> str:
    return question.param if isinstance(question, FitImage) else "mask"


def too_much(question: Question) -> Refused:
    """What is said of a picture that takes more than there is, or that a process died of."""
    if isinstance(question, FitImage | FitMask):
        return Refused(beyond_limits(param_of(question)).message)
    return Refused(TOO_MUCH)


def answer(question: Question) -> Answer:
    """Whatever else a picture may cause ends the process, and with it that picture's request."""
    try:
        return _done(question)
    except errors.SafelightError as error:
        return Refused(error.message)
    except UnusablePicture as problem:
        return Refused(problem.reason)
    except MemoryError:
        return too_much(question)


def _done(question: Question) -> Answer:
    match question:
        case FitImage(content, asked_size, limits, param):
            return ImageFitted(fit_image(content, asked_size, Limits.model_validate_json(limits), param))
        case FitMask(content, image_size, size):
            return MaskFitted(fit_mask(content, image_size, size))
        case Recode(content, size, output, compression, keeps_alpha):
            return Recoded(recode(content, size, output, compression, keeps_alpha))
        case Pack(inputs, drawn_size, colours, max_bytes):
            return FilesPacked(pack(inputs, drawn_size, colours, max_bytes))


def limit_this_process(memory_bytes: int) -> None:
    """From here on it cannot take the machine's memory, write a file or leave a core."""
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, value: int) -> None:
    """Both limits, so that it cannot be lifted again; what was stricter before stays."""
    highest = resource.getrlimit(kind)[1]
    strict = value if highest == resource.RLIM_INFINITY else min(value, highest)
    resource.setrlimit(kind, (strict, strict))


def allow_cpu_seconds(seconds: int) -> None:
    """So many more for the next picture; the limit counts from the start of the process, so it moves along."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    highest = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, highest))


def end_with_the_server() -> None:
    """Even in the middle of a picture. Elsewhere than on Linux the closed socket ends it, after that picture."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def receive(connection: socket.socket) -> Question:
    """Raises EOFError when the server is gone."""
    length = frame_length(bytes(_exactly(connection, FRAME_HEADER.size)))
    return to_question(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytearray:
    received = bytearray(count)
    rest = memoryview(received)
    while rest:
        taken = connection.recv_into(rest)
        if not taken:
            raise EOFError
        rest = rest[taken:]
    return received


def send(connection: socket.socket, message: Answer) -> None:
    body = to_body(message)
    connection.sendall(FRAME_HEADER.pack(len(body)))
    connection.sendall(body)


def main(descriptor: int, memory_bytes: int = MEMORY_BYTES, cpu_seconds: int = CPU_SECONDS) -> None:
    """Answer one question after another; descriptor: the inherited socket. Raises EOFError when the server is gone."""
    end_with_the_server()
    # All of Pillow's readers now: it would import them at the first file that is of no known format.
    Pictures.init()
    limit_this_process(memory_bytes)
    connection = socket.socket(fileno=descriptor)
    send(connection, Ready())
    while True:
        allow_cpu_seconds(cpu_seconds)
        send(connection, answer(receive(connection)))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main(*map(int, sys.argv[1:]))
