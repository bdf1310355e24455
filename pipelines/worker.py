"""The worker process: commands come in, one work item is done at a time, events go out.

Knows one socket, one device and one runner; knows no HTTP and no other process.
Invariant: only the main thread works with models, and one other moves their weights; the process ends at once when its
socket closes.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

# Before any library that might ask a hub: this process never goes online and never runs a checkpoint's code.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DIFFUSERS_DISABLE_REMOTE_CODE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)

import msgspec
import torch

from pipelines.engine.faults import FaultPoints
from pipelines.engine.runner import Runner
from pipelines.engine.safety import SafetyCheck
from pipelines.engine.tally import Tally
from pipelines.engine.watch import Watch
from pipelines.families.contract import FamilyOptions
from pipelines.framing import FRAME_HEADER, FramingError, frame_length
from pipelines.messages import (
    Cancel,
    Command,
    Event,
    Figures,
    Heartbeat,
    Load,
    Pin,
    Ready,
    Residency,
    Serve,
    Shutdown,
    Start,
    Submit,
    Unload,
    to_command,
    to_frame,
)
from pipelines.residency.budgets import budgets_of, job_memory_bytes, memory_in_use, memory_of
from pipelines.residency.carrier import Carrier
from pipelines.residency.holding import Rules
from pipelines.residency.models import LOOK_SECONDS, Aside, Models

# The server's figures are so old at most while work items are short.
FIGURES_SECONDS = 1.0

# None is no command: it wakes whoever waits for one.
Inbox = queue.SimpleQueue[Command | None]


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


def read_commands(pipe: Pipe, inbox: Inbox) -> None:
    """Pass commands on; end the process when the server is gone, even in the middle of a step."""
    try:
        while not isinstance(command := pipe.receive(), Shutdown):
            inbox.put(command)
    except (EOFError, OSError):
        pass
    except FramingError as error:
        print(f"worker: {error}", file=sys.stderr, flush=True)
    os._exit(0)


def send_heartbeats(pipe: Pipe, every_seconds: float, watch: Watch) -> None:
    """Say that the process lives; and that it hangs, where the thread that works with models does not come back."""
    while True:
        try:
            pipe.send(watch.hung(time.perf_counter()) or Heartbeat())
        except OSError:
            os._exit(0)
        time.sleep(every_seconds)


def choose_device(name: str) -> torch.device:
    """`auto` means the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def serve(pipe: Pipe, inbox: Inbox, start: Start, watch: Watch) -> None:
    """Work until the process ends: take commands between two work items, wait when there is nothing to do."""
    torch.set_num_threads(start.threads)
    device = choose_device(start.device)
    with (
        ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode") as encoders,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="survey") as surveyors,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="carry") as carriers,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile") as compilers,
    ):
        models = open_models(start, device, Aside(surveyors, carriers, wake=lambda: inbox.put(None)), compilers)
        options = msgspec.structs.replace(
            start.options, memory_bytes=job_memory_bytes(start.options, memory_of(device), device)
        )
        faults, safety = FaultPoints.from_environment(), safety_of(start)
        tally, figured_seconds = Tally(), time.perf_counter()
        runner = Runner(models, pipe.send, encoders, time.perf_counter, options, faults, safety, tally, watch)
        told = models.reports()
        pipe.send(Ready(str(device), told))
        has_worked = False
        while True:
            take_commands(runner, models, inbox, waits=not has_worked)
            has_worked = runner.work()
            if (reports := models.reports()) != told:
                pipe.send(Residency(told := reports))
            if time.perf_counter() - figured_seconds >= FIGURES_SECONDS:
                figured_seconds = time.perf_counter()
                pipe.send(figures_of(tally, models, device))


def figures_of(tally: Tally, models: Models, device: torch.device) -> Figures:
    """All that was counted since the worker's start."""
    of_models = tuple(
        msgspec.structs.replace(one, out_of_memory=tally.out_of_memory.get(one.model, 0)) for one in models.figures()
    )
    return Figures(tally.figures(), of_models, memory_in_use(device))


def safety_of(start: Start) -> SafetyCheck | None:
    """What pictures must pass. Loaded for the first that must."""
    folder = start.options.safety_checker
    return None if folder is None else SafetyCheck(Path(folder))


def open_models(start: Start, device: torch.device, aside: Aside, compilers: Executor) -> Models:
    """The models of this worker, with those asked for that are to be there from the start."""
    budgets = budgets_of(start.options, memory_of(device), device)
    options = FamilyOptions(start.options.exact_rows, start.options.prompt_cache_bytes, compilers)
    models = Models((), Carrier(device), budgets, Rules(), aside, options)
    models.serve(Serve(start.models, never_together=start.options.never_together), time.perf_counter())
    return models


def take_commands(runner: Runner, models: Models, inbox: Inbox, *, waits: bool) -> None:
    """Hand over all commands that are there; with nothing to work on, wait for one first, but not for long: what
    models come may depend on time alone."""
    try:
        while True:
            obey(runner, models, inbox.get(block=waits, timeout=LOOK_SECONDS))
            waits = False
    except queue.Empty:
        return


def obey(runner: Runner, models: Models, command: Command | None) -> None:
    match command:
        case Submit():
            runner.submit(command)
        case Cancel(job_id=job_id):
            runner.cancel(job_id)
        case Load(model=model):
            models.load(model, time.perf_counter())
        case Unload(model=model):
            models.unload(model)
        case Pin(model=model, is_pinned=is_pinned):
            models.pin(model, is_pinned)
        case Serve():
            models.serve(command, time.perf_counter())
            runner.look_at_models()


def main() -> None:
    """Entry point: the number of the inherited socket is the only argument."""
    pipe = Pipe(socket.socket(fileno=int(sys.argv[1])))
    first = pipe.receive()
    if not isinstance(first, Start):
        raise SystemExit("worker: the first command must be Start")
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(pipe, inbox), daemon=True, name="inbox").start()
    watch = Watch(first.options.step_timeout_seconds)
    pulse = (pipe, first.heartbeat_seconds, watch)
    threading.Thread(target=send_heartbeats, args=pulse, daemon=True, name="pulse").start()
    serve(pipe, inbox, first, watch)


if __name__ == "__main__":
    main()
