"""A model is fetched from a hub or a mirror whole and right, going on after interruptions; and nobody else is asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.weights import pull
from pipelines.weights.arrival import ArrivalProblem, staging_of
from pipelines.weights.choice import SourceProblem, Wanted, choose, variant_of
from pipelines.weights.manifest import Manifest, find_damage, read_manifest
from pipelines.weights.pull import HubSource, PullProblem, parse_source
from tests.pipelines.test_manifest import UNET, contents, write_model

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "owner/name"
# huggingface_hub writes what it receives in blocks of 10 MiB, so an interruption needs more to be seen.
UNET_BYTES = 24_000_000
CUT_BYTES = 15_000_000
KEPT_BYTES = 10 * 1024 * 1024
NEVER_FETCHED = ("unet/diffusion_pytorch_model.bin", "unet/evil.py", "old.ckpt", "README.md", "safety_checker/x.json")


@dataclass
class Hub:
    """What a hub has, how it misbehaves, and what it was asked.

    cuts: after how many bytes of the large file the connection breaks, for so many requests. hold: the large file
    stops there until the event is set. lies: names whose bytes are not as stated. status: for every question.
    """

    files: dict[str, bytes]
    address: str = ""
    cuts: int = 0
    hold: threading.Event | None = None
    held: threading.Event = field(default_factory=threading.Event)
    lies: tuple[str, ...] = ()
    status: tuple[int, str] | None = None
    garbage: bytes | None = None
    licence: str = "openrail++"
    commit: str = COMMIT
    ignores_ranges: bool = False
    too_much: bool = False
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]

    def ranges_of(self, name: str) -> list[str | None]:
        return [headers.get("range") for _, path, headers in self.requests if path.endswith(name)]

    def source(self, commit: str = COMMIT) -> str:
        return f"{self.address}/{REPO}@{commit}"

    def info(self) -> bytes:
        siblings = [self._sibling(name, content) for name, content in self.files.items()]
        facts = {"id": REPO, "sha": self.commit, "siblings": siblings, "cardData": {"license": self.licence}}
        return json.dumps(facts).encode()

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        """As the hub lists it with ?blobs=true: large files have a sha256, small ones git's digest."""
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"rfilename": self.renamed.get(name, name), "size": len(content), "blobId": git}
        if name.endswith((".safetensors", ".bin", ".ckpt")):
            sha256 = hashlib.sha256(content).hexdigest()
            entry |= {"blobId": "f" * 40, "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 134}}
        return entry


class Answers(BaseHTTPRequestHandler):
    """The two routes that huggingface_hub asks, and the redirect of large files to another address."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        path = self.path.partition("?")[0]
        if self.hub.status is not None:
            status, code = self.hub.status
            self.answer(status, b"", {"X-Error-Code": code} if code else {})
        elif self.hub.garbage is not None:
            self.answer(200, self.hub.garbage)
        elif path.startswith(f"/api/models/{REPO}/revision/"):
            known = path.endswith((self.hub.commit, "/main"))
            self.answer(200, self.hub.info()) if known else self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/{REPO}/resolve/{self.hub.commit}/"):
            self.resolve(path.split("/", 5)[5])
        elif path.startswith("/cdn/"):
            self.send(path.removeprefix("/cdn/"))
        else:
            self.answer(404, b"", {})

    def resolve(self, name: str) -> None:
        if name == UNET:
            self.answer(302, b"", {"Location": f"{self.hub.address}/cdn/{name}"})
        else:
            self.send(name)

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send(self, name: str) -> None:
        content = self.hub.files[name]
        if name in self.hub.lies:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = self.start_of_range()
        body = content[start:] + (bytes(50_000_000) if self.hub.too_much else b"")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name == UNET and (self.hub.cuts > 0 or self.hub.hold):
            self.hub.cuts -= 1
            self.wfile.write(body[: CUT_BYTES - start])
            self.wfile.flush()
            if self.hub.hold is None:
                self.close_connection = True
                return
            self.hub.held.set()
            self.hub.hold.wait(60)
            body = body[CUT_BYTES - start :]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def start_of_range(self) -> int:
        if self.hub.ignores_ranges or "Range" not in self.headers:
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.hold:
            hub.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository: a model, and what else people keep beside it."""
    model = contents(write_model(tmp_path_factory.mktemp("hub") / "model", unet_bytes=UNET_BYTES))
    return model | dict.fromkeys(NEVER_FETCHED, b"import os")


@pytest.fixture(scope="module")
def model_files(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in NEVER_FETCHED}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with serving(Hub(files)) as hub:
        yield hub


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def start_pull(tmp_path: Path, into: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts real pulls, in an environment without the operator's own settings, and sees to it that they end."""
    started: list[subprocess.Popen[str]] = []

    def start(*sources: str, environment: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        arguments = [part for source in sources for part in ("--source", source)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pipelines.shelf",
                "pull",
                "m",
                "--into",
                str(into),
                *arguments,
                *more.pop("flags", ()),
            ],
            cwd=ROOT,
            env=clean | {"HF_HOME": str(tmp_path / "home")} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen[str]]


def result_of(process: subprocess.Popen[str], status: int = 0) -> dict[str, Any]:
    """The one line of JSON on standard output."""
    output, errors = process.communicate(timeout=90)
    assert process.returncode == status, errors
    (line,) = output.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert result["ok"] is (status == 0)
    return result


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_model_is_fetched_with_its_manifest(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    result = result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files
    assert names_in(into) == ["m"]
    manifest = read_manifest(into / "m")
    assert find_damage(into / "m", manifest, "all") == ()
    assert find_damage(into / "m", manifest, "nothing") == ()
    origin = {"source": f"{hub.address}/{REPO}", "revision": COMMIT, "licence": "openrail++"}
    assert result.items() >= (origin | {"command": "pull", "id": "m", "path": str(into / "m")}).items()


def test_nothing_that_can_hold_code_is_asked_for(hub: Hub, start_pull: Start, model_files: dict[str, bytes]) -> None:
    result_of(start_pull(hub.source()))
    asked = {path.split(f"{COMMIT}/")[-1] for path in hub.paths if "/resolve/" in path}
    assert asked == model_files.keys()


def test_nobody_but_the_named_source_is_asked(hub: Hub, start_pull: Start, tmp_path: Path) -> None:
    """Left to itself, huggingface_hub asks its home for a list of programs first."""
    with serving(Hub({})) as home:
        environment = {"HF_ENDPOINT": home.address, "HF_TOKEN": "secret", "AI_AGENT": "x"}
        result_of(start_pull(hub.source(), environment=environment))
        assert home.requests == []
    assert {path.partition("?")[0].split("/")[1] for path in hub.paths} == {"api", "owner", "cdn"}
    # Nothing is written outside the models' folder.
    assert not (tmp_path / "home").exists()


def test_the_operators_token_goes_to_its_own_hub_and_to_no_mirror(hub: Hub, start_pull: Start, into: Path) -> None:
    result_of(start_pull(hub.source(), environment={"HF_TOKEN": "secret"}))
    assert all("authorization" not in headers for _, _, headers in hub.requests)
    shutil.rmtree(into)
    hub.requests.clear()
    result_of(start_pull(f"{REPO}@{COMMIT}", environment={"HF_TOKEN": "secret", "HF_ENDPOINT": hub.address}))
    assert all(headers["authorization"] == "Bearer secret" for _, _, headers in hub.requests)


def test_a_connection_that_breaks_is_gone_on_with_at_once(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    hub.cuts = 1
    result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files
    assert hub.ranges_of(f"cdn/{UNET}") == [None, f"bytes={KEPT_BYTES}-"]


def test_a_pull_that_was_killed_is_gone_on_with(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    hub.hold = threading.Event()
    first = start_pull(hub.source())
    assert hub.held.wait(60)
    part = staging_of(into / "m") / f"{UNET}.part"
    wait_for(lambda: part.exists() and part.stat().st_size == KEPT_BYTES)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    assert not (into / "m").exists()
    hub.hold.set()
    hub.hold = None
    hub.requests.clear()
    result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files
    assert hub.ranges_of(f"cdn/{UNET}") == [f"bytes={KEPT_BYTES}-"]
    # Small files that were there already are not asked for again.
    assert hub.ranges_of("model_index.json") == []
    assert names_in(into) == ["m"]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pull_that_is_interrupted_says_so(hub: Hub, start_pull: Start, into: Path) -> None:
    hub.hold = threading.Event()
    process = start_pull(hub.source())
    assert hub.held.wait(60)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in result_of(process, 130)["problem"]
    assert names_in(into) == [".m.arriving"]


def test_a_second_pull_of_the_same_model_is_refused_by_name(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    hub.hold = threading.Event()
    first = start_pull(hub.source())
    assert hub.held.wait(60)
    problem = result_of(start_pull(hub.source()), 1)["problem"]
    assert problem == f"another process is just making {into / 'm'}; wait for it"
    hub.hold.set()
    result_of(first)
    assert contents(into / "m") == model_files


def test_a_server_that_knows_no_ranges_is_asked_for_all(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    hub.cuts, hub.ignores_ranges = 1, True
    result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files


def test_what_the_disk_lost_is_fetched_again(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    part = staging_of(into / "m") / f"{UNET}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1_000_000))
    result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files
    assert hub.ranges_of(f"cdn/{UNET}") == ["bytes=1000000-", None]


@pytest.mark.parametrize("name", [UNET, "unet/config.json"])
def test_wrong_bytes_are_refused_and_named(hub: Hub, start_pull: Start, into: Path, name: str) -> None:
    hub.lies = (name,)
    problem = result_of(start_pull(hub.source()), 1)["problem"]
    assert f"{hub.address}/{REPO} sends {name} with other bytes than it states" in problem
    assert not (into / "m").exists()
    assert not (staging_of(into / "m") / name).exists()


def test_a_mirror_helps_where_the_first_source_is_gone(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    with serving(Hub({})) as gone:
        pass
    result = result_of(start_pull(gone.source(), hub.source()))
    assert result["source"] == f"{hub.address}/{REPO}"
    assert contents(into / "m") == model_files


def test_a_mirror_goes_on_where_the_first_source_lied(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    with serving(Hub(hub.files, lies=("vae/config.json",))) as liar:
        result_of(start_pull(liar.source(), hub.source()))
    assert contents(into / "m") == model_files
    # The large file came from the first source, and was right.
    assert liar.ranges_of(f"cdn/{UNET}") == [None]
    assert hub.ranges_of(f"cdn/{UNET}") == []


def test_a_mirror_with_other_bytes_than_the_first_source_states_is_refused(
    hub: Hub, start_pull: Start, into: Path, files: dict[str, bytes]
) -> None:
    for other in ({UNET: bytes(UNET_BYTES)}, {"vae/config.json": b"{}"}, {"tokenizer/more.json": b"{}"}):
        hub.lies = ("vae/config.json",)
        with serving(Hub(files | other)) as mirror:
            problem = result_of(start_pull(hub.source(), mirror.source()), 1)["problem"]
        (name,) = other
        assert f"{mirror.address}/{REPO} has " in problem
        assert name in problem.rpartition(mirror.address)[2]
        assert [path for path in mirror.paths if "/resolve/" in path] == []
        assert not (into / "m").exists()


def test_with_a_pinned_manifest_no_source_can_send_other_bytes(
    hub: Hub, start_pull: Start, into: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    """Large files are refused as they are listed; of small ones a hub states no sha256, so when they have come."""
    result_of(start_pull(hub.source()))
    pinned = tmp_path / "pinned.manifest"
    (into / "m" / "safelight.manifest").rename(pinned)
    shutil.rmtree(into)
    flags = ("--manifest", str(pinned))
    for name in (UNET, "vae/config.json"):
        content = model_files[name]
        other = content[:-1] + bytes([content[-1] ^ 1])
        with serving(Hub(hub.files | {name: other})) as mirror:
            problem = result_of(start_pull(mirror.source(), flags=flags), 1)["problem"]
        assert name in problem
        assert "than are pinned" in problem or f"other bytes than {pinned} says" in problem
        assert not (into / "m").exists()
    with serving(Hub(hub.files, commit="e" * 40)) as mirror:
        result_of(start_pull(mirror.source("e" * 40), flags=flags))
    assert contents(into / "m") == model_files


def test_a_manifest_that_is_damaged_pins_nothing(hub: Hub, start_pull: Start, tmp_path: Path) -> None:
    (tmp_path / "pinned.manifest").write_text("{}")
    problem = result_of(start_pull(hub.source(), flags=("--manifest", str(tmp_path / "pinned.manifest"))), 1)["problem"]
    assert "is damaged" in problem
    assert hub.requests == []


def test_every_source_that_failed_is_named_with_its_reason(hub: Hub, start_pull: Start, into: Path) -> None:
    with serving(Hub({})) as gone:
        pass
    unknown = "f" * 40
    with serving(Hub({}, status=(403, "GatedRepo"))) as gated, serving(Hub({}, garbage=b"<html>")) as page:
        sources = (gone.source(), hub.source(unknown), gated.source(), page.source())
        problem = result_of(start_pull(*sources), 1)["problem"]
    assert f"{gone.address}/{REPO} at {COMMIT}: cannot be reached" in problem
    assert f"{hub.address}/{REPO} at {unknown}: has no such revision" in problem
    assert f"{gated.address}/{REPO} at {COMMIT}: is gated: accept its licence" in problem
    assert f"{page.address}/{REPO} does not answer like a hub" in problem
    assert names_in(into) == []


def test_a_branch_is_no_pin(hub: Hub, start_pull: Start, into: Path) -> None:
    problem = result_of(start_pull(hub.source("main")), 1)["problem"]
    assert f"'main' can mean another commit tomorrow; it means {COMMIT} now: write that" in problem
    assert names_in(into) == []


def test_a_hub_that_answers_with_another_commit_is_refused(start_pull: Start) -> None:
    with serving(Hub({}, commit=COMMIT)) as hub:
        hub.info = lambda: json.dumps({"id": REPO, "sha": "f" * 40, "siblings": []}).encode()  # type: ignore[method-assign]
        problem = result_of(start_pull(hub.source()), 1)["problem"]
    assert f"answers with the commit {'f' * 40}, not with {COMMIT}" in problem


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"id": 1}',
        b'{"siblings": [{}]}',
        b'{"siblings": 7}',
        b"\xff\xfe",
        b"[" * 90000,
    ],
)
@pytest.mark.usefixtures("may_pull_here")
def test_any_garbage_is_no_hub(answer: bytes, into: Path) -> None:
    with serving(Hub({}, garbage=answer)) as hub, pytest.raises(PullProblem, match=hub.address):
        pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", Wanted())
    assert names_in(into) == []


def test_more_bytes_than_stated_are_not_written(hub: Hub, start_pull: Start, into: Path) -> None:
    hub.too_much = True
    limits = (UNET_BYTES + 1000, UNET_BYTES + 1000)
    process = start_pull(hub.source(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    assert "more bytes come than are stated" in result_of(process, 1)["problem"]
    assert not (into / "m").exists()


def test_a_full_disk_is_named_and_the_pull_goes_on_later(
    hub: Hub, start_pull: Start, into: Path, model_files: dict[str, bytes]
) -> None:
    limit = 12_000_000
    process = start_pull(hub.source(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    problem = result_of(process, 1)["problem"]
    assert problem.startswith(f"{staging_of(into / 'm')} cannot be written to: File too large")
    assert names_in(into) == [".m.arriving"]
    hub.requests.clear()
    result_of(start_pull(hub.source()))
    assert contents(into / "m") == model_files
    assert hub.ranges_of(f"cdn/{UNET}")[0] is not None


@pytest.fixture
def may_pull_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process huggingface_hub was imported long ago, with other settings."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("may_pull_here")
def test_a_disk_without_room_is_named_before_anything_is_fetched(hub: Hub, into: Path) -> None:
    with pytest.raises(ArrivalProblem, match="too full: 24 MB are needed"):
        pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", Wanted(), free=lambda _: UNET_BYTES)
    assert names_in(into) == []
    assert [path for path in hub.paths if "/resolve/" in path] == []


@pytest.mark.usefixtures("may_pull_here")
def test_a_place_that_is_taken_is_refused_without_asking_anybody(hub: Hub, into: Path) -> None:
    (into / "m").mkdir(parents=True)
    with pytest.raises(ArrivalProblem, match="is there already"):
        pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", Wanted())
    assert hub.requests == []


@pytest.mark.usefixtures("may_pull_here")
def test_a_hub_that_never_answers_is_given_up(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "ASK_SECONDS", 0.3)
    with contextlib.closing(__import__("socket").create_server(("127.0.0.1", 0))) as silent:
        source = HubSource(f"http://127.0.0.1:{silent.getsockname()[1]}", REPO, COMMIT)
        with pytest.raises(PullProblem, match="does not answer in time"):
            pull.pull([source], into / "m", Wanted())


@pytest.mark.usefixtures("may_pull_here")
@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "unet/../../x.json", "a\\b.json"])
def test_a_hub_cannot_write_outside_the_models_folder(files: dict[str, bytes], into: Path, name: str) -> None:
    with serving(Hub(files, renamed={"vae/config.json": name})) as hub:
        for wanted in (Wanted(files=(name,)), Wanted()):
            with contextlib.suppress(PullProblem):
                pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", wanted)
            assert not list(into.rglob("x.json"))
            assert not list(into.parent.glob("x.json"))
            shutil.rmtree(into, ignore_errors=True)


@pytest.mark.usefixtures("may_pull_here")
def test_the_right_bytes_of_what_is_no_model_are_refused(files: dict[str, bytes], into: Path) -> None:
    harmful = {"vae/config.json": b'{"auto_map": {"x": "y.Z"}}', UNET: b"\x80\x04pickle"}
    for name, content in harmful.items():
        with serving(Hub(files | {name: content})) as hub, pytest.raises(PullProblem, match=name):
            pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", Wanted())
        assert names_in(into) == []


@pytest.mark.usefixtures("may_pull_here")
def test_a_single_file_is_fetched_alone(hub: Hub, into: Path) -> None:
    told: list[int] = []

    def start(total_bytes: int) -> Callable[[int], None]:
        told.append(-total_bytes)
        return told.append

    wanted = Wanted(files=("vae/diffusion_pytorch_model.safetensors",))
    manifest = pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", wanted, start=start)
    assert isinstance(manifest, Manifest)
    assert list(contents(into / "m")) == ["vae/diffusion_pytorch_model.safetensors"]
    assert sum(told) == 0


def test_with_telemetry_on_or_offline_nothing_is_fetched(hub: Hub, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for telemetry_is_off, is_offline in ((False, False), (True, True)):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", telemetry_is_off)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        with pytest.raises(PullProblem, match="nothing is fetched"):
            pull.pull([HubSource(hub.address, REPO, COMMIT)], into / "m", Wanted())
    assert hub.requests == []


def test_an_offline_environment_is_named(hub: Hub, start_pull: Start) -> None:
    problem = result_of(start_pull(hub.source(), environment={"HF_HUB_OFFLINE": "1"}), 1)["problem"]
    assert problem == "HF_HUB_OFFLINE is set, so nothing is fetched: unset it to pull"
    assert hub.requests == []


def test_a_source_is_a_repository_at_a_commit_of_a_hub() -> None:
    assert parse_source("a/b@c", "https://hub") == HubSource("https://hub", "a/b", "c")
    assert parse_source("http://h:8/x/a/b@c", "https://hub") == HubSource("http://h:8/x", "a/b", "c")


@pytest.mark.parametrize(
    "text", ["", "a/b", "a@b", "a/b@", "ftp://h/a/b@c", "https://a/b@c", "https:///a/b@c", "a/b@c d"]
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(PullProblem, match="is no source"):
        parse_source(text, "https://hub")


@settings(max_examples=300, deadline=None, database=None)
@given(text=st.text(alphabet="htps:/ab@.-\n ", max_size=30))
def test_any_text_is_a_source_or_a_problem(text: str) -> None:
    with contextlib.suppress(PullProblem):
        source = parse_source(text, "https://hub")
        assert source.endpoint.startswith(("http://", "https://"))
        assert source.repo.count("/") == 1


SHARDS = [f"transformer/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
SHARDS_FP16 = [f"transformer/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
LISTED = [
    "model_index.json",
    "flux1-schnell.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer_2/spiece.model",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
    "transformer/flux1.safetensors",
    "vae/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "safety_checker/model.safetensors",
    "text_encoder/deep/model.safetensors",
    *SHARDS,
    *SHARDS_FP16,
]
PLAIN = {
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer_2/spiece.model",
    "transformer/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def test_of_a_repository_only_what_the_model_needs_is_chosen() -> None:
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    assert {*choose("hub", LISTED, Wanted())} == PLAIN | {index, *SHARDS}


def test_of_a_variant_each_component_takes_what_it_has() -> None:
    index = "transformer/diffusion_pytorch_model.safetensors.index.fp16.json"
    assert {*choose("hub", LISTED, Wanted("fp16"))} == PLAIN | {index, *SHARDS_FP16}


def test_a_variant_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SourceProblem, match=r"no variant 'bf16' of its weights; there is: .*fp16"):
        choose("hub", LISTED, Wanted("bf16"))


def test_a_repository_of_single_files_needs_a_name() -> None:
    with pytest.raises(SourceProblem, match="name the file that is meant"):
        choose("hub", ["a.safetensors"], Wanted())
    assert choose("hub", ["a.safetensors"], Wanted(files=("a.safetensors",))) == ["a.safetensors"]
    with pytest.raises(SourceProblem, match=r"has no file b\.safetensors"):
        choose("hub", ["a.safetensors"], Wanted(files=("b.safetensors",)))


def test_weights_in_other_forms_alone_are_refused() -> None:
    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
    with pytest.raises(SourceProblem, match="no plain safetensors weights in unet/: name a variant, or a mirror"):
        choose("hub", names, Wanted())
    assert choose("hub", names, Wanted("fp16")) == names


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("unet/diffusion_pytorch_model.safetensors", ""),
        ("unet/diffusion_pytorch_model.fp16.safetensors", "fp16"),
        ("te/model-00001-of-00002.safetensors", ""),
        ("te/model.fp16-00001-of-00002.safetensors", "fp16"),
        ("te/model-00001-of-00002.fp16.safetensors", "fp16"),
        ("te/model.safetensors.index.json", ""),
        ("te/model.safetensors.index.fp16.json", "fp16"),
        ("te/model.fp16.safetensors.index.json", "fp16"),
        ("te/config.json", None),
        ("tokenizer/merges.txt", None),
    ],
)
def test_names_tell_their_variant(name: str, variant: str | None) -> None:
    assert variant_of(name) == variant
