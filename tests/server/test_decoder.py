"""Guards the decoding of pictures in processes of their own: what dies or hangs there costs one caller, once.

Every scenario ends with the promise that no process is left.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image

from pipelines.framing import FRAME_HEADER, frame_length
from server.core.errors import SafelightError
from server.core.model_entry import Limits
from server.core.request import Size
from server.images.decoder import Decoder
from server.images.decoder_process import (
    MEMORY_BYTES,
    OPEN_FILES,
    Answer,
    FitImage,
    ImageFitted,
    Question,
    Ready,
    Refused,
    to_answer,
    to_body,
    to_pieces,
    to_question,
)
from server.images.inputs import ImageInputs, fit
from tests.server.picture_files import BLACK, BLUE, RED, WHITE, animation, bomb, file_of, halves, plain, png, slow_jpeg

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(min_side_px=64, max_side_px=256, side_multiple_px=16, max_pixels=192 * 256)
WIDE_LIMITS = Limits(min_side_px=64, max_side_px=7000, max_pixels=49_000_000)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
PICTURE = file_of(halves((96, 128), RED, BLUE))
MASK = file_of(halves((96, 128), BLACK, WHITE))
# A process at rest has less than half of it; one that decodes a large picture has more at once.
BUSY_BYTES = 120_000_000
GONE_WITHIN_SECONDS = 5.0
# A busy machine is no hostile picture.
PATIENT_SECONDS = 120.0

HOSTILE = {
    "empty": b"",
    "bomb": bomb("PNG", 9000),
    "larger bomb": bomb("PNG", 60_000),
    "truncated": file_of(halves((96, 96), RED, BLUE))[:-30],
    "JPEG of thousands of scans": slow_jpeg(5000),
    "GIF": file_of(plain("RGB", (96, 96), RED), "GIF"),
    "GIF of two frames": animation("GIF"),
    "PNG of two frames": animation("PNG"),
    "SVG": SVG,
    "EPS": EPS,
    "EPS that pretends": b"\x89PNG\r\n\x1a\n" + EPS,
    "too small": file_of(plain("RGB", (96, 63), RED)),
    "garbage": bytes(range(256)) * 400,
}


@cache
def large_file() -> bytes:
    """A small file of 64 megapixels: nobody refuses it, and it takes a while."""
    return png((8000, 8000), 8, 0, [b"\x80" * 8000] * 8000)


def status_bytes(pid: int, field: str) -> int:
    """A figure of /proc/PID/status; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def state_of(pid: int) -> str:
    """The letter that the system gives to what a process does; "" for one that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(parent: int) -> list[int]:
    """Dead ones that nobody has taken note of count too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def pids() -> list[int]:
    """Our decoder processes, beside whatever else other tests keep; a dead one has no command line left."""
    return [
        child for child in children_of(os.getpid()) if b"decoder_process" in (line := command_of(child)) or not line
    ]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def pid() -> int:
    (only,) = pids()
    return only


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


async def until_decoding() -> int:
    """The process, in the middle of a large picture."""
    await until(lambda: any(status_bytes(child, "VmRSS") > BUSY_BYTES for child in pids()))
    return pid()


def run(scenario: Callable[[Decoder], Awaitable[T]], **options: float) -> T:
    """Play it with a decoder, then stop that; nothing may remain."""
    decoder = Decoder(**{"timeout_seconds": PATIENT_SECONDS} | options)  # type: ignore[arg-type]

    async def play() -> T:
        await decoder.start()
        try:
            return await scenario(decoder)
        finally:
            await decoder.stop()
            assert pids() == []

    assert pids() == []
    return asyncio.run(play())


async def refusal(answer: Awaitable[object]) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        await answer
    return caught.value


def is_beyond_limits(error: SafelightError, param: str) -> bool:
    text = f"Invalid value for '{param}': the file could not be decoded within limits of time and memory."
    return (error.status, error.code, error.param, error.message) == (400, "invalid_parameter", param, text)


def outcome(call: Callable[[], ImageInputs]) -> ImageInputs | tuple[int, str | None, str]:
    try:
        return call()
    except SafelightError as error:
        return error.status, error.param, error.message


