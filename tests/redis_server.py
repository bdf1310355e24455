"""A real Redis for the tests: reached through a socket in a temporary folder, ended by pid.

Knows where Debian's package puts the program; scripts/environment fetches it where the machine has none.
Invariant: nothing of it is left once it was stopped, and it ends by itself when its maker does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UNPACKED = Path(sys.prefix) / "redis-server"
START_SECONDS = 30.0
ABSENT = (
    "There is no Redis. scripts/test fetches it where there are Debian's packages; elsewhere install it, so that "
    "`redis-server` is on the PATH."
)


class RedisServer:
    """Starts when made, ends with `stop`. Keeps nothing on the disk."""

    def __init__(self) -> None:
        unpacked = UNPACKED / "usr/bin/redis-server"
        found = str(unpacked) if unpacked.exists() else shutil.which("redis-server")
        if found is None:
            # Where everything is to be tested, nothing is left out in silence.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(ABSENT)
        self.folder = Path(tempfile.mkdtemp(prefix="safelight-redis-"))
        self._program = found
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        switches = ["--port", "0", "--unixsocket", str(self.place), "--save", "", "--appendonly", "no"]
        command = ["setpriv", "--pdeathsig=KILL", self._program, *switches, "--dir", str(self.folder)]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment())
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            told = (self.folder / "log").read_text()
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.02)
        return process

    @property
    def place(self) -> Path:
        """Of its socket."""
        return self.folder / "redis.sock"

    def _environment(self) -> dict[str, str]:
        """Unpacked packages bring the libraries that this machine lacks."""
        root = Path(self._program).parents[2]
        folders = ":".join(map(str, root.glob("usr/lib/*-linux-gnu")))
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | ({"LD_LIBRARY_PATH": folders} if folders else {})

    def _answers(self) -> bool:
        try:
            return self._told("PING") == b"+PONG"
        except OSError:
            return False

    def _told(self, command: str) -> bytes:
        """The first five bytes of its answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.place))
            line.sendall(f"{command}\r\n".encode())
            return line.recv(5)

    def tell(self, *commands: str) -> None:
        """Such as to set a switch; each is answered with OK."""
        for command in commands:
            assert self._told(command) == b"+OK\r\n", command

    @property
    def url(self) -> str:
        """As SAFELIGHT_LIMITS_STORAGE takes it."""
        return f"redis+unix://{self.place}"

    def kill(self) -> None:
        """As a crash: what it held is gone."""
        self.process.kill()
        self.process.wait(30)
        self.place.unlink(missing_ok=True)

    def start_again(self) -> None:
        self.process = self._start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


@contextmanager
def running() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        yield server
    finally:
        server.stop()
