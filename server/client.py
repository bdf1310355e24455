"""The server's own client, behind `safelight draw`: asks over HTTP, shows how far it is, writes the files.

Knows the public API and a terminal; knows nothing of the server's inside.
Invariant: every picture that was drawn is on the disk before the command ends, and none is written over another.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from server.connection import ServerProblem, connected, message_of

PROGRESS_HEADERS = {"x-safelight-progress": "true"}
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
CONNECT_SECONDS = 5.0
# The server sends a sign of life every ten seconds; a silence this long means that it is gone.
SILENCE_SECONDS = 60.0


class DrawingFailed(ServerProblem):
    """No picture, or not all of them; the text is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture on the disk."""

    path: Path
    seed: int


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask for. values: the request's parameters. output: the file to write, or None for names by seed."""

    server: str
    values: Mapping[str, Any]
    output: Path | None = None
    key: str | None = None


@dataclass(slots=True)
class _Bars:
    """A line for each picture: step, place in the queue, remaining time."""

    progress: Progress
    count: int
    tasks: dict[int, TaskID] = field(default_factory=dict)

    def show(self, event: Mapping[str, Any]) -> None:
        index = event["index"]
        if index not in self.tasks:
            name = "drawing" if self.count == 1 else f"drawing {index + 1} of {self.count}"
            self.tasks[index] = self.progress.add_task(name, place="", total=event.get("steps"))
        place = event.get("queue_place")
        note = f"{place} in front" if place else ""
        self.progress.update(self.tasks[index], completed=event.get("step"), total=event.get("steps"), place=note)

    def finish(self, index: int) -> None:
        if index in self.tasks:
            task = self.progress.tasks[self.tasks[index]]
            self.progress.update(task.id, completed=task.total, place="")


def progress_bars(*, is_quiet: bool) -> Progress:
    """On standard error, so that standard output is for results alone."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[place]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=is_quiet)


def draw(order: Order, progress: Progress) -> list[Drawn]:
    """Ask, wait and write. Raises ServerProblem, and OSError when a file cannot be written."""
    count = order.values.get("n") or 1
    bars, drawn = _Bars(progress, count), []
    for event in _events(order):
        if event["type"] == "safelight.progress":
            bars.show(event)
        elif event["type"].endswith(".completed"):
            bars.finish(event["index"])
            drawn.append(_written(event, order.output, count))
    if len(drawn) < count:
        raise DrawingFailed("The server ended the answer before all pictures were there.")
    return drawn


def _events(order: Order) -> Iterator[dict[str, Any]]:
    """What the server streams. Raises DrawingFailed for its errors, and ServerProblem."""
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    body = {**order.values, "stream": True}
    with (
        connected(order.server, order.key, timeout) as client,
        client.stream("POST", "/v1/images/generations", json=body, headers=PROGRESS_HEADERS) as answer,
    ):
        if answer.status_code != httpx2.codes.OK:
            raise DrawingFailed(message_of(answer.read()))
        yield from _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data:"):
            event: dict[str, Any] = json.loads(line.removeprefix("data:"))
            if event.get("error"):
                raise DrawingFailed(event["error"]["message"])
            yield event


def _written(event: Mapping[str, Any], output: Path | None, count: int) -> Drawn:
    seed = int(event["seed"])
    extension = EXTENSIONS[event["output_format"]]
    if output is None:
        path = _free(Path(f"safelight-{seed}{extension}"))
    elif count == 1:
        path = output
    else:
        path = output.with_stem(f"{output.stem}-{event['index'] + 1}")
    path.write_bytes(base64.b64decode(event["b64_json"]))
    return Drawn(path, seed)


def lora_of(text: str) -> dict[str, Any]:
    """What NAME or NAME:SCALE asks for; a name may have colons of its own."""
    name, _, scale = text.rpartition(":")
    try:
        return {"name": name, "scale": float(scale)} if name else {"name": text}
    except ValueError:
        return {"name": text}


def _free(path: Path) -> Path:
    """The path, or the first with a number behind it that is not taken."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())


def format_of(path: Path) -> str:
    """The format that the file's name asks for. Raises DrawingFailed when it names none that is drawn."""
    if path.suffix.lower() not in FORMATS:
        raise DrawingFailed(f"{path}: a picture's name ends in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]


def picture_text(path: Path) -> str:
    """A picture file as a request carries it. Raises OSError."""
    return base64.b64encode(path.read_bytes()).decode("ascii")
