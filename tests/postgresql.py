"""A real PostgreSQL for the tests: made in a temporary folder, reached through a socket in it, ended by pid.

Knows where Debian's packages put the programs; scripts/environment fetches them where the machine has none.
Invariant: nothing of it is left once it was stopped, and it ends by itself when its maker does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

UNPACKED = Path(sys.prefix) / "postgresql"
# PostgreSQL refuses to run as root; nobody is a user of every Debian.
NOBODY = 65534
START_SECONDS = 60.0
ABSENT = (
    "There is no PostgreSQL. scripts/test fetches it where there are Debian's packages; elsewhere install it, so that "
    "`postgres` and `initdb` are on the PATH."
)


def programs() -> Path | None:
    """The folder of `postgres` and `initdb`; the newest version of several."""
    found = [
        path.parent
        for root in (UNPACKED, Path("/"))
        for path in sorted(root.glob("usr/lib/postgresql/*/bin/postgres"), reverse=True)
    ]
    on_path = shutil.which("initdb")
    return next(iter([*found, *([Path(on_path).resolve().parent] if on_path else [])]), None)


class Postgresql:
    """Starts when made, ends with `stop`. is_durable: whether it waits for the disk, which tests need not."""

    def __init__(self, *, is_durable: bool = False) -> None:
        found = programs()
        if found is None:
            # Where everything is to be tested, nothing is left out in silence.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(ABSENT)
        self.folder = Path(tempfile.mkdtemp(prefix="safelight-postgresql-"))
        self._as_nobody = os.geteuid() == 0
        self._databases = 0
        self._unpacked = UNPACKED if found.is_relative_to(UNPACKED) else None
        self._programs = self._within_reach(found)
        if self._as_nobody:
            os.chown(self.folder, NOBODY, NOBODY)
        self._is_durable = is_durable
        switches = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self._run("initdb", "--pgdata", self._data, *switches)
        self.process = self._started()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _started(self) -> subprocess.Popen[bytes]:
        switches = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if self._is_durable else "off",
            "shared_buffers": "32MB",
            "jit": "off",
        }
        options = [word for name, value in switches.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [*self._command("postgres"), "-D", self._data, *options]
            process = subprocess.Popen(command, stderr=log, env=self._env())
        self._wait_until_ready(process)
        return process

    def start_again(self) -> None:
        """After it has ended."""
        self.process = self._started()

    def _within_reach(self, found: Path) -> Path:
        """The programs, or a copy of them if nobody may not read them, as in root's home."""
        if not self._as_nobody or _nobody_can_run(found / "postgres"):
            return found
        assert self._unpacked, f"{found} cannot be run by users other than root"
        shutil.copytree(UNPACKED, self.folder / "programs", symlinks=True)
        self._unpacked = self.folder / "programs"
        return self._unpacked / found.relative_to(UNPACKED)

    def _command(self, program: str) -> list[str]:
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if self._as_nobody else []
        return ["setpriv", *ids, "--pdeathsig=INT", str(self._programs / program)]

    def _env(self) -> dict[str, str]:
        """Unpacked packages bring the libraries that this machine lacks."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        if self._unpacked:
            folders = [path for place in ("usr/lib", "lib") for path in self._unpacked.glob(f"{place}/*-linux-gnu")]
            environment["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
        return environment

    def _run(self, program: str, *arguments: str, **environment: str) -> None:
        finished = subprocess.run(
            [*self._command(program), *arguments],
            cwd=self.folder,
            env=self._env() | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        assert finished.returncode == 0, finished.stderr

    def run_client(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's own tools, on this server, in its folder."""
        self._run(program, *arguments, PGHOST=str(self.folder), PGUSER="postgres")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError:
                log = (self.folder / "log").read_text()
                assert process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.05)
            else:
                return

    def conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        """As the ledger takes it."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The name of an empty one."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        shutil.rmtree(self.folder)


def _nobody_can_run(program: Path) -> bool:
    try:
        command = [str(program), "--version"]
        subprocess.run(
            command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False, timeout=30
        )
    except PermissionError:
        return False
    return True


@contextmanager
def running() -> Iterator[Postgresql]:
    server = Postgresql()
    try:
        yield server
    finally:
        server.stop()