async def good(decoder: Decoder) -> int:
    """A picture that must come out right; the process that is there afterwards."""
    assert await decoder.fit(PICTURE, MASK, None, LIMITS) == fit(PICTURE, MASK, None, LIMITS)
    return pid()


def test_an_image_and_a_mask_come_out_in_the_size_that_is_drawn() -> None:
    async def scenario(decoder: Decoder) -> ImageInputs:
        return await decoder.fit(PICTURE, MASK, Size(192, 256), LIMITS)

    inputs = run(scenario)
    assert inputs.size == Size(192, 256)
    assert inputs.image[:3] == bytes(RED)
    assert inputs.image[-3:] == bytes(BLUE)
    assert inputs.mask == (b"\0" * 96 + b"\xff" * 96) * 256


@pytest.mark.parametrize(
    ("own", "drawn"),
    [((96, 128), Size(96, 128)), ((100, 127), Size(96, 112)), ((1000, 1000), Size(208, 208))],
)
def test_without_a_size_the_pictures_own_shape_is_kept_on_the_models_grid(own: tuple[int, int], drawn: Size) -> None:
    async def scenario(decoder: Decoder) -> ImageInputs:
        return await decoder.fit(file_of(plain("RGB", own, RED)), None, None, LIMITS)

    assert run(scenario) == ImageInputs(drawn, bytes(RED) * drawn.width_px * drawn.height_px, None)


def test_every_answer_and_every_refusal_is_that_of_fitting_in_this_process_and_one_process_gives_them_all() -> None:
    cases: list[tuple[bytes, bytes | None, Size | None]] = []
    for size in (None, Size(64, 256)):
        cases += [(PICTURE, None, size), (PICTURE, MASK, size)]
        cases += [(content, None, size) for content in HOSTILE.values()]
        cases += [(PICTURE, content, size) for content in HOSTILE.values()]
        cases += [(PICTURE, file_of(plain("L", (96, 128), 0)), size), (b"", b"", size)]

    async def one(decoder: Decoder, case: tuple[bytes, bytes | None, Size | None]) -> object:
        try:
            return await decoder.fit(*case, LIMITS)
        except SafelightError as error:
            return error.status, error.param, error.message

    async def scenario(decoder: Decoder) -> list[object]:
        first = await good(decoder)
        answers = [await one(decoder, case) for case in cases]
        assert await good(decoder) == first
        return answers

    def here(case: tuple[bytes, bytes | None, Size | None]) -> object:
        return outcome(lambda: fit(*case, LIMITS))

    answers = run(scenario)
    assert answers == [here(case) for case in cases]
    assert sum(isinstance(answer, tuple) for answer in answers) > 2 * len(HOSTILE)


def test_no_process_is_started_before_the_first_picture_and_then_one_stays() -> None:
    async def scenario(decoder: Decoder) -> None:
        assert pids() == []
        assert await good(decoder) == await good(decoder)

    run(scenario)


def test_a_process_makes_way_after_so_many_pictures() -> None:
    async def scenario(decoder: Decoder) -> list[int]:
        used = []
        for _ in range(3):
            used += [await good(decoder), await good(decoder)]
            await decoder.fit(PICTURE, None, None, LIMITS)
            await until(lambda: pids() == [])
        return used

    used = run(scenario, pictures_per_process=3)
    assert used[::2] == used[1::2]
    assert len(set(used)) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_callers_at_once_all_get_their_own_picture(processes: int) -> None:
    async def scenario(decoder: Decoder) -> list[ImageInputs]:
        files = [file_of(plain("RGB", (64 + 16 * (i % 4), 64), (10 * i, 255 - i, i))) for i in range(20)]
        answers = await asyncio.gather(*(decoder.fit(content, None, None, LIMITS) for content in files))
        assert len(pids()) == processes
        return answers

    for i, answer in enumerate(run(scenario, processes=processes)):
        width = 64 + 16 * (i % 4)
        assert answer == ImageInputs(Size(width, 64), bytes((10 * i, 255 - i, i)) * width * 64, None)


