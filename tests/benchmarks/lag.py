"""How late the server's event loop is while it does what could hold it; beside it an idle loop, to tell our part from
the machine's.

python -m tests.benchmarks.lag --seconds 15
Lags are those that a request would meet that comes at any moment: a loop that is held for a second makes all those late
that come within it, by between nothing and a second.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image as Pictures

from server.core.loop_lag import TICK_SECONDS
from tests.benchmarks.report import percentile, show

STREAMS = 200
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
SMALL = {"prompt": "a red circle", "size": "256x256", "steps": 1}
WARM = {"prompt": "a red circle", "size": "256x256", "steps": 2}


@dataclass
class Server:
    """Under measurement. png, jpeg: large pictures. body: a request with the PNG in it."""

    url: str
    ledger: Path
    png: bytes
    jpeg: bytes
    body: bytes

    def post(self, path: str, **request: Any) -> int:
        try:
            return httpx.post(self.url + path, timeout=120, **request).status_code
        except httpx.HTTPError:
            return 0


Work = Callable[[Server], int]


def noise(side_px: int, kind: str) -> bytes:
    """A picture that cannot be compressed, so that its file is as large as its pixels."""
    pixels = random.Random(1).randbytes(side_px * side_px * 3)
    with io.BytesIO() as file:
        Pictures.frombytes("RGB", (side_px, side_px), pixels).save(file, kind, quality=95, compress_level=0)
        return file.getvalue()


def rest(_: Server) -> int:
    time.sleep(0.2)
    return 200


def draw(server: Server) -> int:
    return server.post("/v1/images/generations", json=SMALL)


def upload(server: Server) -> int:
    """A form with a large picture, decoded and drawn on."""
    file = random.choice((("a.png", server.png), ("a.jpg", server.jpeg)))
    return server.post("/v1/images/edits", data={**SMALL, "steps": "2"}, files={"image": file})


def base64_body(server: Server) -> int:
    return server.post("/v1/images/generations", content=server.body, headers={"content-type": "application/json"})


def encode(server: Server) -> int:
    """Large pictures, written and answered as base64."""
    body = {**SMALL, "size": "1024x1024", "n": 4, "response_format": "b64_json"}
    return server.post("/v1/images/generations", json=body)


def load_and_unload(server: Server) -> int:
    server.post("/admin/models/demo-sd21/load")
    time.sleep(1.5)
    return server.post("/admin/models/demo-sd21/unload")


def reload(server: Server) -> int:
    return server.post("/admin/reload")


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """By somebody else, for ten seconds."""

    def hold() -> None:
        connection = sqlite3.connect(server.ledger, timeout=30, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(10)
        connection.execute("ROLLBACK")
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    yield
    holder.join()


@contextmanager
def waiting_streams(server: Server) -> Iterator[None]:
    """Two hundred that are told where they are in the queue, and that a long picture keeps from their turn."""
    body = {**SMALL, "size": "1024x1024", "steps": 100, "stream": True}
    asked: dict[str, Any] = {"json": body, "headers": {"x-safelight-progress": "true"}}
    with ExitStack() as streams:
        client = streams.enter_context(httpx.Client(limits=httpx.Limits(max_connections=None), timeout=60))
        for _ in range(STREAMS):
            streams.enter_context(client.stream("POST", f"{server.url}/v1/images/generations", **asked))
        yield


@contextmanager
def nothing_else(_: Server) -> Iterator[None]:
    yield


PHASES: Mapping[str, tuple[Work, int, Any]] = {
    "idle": (rest, 1, nothing_else),
    "small pictures": (draw, 2, nothing_else),
    "forms with large pictures": (upload, 2, nothing_else),
    "base64 bodies": (base64_body, 2, nothing_else),
    "large replies": (encode, 1, nothing_else),
    "database locked": (draw, 4, locked),
    "models come and go": (load_and_unload, 1, nothing_else),
    "models.yaml is read again": (reload, 1, nothing_else),
    "200 waiting streams": (rest, 1, waiting_streams),
}


def measured(server: Server, phase: str, seconds: float) -> tuple[float, float, dict[int, int]]:
    """When the phase began and ended, and how often each status was answered."""
    work, callers, beside = PHASES[phase]
    statuses: dict[int, int] = {}
    with beside(server):
        began = time.monotonic()

        def call() -> None:
            while time.monotonic() < began + seconds:
                status = work(server)
                statuses[status] = statuses.get(status, 0) + 1

        with ThreadPoolExecutor(callers) as pool:
            for calling in [pool.submit(call) for _ in range(callers)]:
                calling.result()
        return began, time.monotonic(), statuses


def lags(file: Path, began: float, ended: float) -> list[float]:
    """As met by whoever comes at any moment: a long hold counts for all the ticks that it kept from happening."""
    found: list[float] = []
    for line in file.read_text().splitlines():
        moment, lag = map(float, line.split())
        if began <= moment <= ended:
            found += [max(0.0, lag - late * TICK_SECONDS) for late in range(1 + int(lag / TICK_SECONDS))]
    return found


def figures(values: list[float]) -> dict[str, float]:
    return {name: round(1000 * percentile(values, share), 1) for name, share in SHARES.items()}


def run(seconds: float, phases: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probe = [sys.executable, "-m", "tests.benchmarks.lag_server"]
        idle = subprocess.Popen([*probe, str(folder / "idle")])
        serving = subprocess.Popen([*probe, str(folder / "server"), name], stdout=subprocess.PIPE, text=True)
        try:
            assert serving.stdout is not None
            url = next(line for line in serving.stdout if line.startswith("http")).strip()
            png = noise(3300, "PNG")
            body = json.dumps({**WARM, "image": base64.b64encode(png).decode()}).encode()
            server = Server(url, folder / "ledger.sqlite", png, noise(4000, "JPEG"), body)
            draw(server)
            for phase in phases:
                began, ended, statuses = measured(server, phase, seconds)
                found[phase] = {
                    "server_ms": figures(lags(folder / "server", began, ended)),
                    "idle_loop_ms": figures(lags(folder / "idle", began, ended)),
                    "statuses": statuses,
                }
                print(phase, json.dumps(found[phase]), file=sys.stderr, flush=True)
                time.sleep(1)
        finally:
            for process in (serving, idle):
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=list(PHASES))
    arguments = parser.parse_args()
    found = run(arguments.seconds, arguments.phases)
    rows = [
        [phase, *(f"{one['server_ms'][name]} ({one['idle_loop_ms'][name]})" for name in SHARES), one["statuses"]]
        for phase, one in found.items()
    ]
    load = os.getloadavg()[1]
    show(
        "lag",
        ["phase", *(f"{name} ms (idle loop)" for name in SHARES), "answers"],
        rows,
        {"phases": found, "load_5_minutes": load},
    )


if __name__ == "__main__":
    main()
