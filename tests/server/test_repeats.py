"""Guards requests with an Idempotency-Key: drawn and booked once, one answer to all; what failed is tried again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response

from pipelines.messages import Event, Image, Preview, Submit
from server.api import images, repeats
from server.api.envelope import Edge
from server.api.services import Services
from server.core import errors
from server.core.caller import ANYBODY
from server.idempotency import desk as desk_module
from server.idempotency.desk import Desk
from server.idempotency.shelf import DAY_SECONDS, Shelf
from server.images.store import FileStore
from server.ledger.entries import Row
from tests.server.ledger.samples import all_rows
from tests.server.parts import routes_over, services_in

HOUR_SECONDS = 3600
CALLER_HEADER = "x-test-caller"
NOTHING_MORE: dict[str, str] = {}
Play = Callable[["House"], Awaitable[None]]


@dataclass
class Drawer:
    """Draws a picture that no other is like, once it may. script: what it raises first, or None where it draws."""

    drawn: int = 0
    cancelled: int = 0
    script: list[Exception | None] = field(default_factory=list)
    may_draw: asyncio.Event = field(default_factory=asyncio.Event)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def own_seconds(self, _: Sequence[Submit]) -> float | None:
        return None

    def check_room(self, _: int) -> None:
        pass

    def place_of(self, _: str) -> int:
        return 0

    async def draw(self, submit: Submit, listen: Callable[[Event], None] | None = None) -> Image:
        failure = self.script.pop(0) if self.script else None
        if failure is not None:
            raise failure
        self.drawn += 1
        file = b"picture %d" % self.drawn
        if listen is not None:
            listen(Preview(submit.job_id, 1, 2, b"part of " + file))
        self.has_begun.set()
        try:
            await self.may_draw.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Image(submit.job_id, file, 0.1)


@dataclass
class Exchange:
    """One request and what came back. `leave` is its client going away."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    task: asyncio.Task[None] | None = None
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    has_body: asyncio.Event = field(default_factory=asyncio.Event)
    _coming: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    def begin(self, app: Any, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Exchange:
        self._coming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "scheme": "http", "server": ("test", 80), "http_version": "1.1"}
        self.task = asyncio.create_task(app(scope, self._coming.get, self._take))
        return self

    def leave(self) -> None:
        self._coming.put_nowait({"type": "http.disconnect"})

    async def ended(self) -> Exchange:
        assert self.task is not None
        await self.task
        return self

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=message["headers"])
            self.has_begun.set()
        else:
            self.body += message.get("body", b"")
            self.has_body.set()

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told

    @property
    def is_replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"