def test_callers_who_leave_at_any_moment_spoil_nobody_elses_answer() -> None:
    async def scenario(decoder: Decoder) -> None:
        for turn in range(30):
            leaving = asyncio.create_task(decoder.fit(PICTURE, MASK, Size(256, 64), LIMITS))
            staying = asyncio.create_task(
                decoder.fit(file_of(plain("RGB", (64, 64), (turn, 0, 0))), None, None, LIMITS)
            )
            await asyncio.sleep(0.0007 * turn)
            leaving.cancel()
            assert await staying == ImageInputs(Size(64, 64), bytes((turn, 0, 0)) * 64 * 64, None)

    run(scenario)


def test_a_caller_who_leaves_in_the_middle_of_a_picture_takes_its_process_along() -> None:
    async def scenario(decoder: Decoder) -> None:
        leaving = asyncio.create_task(decoder.fit(large_file(), None, None, LIMITS))
        process = await until_decoding()
        leaving.cancel()
        assert await good(decoder) != process
        assert leaving.cancelled()

    run(scenario)


def test_a_caller_who_leaves_while_in_line_costs_no_process() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        at_work = asyncio.create_task(decoder.fit(large_file(), None, None, LIMITS))
        in_line = asyncio.create_task(decoder.fit(PICTURE, None, None, LIMITS))
        await until_decoding()
        in_line.cancel()
        assert (await at_work).size == Size(208, 208)
        assert await good(decoder) == first

    run(scenario)


@pytest.mark.parametrize("param", ["image", "mask"])
def test_a_process_that_dies_over_a_picture_costs_that_picture_and_names_it(param: str) -> None:
    image, mask = (large_file(), None) if param == "image" else (PICTURE, large_file())

    async def scenario(decoder: Decoder) -> None:
        killed = asyncio.create_task(refusal(decoder.fit(image, mask, None, LIMITS)))
        in_line = asyncio.create_task(decoder.fit(PICTURE, None, None, LIMITS))
        process = await until_decoding()
        os.kill(process, signal.SIGKILL)
        assert is_beyond_limits(await killed, param)
        assert await in_line == fit(PICTURE, None, None, LIMITS)
        assert await good(decoder) != process

    run(scenario)


def test_a_process_that_died_at_rest_costs_nobody_anything() -> None:
    async def scenario(decoder: Decoder) -> None:
        process = await good(decoder)
        os.kill(process, signal.SIGKILL)
        await until(lambda: state_of(process) in {"", "Z"})
        assert await good(decoder) != process

    run(scenario)


def test_a_process_that_hangs_is_killed_at_the_deadline_and_replaced() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        os.kill(first, signal.SIGSTOP)
        assert is_beyond_limits(await refusal(decoder.fit(PICTURE, MASK, None, LIMITS)), "image")
        await until(lambda: state_of(first) == "")
        assert await good(decoder) != first

    run(scenario, timeout_seconds=3)


def test_the_wait_in_line_does_not_count_against_the_deadline() -> None:
    async def scenario(decoder: Decoder) -> None:
        os.kill(await good(decoder), signal.SIGSTOP)
        hanging = asyncio.create_task(refusal(decoder.fit(PICTURE, None, None, LIMITS)))
        in_line = [asyncio.create_task(decoder.fit(PICTURE, None, None, LIMITS)) for _ in range(3)]
        assert is_beyond_limits(await hanging, "image")
        assert await asyncio.gather(*in_line) == [fit(PICTURE, None, None, LIMITS)] * 3

    run(scenario, timeout_seconds=2)


def test_a_picture_that_takes_more_memory_than_there_is_is_refused_and_the_process_works_on() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        error = await refusal(decoder.fit(large_file(), None, None, LIMITS))
        assert (error.status, error.param) == (400, "image")
        error = await refusal(decoder.fit(PICTURE, large_file(), None, LIMITS))
        assert (error.status, error.param) == (400, "mask")
        assert is_beyond_limits(await refusal(decoder.fit(PICTURE, None, Size(7000, 7000), WIDE_LIMITS)), "image")
        assert await good(decoder) == first

    run(scenario, memory_bytes=200 * 1024**2)


