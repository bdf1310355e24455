"""What must be true of a server whatever was done to it: one function for the hostile list, the faults and the soak.

Knows a server's process, its books and its folder, from outside: HTTP, /proc, SQLite read-only, a list of files. Knows
nothing of how the server works inside.
Invariant: `House.assert_sound` asks for all that docs/hostile.md promises, and waits for nothing longer than
SETTLE_SECONDS.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.server_process import START_SECONDS, ServerProcess, is_alive

DEMO = Path(__file__).resolve().parents[1] / "pipelines" / "demo" / "demo-sdxl"
# So long may what a client left behind take to be gone: a closed connection, a job cancelled at its next step.
SETTLE_SECONDS = 20.0
# asyncio's pool grows to as many threads as processors and four, and the decoder comes with the first picture.
POOL_THREADS, DECODER_DESCRIPTORS = 12, 6
# Pictures that cost next to nothing.
TINY = """\
default_model: demo
models:
  demo:
    family: sdxl
    source: {demo}
    defaults: {{size: 64x64, steps: 1, guidance_scale: 1.0, sampler: checkpoint, strength: 0.8}}
    limits: {{min_side_px: 64, max_side_px: 1024, side_multiple_px: 16, max_pixels: 1048576, max_n: 10, max_steps: 100,
      max_guidance_scale: 20}}
names:
  dall-e-2: {{}}