@dataclass
class House:
    """A server without its processes: real routes, router, books and folders. now: its clock, Unix seconds."""

    folder: Path
    quota_bytes: int = 10**6
    base_url: str = "http://test"
    now: float = 1_700_000_000.0
    drawer: Drawer = field(default_factory=Drawer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[House]:
        """Again and again, as a server that is restarted."""
        self.services = self._services()
        self.app = routes_over(self.services)
        await self.services.ledger.open()
        await self.services.desk.open()
        self.services.files.open()
        self.drawer.may_draw.set()
        try:
            yield self
        finally:
            await self.services.desk.close()
            await self.services.router.finish()
            await self.services.ledger.close()
            self.services.files.close()

    def _services(self) -> Services:
        return replace(
            services_in(self.folder, self.drawer),
            files=FileStore(self.folder / "files", HOUR_SECONDS, 10**6, lambda: self.now),
            base_url=self.base_url,
            desk=Desk(Shelf(self.folder / "answers", self.quota_bytes, lambda: self.now)),
        )

    def send(
        self,
        *keys: bytes,
        caller: str = "anna",
        path: str = "/v1/images/generations",
        more_headers: dict[str, str] = NOTHING_MORE,
        **body: Any,
    ) -> Exchange:
        told = {"prompt": "x", "response_format": "b64_json"} | body
        headers = [(b"content-type", b"application/json"), (CALLER_HEADER.encode(), caller.encode())]
        headers += [(b"idempotency-key", key) for key in keys]
        headers += [(name.encode(), value.encode()) for name, value in more_headers.items()]
        return Exchange().begin(Edge(self.app), path, headers, json.dumps(told).encode())

    async def ask(self, *keys: bytes, **rest: Any) -> Exchange:
        return await self.send(*keys, **rest).ended()

    async def rows(self) -> list[Row]:
        await self.services.router.finish()
        return await all_rows(self.services.ledger)

    async def outcomes(self) -> list[str]:
        """Of the pictures, which are all over."""
        settled = [row.settlement for row in await self.rows()]
        return [one.outcome if one is not None else "open" for one in settled]


@pytest.fixture(autouse=True)
def _callers_by_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever a request says that it comes from; the gate is tested elsewhere."""
    monkeypatch.setattr(repeats, "caller_of", lambda asked: replace(ANYBODY, key_id=asked.headers[CALLER_HEADER]))


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LINGER_SECONDS", 0.05)


def played(folder: Path, play: Play, **options: Any) -> None:
    async def run() -> None:
        async with House(folder, **options).running() as house:
            await play(house)

    asyncio.run(run())


def test_fifty_at_once_are_drawn_and_booked_once_and_get_the_same_bytes(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        sent = [house.send(b"k", n=2) for _ in range(50)]
        await house.drawer.has_begun.wait()
        house.drawer.may_draw.set()
        answers = [await one.ended() for one in sent]
        assert {one.status for one in answers} == {200}
        assert len({one.body for one in answers}) == 1
        assert house.drawer.drawn == len(await house.rows()) == 2
        ids = {one.headers["x-request-id"] for one in answers}
        assert len(ids) == 50
        first = [one for one in answers if not one.is_replayed]
        assert len(first) == 1
        originals = {one.headers["x-safelight-original-request"] for one in answers if one.is_replayed}
        assert originals == {first[0].headers["x-request-id"]} == {row.entry.request_id for row in await house.rows()}

    played(tmp_path, play)


def test_a_request_that_comes_again_gets_the_answer_of_the_first_to_the_byte(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        first, again = await house.ask(b"k"), await house.ask(b"k")
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["content-type"] == "application/json"
        assert again.headers["x-safelight-backend"] == "local"
        assert again.headers["x-safelight-original-request"] == first.headers["x-request-id"]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert (first.is_replayed, again.is_replayed) == (False, True)
        assert (await house.ask(b"k", path="/images/generations")).is_replayed
        assert (house.drawer.drawn, await house.outcomes()) == (1, ["succeeded"])

    played(tmp_path, play)


def test_without_a_key_nothing_is_joined_kept_or_replayed(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        await house.ask()
        await house.ask()
        assert house.drawer.drawn == 2
        assert not list((tmp_path / "answers").glob("*.answer"))

    played(tmp_path, play)


def test_callers_keys_and_operations_do_not_share(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        answers = [
            await house.ask(b"k"),
            await house.ask(b"k", caller="ben"),
            await house.ask(b"K"),
            await house.ask(b"k", path="/v1/images/edits"),
        ]
        assert [one.status for one in answers] == [200, 200, 200, 400]
        assert answers[-1].told["error"]["param"] == "image"  # of its own operation, not of the key
        assert house.drawer.drawn == 3

    played(tmp_path, play)


@pytest.mark.parametrize("is_running", [True, False], ids=["while it is drawn", "once it is drawn"])
def test_another_body_under_the_same_key_is_refused_for_good(tmp_path: Path, is_running: bool) -> None:
    async def play(house: House) -> None:
        if is_running:
            house.drawer.may_draw.clear()
        first = house.send(b"k")
        await house.drawer.has_begun.wait()
        if not is_running:
            await first.ended()
        other = await house.ask(b"k", prompt="y")
        assert (other.status, other.told["error"]["code"]) == (400, "idempotency_key_reused")
        assert other.told["error"]["param"] == "Idempotency-Key"
        assert other.headers["x-should-retry"] == "false"
        house.drawer.may_draw.set()
        assert (await first.ended()).status == 200
        assert house.drawer.drawn == 1

    played(tmp_path, play)


@pytest.mark.parametrize(
    "keys", [(b"",), (b"a b",), (b"x" * 256,), (b"caf\xc3\xa9",), (b"\x01",), (b"a", b"a")], ids=repr
)
def test_what_is_no_key_is_refused_and_named(tmp_path: Path, keys: tuple[bytes, ...]) -> None:
    async def play(house: House) -> None:
        answer = await house.ask(*keys)
        assert (answer.status, answer.told["error"]["code"]) == (400, "invalid_parameter")
        assert answer.told["error"]["param"] == "Idempotency-Key"
        assert house.drawer.drawn == 0

    played(tmp_path, play)


def test_after_a_day_the_key_is_free(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        first = await house.ask(b"k")
        house.now += DAY_SECONDS - 1
        assert (await house.ask(b"k")).body == first.body
        house.now += 1
        anew = await house.ask(b"k", prompt="y")
        assert (anew.status, anew.is_replayed) == (200, False)
        assert await house.outcomes() == ["succeeded"] * 2

    played(tmp_path, play)


def test_what_failed_is_tried_again_and_a_request_that_was_wrong_may_be_mended(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.script = [errors.worker_unavailable()]
        failed = await house.ask(b"k")
        assert (failed.status, failed.headers["retry-after"]) == (503, "30")
        again = await house.ask(b"k")
        assert (again.status, again.is_replayed) == (200, False)
        assert await house.outcomes() == ["failed", "succeeded"]
        assert (await house.ask(b"wrong", size="1x1")).status == 400
        assert (await house.ask(b"wrong", size="64x64")).status == 200

    played(tmp_path, play)


def test_those_who_joined_fail_with_it_and_all_may_try_again(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.script = [errors.worker_unavailable()]
        answers = await asyncio.gather(*(house.ask(b"k") for _ in range(5)))
        assert {one.status for one in answers} == {503}
        assert len({one.headers["x-request-id"] for one in answers}) == 5
        assert (await house.ask(b"k")).status == 200

    played(tmp_path, play)


def test_a_defect_leaves_nobody_waiting_and_the_key_free(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.script = [RuntimeError("secret")]
        sent = [house.send(b"k") for _ in range(2)]
        # The defect is also told to whoever runs the application.
        await asyncio.gather(*(one.ended() for one in sent), return_exceptions=True)
        assert {one.status for one in sent} == {500}
        assert b"secret" not in sent[0].body
        assert (await house.ask(b"k")).status == 200

    played(tmp_path, play)


@pytest.mark.usefixtures("short_linger")
def test_the_work_goes_on_for_those_who_stay(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        first, second = house.send(b"k"), house.send(b"k")
        await house.drawer.has_begun.wait()
        first.leave()
        await first.ended()
        await asyncio.sleep(0.15)
        house.drawer.may_draw.set()
        assert (await second.ended()).status == 200
        assert (house.drawer.drawn, house.drawer.cancelled) == (1, 0)
        assert await house.outcomes() == ["succeeded"]

    played(tmp_path, play)


@pytest.mark.usefixtures("short_linger")
@pytest.mark.parametrize("stream", [False, True])
def test_it_is_cancelled_once_all_have_left_and_drawn_anew_for_who_comes_back(tmp_path: Path, stream: bool) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        sent = [house.send(b"k", stream=stream) for _ in range(3)]
        await house.drawer.has_begun.wait()
        for one in sent:
            one.leave()
            await one.ended()
        await asyncio.sleep(0.2)
        assert house.drawer.cancelled == 1
        house.drawer.may_draw.set()
        assert (await house.ask(b"k", stream=stream)).status == 200
        assert await house.outcomes() == ["cancelled", "succeeded"]

    played(tmp_path, play)


def test_who_comes_back_at_once_finds_the_work_still_going_on(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        first = house.send(b"k")
        await house.drawer.has_begun.wait()
        first.leave()
        await first.ended()
        again = house.send(b"k")
        await asyncio.sleep(0.05)
        house.drawer.may_draw.set()
        assert (await again.ended()).status == 200
        assert (house.drawer.drawn, await house.outcomes()) == (1, ["succeeded"])

    played(tmp_path, play)


def restarted(folder: Path, before: Play, after: Play) -> None:
    async def run() -> None:
        house = House(folder)
        async with house.running():
            await before(house)
        async with house.running():
            await after(house)

    asyncio.run(run())


def test_a_restart_forgets_no_answer(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def ask(house: House) -> None:
        bodies.append((await house.ask(b"k")).body)
        assert house.drawer.drawn == 1

    restarted(tmp_path, ask, ask)
    assert bodies[0] == bodies[1]


def test_what_a_stop_broke_off_is_drawn_anew_under_the_same_key(tmp_path: Path) -> None:
    left: list[Exchange] = []

    async def begin(house: House) -> None:
        house.drawer.may_draw.clear()
        left.append(house.send(b"k"))
        await house.drawer.has_begun.wait()
        left[0].leave()

    async def ask(house: House) -> None:
        assert (await house.ask(b"k")).status == 200
        assert house.drawer.drawn == 2
        assert await house.outcomes() == ["cancelled", "succeeded"]

    restarted(tmp_path, begin, ask)


def picture_at(house: House, answer: Exchange) -> bytes:
    url = str(answer.told["data"][0]["url"])
    assert url.startswith(f"{house.base_url}/files/")
    return house.services.files.read(url.rpartition("/")[2])


def test_a_replayed_url_always_works_and_stays_the_same_while_it_does(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        first = await house.ask(b"k", response_format="url")
        house.now += HOUR_SECONDS / 2
        assert (await house.ask(b"k", response_format="url")).body == first.body
        house.now += HOUR_SECONDS / 2
        later = [await house.ask(b"k", response_format="url") for _ in range(3)]
        assert {picture_at(house, one) for one in later} == {b"picture 1"}
        assert len({one.body for one in later}) == 1, "a URL is made once an hour, not with every replay"
        old, new = first.told, later[0].told
        assert old["data"][0].pop("url") != new["data"][0].pop("url")
        assert old == new
        assert house.drawer.drawn == 1

    played(tmp_path, play)


def test_urls_of_several_pictures_keep_their_order_and_their_server_over_a_restart(tmp_path: Path) -> None:
    body = {"response_format": "url", "n": 3, "output_format": "webp"}

    async def ask(house: House) -> None:
        await house.ask(b"k", **body)
        house.base_url = "http://elsewhere"

    async def look(house: House) -> None:
        data = (await house.ask(b"k", **body)).told["data"]
        names = [item["url"].removeprefix("http://elsewhere/files/") for item in data]
        assert all(name.endswith(".webp") for name in names)
        assert [house.services.files.read(name) for name in names] == [b"picture %d" % number for number in (1, 2, 3)]

    restarted(tmp_path, ask, look)


def test_an_answer_too_large_to_keep_is_served_and_says_so(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        first = await house.ask(b"k")
        assert (first.status, first.headers["x-safelight-idempotency"]) == (200, "not_kept")
        again = await house.ask(b"k")
        assert (again.status, again.is_replayed, house.drawer.drawn) == (200, False, 2)

    played(tmp_path, play, quota_bytes=100)


def test_a_folder_that_takes_nothing_does_not_fail_the_request(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        kept = await house.ask(b"kept")
        assert "x-safelight-idempotency" not in kept.headers
        for path in (tmp_path / "answers").iterdir():
            path.unlink()
        (tmp_path / "answers").rmdir()
        first = await house.ask(b"k")
        assert (first.status, first.headers["x-safelight-idempotency"]) == (200, "not_kept")
        lost = await house.ask(b"kept")
        assert (lost.status, lost.is_replayed) == (200, False)

    played(tmp_path, play)


def events_in(answer: Exchange) -> list[str]:
    lines = answer.body.decode().split("\n")
    return [line.removeprefix("event: image_generation.") for line in lines if line.startswith("event: ")]


def test_a_stream_is_joined_from_where_it_is_and_replayed_as_its_pictures(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        body: dict[str, Any] = {"stream": True, "partial_images": 1}
        first = house.send(b"k", **body)
        await first.has_body.wait()
        second = house.send(b"k", **body)
        await second.has_begun.wait()
        house.drawer.may_draw.set()
        await first.ended()
        await second.ended()
        assert events_in(first) == ["partial_image", "completed"]
        assert events_in(second) == ["completed"]
        third = await house.ask(b"k", **body)
        assert third.body == second.body
        assert first.body.endswith(third.body)
        assert third.headers["content-type"].startswith("text/event-stream")
        told = json.loads(third.body.decode().split("data: ")[1])
        assert base64.b64decode(told["b64_json"]) == b"picture 1"
        assert (house.drawer.drawn, await house.outcomes()) == (1, ["succeeded"])

    played(tmp_path, play)


PATIENCE = ({"x-safelight-timeout": "1"}, {"x-stainless-read-timeout": "0.2"})


@pytest.mark.parametrize("patience", PATIENCE, ids=["asked for", "its client's"])
def test_who_joined_waits_no_longer_than_it_may_itself_and_the_work_goes_on(
    tmp_path: Path, patience: dict[str, str]
) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        first = house.send(b"k")
        await house.drawer.has_begun.wait()
        second = await house.ask(b"k", more_headers=patience)
        assert (second.status, second.told["error"]["code"]) == (504, "deadline_exceeded")
        assert "drawn on" in second.told["error"]["message"]
        house.drawer.may_draw.set()
        assert (await first.ended()).status == 200
        again = await house.ask(b"k", more_headers=patience)
        assert (again.status, again.body) == (200, first.body)
        assert (house.drawer.drawn, house.drawer.cancelled, await house.outcomes()) == (1, 0, ["succeeded"])

    played(tmp_path, play)


def test_who_joined_a_stream_is_told_when_its_own_time_is_over(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.may_draw.clear()
        body: dict[str, Any] = {"stream": True, "partial_images": 1}
        first = house.send(b"k", **body)
        await first.has_body.wait()
        second = await house.ask(b"k", more_headers={"x-safelight-timeout": "1"}, **body)
        assert (second.status, events_in(second)) == (200, ["event: error"])
        assert b'"deadline_exceeded"' in second.body
        patient = house.send(b"k", more_headers={"x-stainless-read-timeout": "0.1"}, **body)
        await patient.has_begun.wait()
        house.drawer.may_draw.set()
        assert events_in(await first.ended()) == ["partial_image", "completed"]
        assert events_in(await patient.ended()) == ["completed"]
        assert house.drawer.cancelled == 0

    played(tmp_path, play)


def test_a_stream_that_ended_with_an_error_is_not_kept(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.script = [errors.generation_failed("It failed.")]
        failed = await house.ask(b"k", stream=True)
        assert b"event: error\n" in failed.body
        again = await house.ask(b"k", stream=True)
        assert (events_in(again)[-1], again.is_replayed) == ("completed", False)

    played(tmp_path, play)


def test_a_stream_that_failed_after_its_first_picture_is_not_kept(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        house.drawer.script = [None, errors.generation_failed("It failed.")]
        failed = await house.ask(b"k", stream=True, n=2)
        assert events_in(failed)[-2:] == ["completed", "event: error"]
        again = await house.ask(b"k", stream=True, n=2)
        assert (events_in(again).count("completed"), again.is_replayed) == (2, False)

    played(tmp_path, play)


def test_a_failure_that_is_answered_and_not_raised_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> Response:
        return Response(b"{}", 503)

    async def play(house: House) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(images, "_answer", refuse)
            assert (await house.ask(b"k")).status == 503
        again = await house.ask(b"k")
        assert (again.status, again.is_replayed, house.drawer.drawn) == (200, False, 1)

    played(tmp_path, play)


@pytest.mark.usefixtures("short_linger")
def test_what_is_drawn_is_kept_although_its_client_left_while_the_disk_was_slow(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        shelf = house.services.desk.shelf
        assert shelf is not None
        with shelf._lock:  # whoever saves waits for it
            first = house.send(b"k")
            await house.drawer.has_begun.wait()
            await asyncio.sleep(0.05)
            first.leave()
            await first.ended()
            await asyncio.sleep(0.15)
            second = house.send(b"k")
            await asyncio.sleep(0.05)
        assert (await second.ended()).is_replayed
        assert house.drawer.drawn == 1

    played(tmp_path, play)


def test_a_damaged_answer_is_never_told_but_drawn_anew(tmp_path: Path) -> None:
    async def play(house: House) -> None:
        await house.ask(b"k")
        (file,) = (tmp_path / "answers").glob("*.answer")
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        again = await house.ask(b"k")
        assert (again.status, again.is_replayed, house.drawer.drawn) == (200, False, 2)
        assert (await house.ask(b"k")).body == again.body

    played(tmp_path, play)