def test_a_file_that_does_not_even_fit_into_the_process_costs_that_file() -> None:
    async def scenario(decoder: Decoder) -> None:
        first = await good(decoder)
        assert is_beyond_limits(await refusal(decoder.fit(bytes(80_000_000), None, None, LIMITS)), "image")
        assert await good(decoder) != first

    run(scenario, memory_bytes=130 * 1024**2)


@pytest.mark.whole
def test_the_largest_picture_turned_and_drawn_large_stays_below_the_limit_of_memory() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_of(
        plain("RGBA", (8000, 8000), (1, 2, 3, 100)), "WEBP", lossless=True, method=0, quality=0, exif=exif
    )

    async def scenario(decoder: Decoder) -> None:
        inputs = await decoder.fit(content, None, Size(7000, 7000), WIDE_LIMITS)
        assert len(inputs.image) == 7000 * 7000 * 3
        assert status_bytes(pid(), "VmPeak") < 0.8 * MEMORY_BYTES

    run(scenario)


def limits_of(process: int) -> dict[str, tuple[str, str]]:
    """The soft and the hard one."""
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def environment_of(process: int) -> str:
    return Path(f"/proc/{process}/environ").read_text()


def test_a_process_is_limited_alone_in_its_session_and_knows_nothing_of_the_servers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFELIGHT_SECRET", "do not tell")

    async def scenario(decoder: Decoder) -> None:
        process = await good(decoder)
        limits = limits_of(process)
        assert limits["Max address space"] == (str(MEMORY_BYTES),) * 2
        assert limits["Max open files"] == (str(OPEN_FILES),) * 2
        assert limits["Max core file size"] == ("0", "0")
        assert limits["Max file size"] == ("0", "0")
        assert 7 < int(limits["Max cpu time"][0]) < 60
        assert os.getsid(process) == process
        assert "SAFELIGHT" not in environment_of(process)

    run(scenario, timeout_seconds=7)


def test_the_process_imports_pillow_and_nothing_heavy() -> None:
    code = "import json, sys, server.images.decoder_process; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True
    ).stdout
    packages = {name.partition(".")[0] for name in json.loads(printed)}
    assert "PIL" in packages
    assert packages.isdisjoint({"torch", "numpy", "fastapi", "starlette", "uvicorn", "asyncio", "yaml"})


def test_callers_at_work_and_in_line_get_503_when_the_server_stops() -> None:
    async def scenario(decoder: Decoder) -> None:
        waiting = [asyncio.create_task(refusal(decoder.fit(large_file(), None, None, LIMITS))) for _ in range(3)]
        await until_decoding()
        await decoder.stop()
        assert pids() == []
        assert [(await error).status for error in waiting] == [503] * 3
        assert (await refusal(decoder.fit(PICTURE, None, None, LIMITS))).status == 503
        await decoder.stop()
        await decoder.start()
        await good(decoder)

    run(scenario)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 100])