"""


@dataclass(slots=True)
class Told:
    """What the replies said so far. pictures: in all of them; files: names under /files/."""

    pictures: int = 0
    files: set[str] = field(default_factory=set)

    def add(self, reply: httpx.Response | Mapping[str, Any]) -> None:
        body = reply.json() if isinstance(reply, httpx.Response) else reply
        for picture in body["data"]:
            self.pictures += 1
            if "url" in picture:
                self.files.add(picture["url"].rpartition("/")[2])


class House:
    """A server of its own folder, with tiny pictures, and what it looked like when nobody had hurt it yet.

    models: the catalogue's text, instead of TINY. key: what its own requests bring, where it asks for keys. told: what
    was delivered, by the replies. restarts: how many workers the test has cost it.
    """

    def __init__(self, folder: Path, models: str | None = None, key: str | None = None, **settings: str) -> None:
        self.books, self.files, self.temporary = folder / "books.sqlite", folder / "files", folder / "tmp"
        self.temporary.mkdir()
        catalogue = folder / "models.yaml"
        catalogue.write_text(models or TINY.format(demo=DEMO))
        environment = {
            "SAFELIGHT_LEDGER": f"sqlite:///{self.books}",
            "SAFELIGHT_FILES_FOLDER": str(self.files),
            "TMPDIR": str(self.temporary),
            **settings,
        }
        self.server = ServerProcess(("--models", str(catalogue)), environment)
        # Connections of its own are no descriptors of the server's a moment later.
        headers = {"connection": "close", **({} if key is None else {"authorization": f"Bearer {key}"})}
        self._client = httpx.Client(base_url=self.server.url, headers=headers, timeout=60)
        self.told, self.restarts = Told(), 0
        self.draw()
        self.remember()

    def remember(self) -> None:
        """As it is now, it is sound."""
        self.worker_pids = workers_of(self.server.process.pid)
        self.descriptors = descriptors_of(self.server.process.pid)
        self.threads = threads_of(self.server.process.pid)
        self.temporary_files = files_below(self.temporary)

    def ask(self, path: str = "/v1/images/generations", **body: Any) -> httpx.Response:
        """A request for pictures; what it delivers is remembered. Raises httpx.HTTPError."""
        reply = self._client.post(path, json={"prompt": "a red circle", **body})
        if reply.status_code == httpx.codes.OK:
            self.told.add(reply)
        return reply

    def draw(self, **body: Any) -> None:
        """The next good request is answered."""
        reply = self.ask(**{"response_format": "b64_json", **body})
        assert reply.status_code == httpx.codes.OK, reply.text

    def assert_sound(self) -> None:
        """All of the promises at once."""
        if self.restarts:
            # A worker imports its libraries before it takes jobs.
            self.server.wait_until_ready(START_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        while (flaws := self.flaws()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not flaws, "; ".join(flaws)
        self.draw()

    def flaws(self) -> list[str]:
        """What is not as it must be, in words."""
        return [*self._of_health(), *self._of_processes(), *self._of_files(), *self._of_books()]

    def _of_health(self) -> list[str]:
        live = self._client.get("/health/live")
        ready = self._client.get("/health/ready")
        flaws = [] if live.status_code == ready.status_code == httpx.codes.OK else [f"not ready: {ready.text}"]
        if ready.json()["restarts"] != self.restarts:
            flaws.append(f"{ready.json()['restarts']} restarts and not {self.restarts}")
        return flaws

    def _of_processes(self) -> list[str]:
        pid = self.server.process.pid
        flaws = []
        if not self.restarts and workers_of(pid) != self.worker_pids:
            flaws.append("another worker is there")
        if self.restarts and len(workers_of(pid)) != len(self.worker_pids):
            flaws.append(f"workers: {workers_of(pid)}")
        if (children := children_of(pid)) and any(not is_alive(child) for child in children):
            flaws.append("a process has ended, and nobody has seen it")
        if len(children) > len(self.worker_pids) + 1:
            flaws.append(f"{len(children)} processes besides the server's own")
        more = descriptors_of(pid) - self.descriptors
        if more.total() > DECODER_DESCRIPTORS:
            flaws.append(f"more descriptors: {dict(more)}")
        if threads_of(pid) > self.threads + POOL_THREADS:
            flaws.append(f"{threads_of(pid)} threads, and {self.threads} before")
        return flaws

    def _of_files(self) -> list[str]:
        kept = {path.name for path in self.files.iterdir()} if self.files.is_dir() else set()
        flaws = [] if kept == self.told.files else [f"{len(kept)} files for {len(self.told.files)} URLs"]
        more = files_below(self.temporary) - self.temporary_files
        return flaws + ([f"left behind: {sorted(more)}"] if more else [])

    def _of_books(self) -> list[str]:
        with read_only(self.books) as books:
            open_entries, good = counts(books, "sum(outcome IS NULL), sum(outcome = 'succeeded')", "ledger_entries")
            (open_attempts,) = counts(books, "sum(cost_microusd IS NULL)", "ledger_attempts")
        flaws = [f"{open_entries} entries and {open_attempts} attempts open"] if open_entries or open_attempts else []
        if good != self.told.pictures:
            flaws.append(f"the books say {good} pictures, the replies {self.told.pictures}")
        return flaws

    def stop(self) -> None:
        """The server ends in good order, and nothing of it is left."""
        self._client.close()
        children = children_of(self.server.process.pid)
        assert self.server.stop() == 0, "".join(self.server.lines[-20:])
        left = [pid for pid in children if is_alive(pid)]
        assert not left, f"processes live on: {left}"
        assert not files_below(self.files)
        assert not files_below(self.temporary)


class read_only:  # noqa: N801 (used as a function is)
    """The books, for a look that disturbs no writer."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def counts(books: sqlite3.Connection, sums: str, table: str) -> tuple[int, ...]:
    (row,) = books.execute(f"SELECT {sums} FROM {table}")  # noqa: S608 (words of this file)
    return tuple(value or 0 for value in row)


def children_of(pid: int) -> list[int]:
    """Of whichever of its threads."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in found for child in file.read_text().split()]


def workers_of(pid: int) -> list[int]:
    return [child for child in children_of(pid) if b"pipelines.worker" in command_of(child)]


def decoders_of(pid: int) -> list[int]:
    return [child for child in children_of(pid) if b"decoder_process" in command_of(child)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def descriptors_of(pid: int) -> Counter[str]:
    """How many of each kind: socket, pipe, or the path of a file."""
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[str(link.readlink()).partition(":[")[0]] += 1
        except OSError:
            continue  # closed meanwhile
    return found


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def rss_bytes(pid: int) -> int:
    """What of the process is in memory and is its own. The kernel counts it anew for this file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [line.split() for line in lines if line.startswith(("Private_", "Swap:"))]
    return 1024 * sum(int(words[1]) for words in private)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
