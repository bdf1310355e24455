"""A real `safelight serve` process for the tests: started on a free port, spoken to over its socket, ended by pid."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120.0
SMALL = {"size": "256x256", "steps": 2}


@dataclass
class ServerProcess:
    """Starts when made, ends with `stop`. `lines` is everything that it printed, both streams.

    program: a Python that has the packages, and what it is run under.
    """

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable,)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAFELIGHT_")}
        # Whoever tests beside other work keeps the workers from fighting over the cores.
        inherited |= {name: os.environ[name] for name in ("SAFELIGHT_THREADS",) if name in os.environ}
        self.process = subprocess.Popen(
            [*self.program, "-m", "server.cli", "serve", "--port", "0", *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**inherited, **self.environment},
        )
        self._printed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for(r"Safelight serves .* on (http://\S+)")[1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line)
                self._printed.notify_all()
        self.process.stdout.close()

    def _wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + START_SECONDS
        with self._printed:
            while True:
                for line in self.lines:
                    if found := re.search(pattern, line):
                        return found
                assert time.monotonic() < deadline, f"no line like {pattern}: {''.join(self.lines)}"
                assert self.process.poll() is None, f"the server ended: {''.join(self.lines)}"
                self._printed.wait(0.2)

    def generate(self, path: str = "/v1/images/generations", **body: Any) -> httpx.Response:
        """POST a small picture's request; keyword arguments are its parameters."""
        return httpx.post(self.url + path, json={**SMALL, **body}, timeout=120)

    def answer_to_unfinished_body(self, declared_bytes: int) -> bytes:
        """What comes back when a body of this declared length stops after its first byte."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n{" % declared_bytes
            )
            return connection.recv(4096)

    def worker_pids(self) -> list[int]:
        """The server's child processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def wait_until_ready(self, timeout_seconds: float = 60) -> float:
        """Seconds until /health/ready says so."""
        began = time.monotonic()
        while httpx.get(f"{self.url}/health/ready").status_code != 200:
            assert time.monotonic() - began < timeout_seconds
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_seconds: float = 30) -> int:
        """Signal the process, wait for its end, and return its exit status. Safe to call again."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(timeout_seconds)
        self._reader.join(5)
        return status


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)
