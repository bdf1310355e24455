"""The worker process: commands come in, one work item is done at a time, events go out.

Knows one socket, one device and one runner; knows no HTTP and no other process.
Invariant: only the main thread touches torch; the process ends at once when its socket closes.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Before any library that might ask a hub: this process never goes online and never runs a checkpoint's code.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DIFFUSERS_DISABLE_REMOTE_CODE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)

import torch

from pipelines.engine.faults import FaultPoints
from pipelines.engine.models import Models
from pipelines.engine.runner import Runner
from pipelines.families.contract import FamilyOptions
from pipelines.messages import (
    FRAME_HEADER,
    Cancel,
    Command,
    Event,
    FramingError,
    Heartbeat,
    Ready,
    Shutdown,
    Start,
    Submit,
    frame_length,
    to_command,
    to_frame,
)


class Pipe:
    """The worker's end of the socket. Sending is safe from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, event: Event) -> None:
        with self._sending:
            self._connection.sendall(to_frame(event))

    def receive(self) -> Command:
        """The next command. Raises EOFError when the other side is gone."""
        length = frame_length(self._exactly(FRAME_HEADER.size))
        return to_command(self._exactly(length))

    def _exactly(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            part = self._connection.recv(min(count - len(received), 1 << 20))
            if not part:
                raise EOFError
            received += part
        return bytes(received)


def read_commands(pipe: Pipe, inbox: queue.SimpleQueue[Command]) -> None:
    """Pass commands on; end the process when the server is gone, even in the middle of a step."""
    try:
        while not isinstance(command := pipe.receive(), Shutdown):
            inbox.put(command)
    except (EOFError, OSError):
        pass
    except FramingError as error:
        print(f"worker: {error}", file=sys.stderr, flush=True)
    os._exit(0)


def send_heartbeats(pipe: Pipe, every_seconds: float) -> None:
    while True:
        try:
            pipe.send(Heartbeat())
        except OSError:
            os._exit(0)
        time.sleep(every_seconds)


def choose_device(name: str) -> torch.device:
    """`auto` means the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where tensor cores make it quick; float32 on a CPU, where it is exact and no slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def serve(pipe: Pipe, inbox: queue.SimpleQueue[Command], start: Start) -> None:
    """Work until the process ends: take commands between two work items, wait when there is nothing to do."""
    torch.set_num_threads(start.threads)
    device = choose_device(start.device)
    options = FamilyOptions(start.options.exact_rows, start.options.prompt_cache_bytes)
    models = Models(start.models, device, choose_dtype(device), options)
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode") as encoders:
        faults = FaultPoints.from_environment()
        runner = Runner(models, pipe.send, encoders, time.perf_counter, start.options, faults)
        pipe.send(Ready(str(device), models.reports()))
        while True:
            take_commands(runner, inbox)
            runner.work()


def take_commands(runner: Runner, inbox: queue.SimpleQueue[Command]) -> None:
    """Hand over all waiting commands; with no work at hand, wait for one first."""
    try:
        while True:
            command = inbox.get(block=not runner.has_work)
            if isinstance(command, Submit):
                runner.submit(command)
            elif isinstance(command, Cancel):
                runner.cancel(command.job_id)
    except queue.Empty:
        return


def main() -> None:
    """Entry point: the number of the inherited socket is the only argument."""
    pipe = Pipe(socket.socket(fileno=int(sys.argv[1])))
    first = pipe.receive()
    if not isinstance(first, Start):
        raise SystemExit("worker: the first command must be Start")
    inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(pipe, inbox), daemon=True, name="inbox").start()
    threading.Thread(target=send_heartbeats, args=(pipe, first.heartbeat_seconds), daemon=True, name="pulse").start()
    serve(pipe, inbox, first)


if __name__ == "__main__":
    main()