def test_stopping_while_a_process_starts_leaves_none(turns: int) -> None:
    async def scenario(decoder: Decoder) -> None:
        waiting = asyncio.create_task(refusal(decoder.fit(PICTURE, None, None, LIMITS)))
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        await decoder.stop()
        assert pids() == []
        assert (await waiting).status == 503

    run(scenario)


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_where_no_process_can_be_started_the_picture_is_not_blamed(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(decoder: Decoder) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            error = await refusal(decoder.fit(PICTURE, None, None, LIMITS))
        assert (error.status, error.param) == (503, None)
        await good(decoder)

    run(scenario)


SERVER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from server.core.model_entry import Limits
    from server.images.decoder import Decoder

    async def serve():
        decoder = Decoder(timeout_seconds=300)
        await decoder.start()
        inputs = await decoder.fit(Path(sys.argv[1]).read_bytes(), None, None, Limits())
        print(inputs.size, flush=True)
        sys.stdin.read()
        await decoder.stop()

    asyncio.run(serve())
    """
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that decodes a large picture, prints its size and waits for the end of its input."""
    path = tmp_path / "large.png"
    path.write_bytes(large_file())
    arguments = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_process_dies_with_its_server_in_the_middle_of_a_picture(
    server: subprocess.Popen[bytes], is_stopped: bool
) -> None:
    asyncio.run(until(lambda: any(status_bytes(child, "VmRSS") > BUSY_BYTES for child in children_of(server.pid))))
    (process,) = children_of(server.pid)
    if is_stopped:
        os.kill(process, signal.SIGSTOP)
    server.kill()
    server.wait()
    deadline = time.monotonic() + GONE_WITHIN_SECONDS
    while state_of(process) not in {"", "Z"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_pixels_of_a_large_picture_are_never_in_the_server(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    assert server.stdout.readline() == b"2048x2048\n"
    (process,) = children_of(server.pid)
    assert status_bytes(process, "VmHWM") > 250_000_000
    assert status_bytes(server.pid, "VmHWM") < 130_000_000
    server.communicate()
    assert server.returncode == 0
    assert state_of(process) == ""


class Conversation:
    """With a decoder process, as the server would have it."""

    def __init__(self, cpu_seconds: int = 30) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        numbers = [str(number) for number in (theirs.fileno(), MEMORY_BYTES, cpu_seconds)]
        with theirs:
            command = [sys.executable, "-m", "server.images.decoder_process", *numbers]
            self.process = subprocess.Popen(command, cwd=ROOT, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL)
        assert self.receive() == Ready()

    def send(self, body: bytes) -> None:
        self.socket.sendall(FRAME_HEADER.pack(len(body)) + body)

    def ask(self, question: Question) -> Answer | None:
        self.send(to_body(question))
        return self.receive()

    def receive(self) -> Answer | None:
        """None at the end of the process."""
        header = self.socket.recv(FRAME_HEADER.size, socket.MSG_WAITALL)
        return to_answer(self.socket.recv(frame_length(header), socket.MSG_WAITALL)) if header else None

    @property
    def cpu_seconds(self) -> float:
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    @property
    def cpu_limit_seconds(self) -> int:
        return int(limits_of(self.process.pid)["Max cpu time"][0])


@pytest.fixture
def conversation() -> Iterator[Conversation]:
    """One whose process is gone afterwards."""
    talk = Conversation()
    yield talk
    talk.socket.close()
    talk.process.wait(timeout=60)


def ask_large(size: Size | None = None) -> FitImage:
    return FitImage(large_file(), size, WIDE_LIMITS.model_dump_json())


def test_a_process_ends_in_peace_when_its_server_hangs_up(conversation: Conversation) -> None:
    conversation.socket.close()
    assert conversation.process.wait(timeout=60) == 0


@pytest.mark.parametrize("length", [0, 1, 255, 256, 70_000])
def test_a_question_in_pieces_is_the_question(length: int) -> None:
    question = FitImage(bytes(length), Size(64, 64), "{}")
    assert to_question(b"".join(to_pieces(question))) == question


@pytest.mark.parametrize("body", [b"", b"\xc1", b"{}", to_body(Ready()), to_body(Refused("x"))])
def test_what_is_no_question_ends_the_process(conversation: Conversation, body: bytes) -> None:
    conversation.send(body)
    assert conversation.receive() is None
    assert conversation.process.wait(timeout=60) == 1


def test_each_picture_has_its_own_allowance_of_cpu_time(conversation: Conversation) -> None:
    while conversation.cpu_seconds < 1.5:
        assert isinstance(conversation.ask(ask_large(Size(64, 64))), ImageFitted)
    conversation.ask(FitImage(b"", None, LIMITS.model_dump_json()))
    assert conversation.cpu_limit_seconds >= 30 + math.floor(conversation.cpu_seconds)


def test_a_picture_that_eats_more_cpu_time_than_its_allowance_ends_the_process() -> None:
    conversation = Conversation(cpu_seconds=1)
    with conversation.socket:
        answers: list[Answer | None] = []
        while None not in answers:
            answers.append(conversation.ask(ask_large(Size(7000, 7000))))
            assert len(answers) < 3
    assert conversation.process.wait(timeout=60) == -signal.SIGXCPU
