"""A worker that is killed under a request that routing has sent on, or could send on, and a stop while a provider
draws: one answer, and books that tell of each attempt once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.server_process import START_SECONDS, is_alive
from tests.invariants import DEMO, TINY, House, children_of, counts, files_below, read_only, workers_of
from tests.server.picture_files import RED, file_of, plain
from tests.upstreams.openai_replies import error, pictures
from tests.upstreams.scripted import Reply, ScriptedUpstream

pytestmark = pytest.mark.whole
WHOLE = pictures(file_of(plain("RGB", (64, 64), RED)))
PRICE_MICROUSD = 10_000
# The seed of each request, and under how many workers it stands still until they are killed.
DEATHS = {"sent-here": 1, "lost": 2, "sent-on": 2, "stays": 1}
SEEDS = {name: 70 + number for number, name in enumerate((*DEATHS, "far"))}
BACKEND = """\
  p{number}: {{kind: openai, base_url: '{url}/v1', key_variable: TEST_UPSTREAM_KEY, timeout_seconds: 20,
    models: {{m: {{form: compatible, prices: [{{usd: 0.01}}]}}}}}}
"""
# Each has a provider of its own, as failures close what they come from.
ROUTES = {
    "sent-here": "['p0:m', 'local:demo']",
    "lost": "['p1:m', 'local:demo']",
    "sent-on": "['local:demo', 'p2:m']",
    "stays": "['local:demo', 'p3:m']",
    "far": "['p4:m']",
}


def catalogue(url: str) -> str:
    backends = "".join(BACKEND.format(number=number, url=url) for number in range(len(ROUTES)))
    names = "".join(f"  {name!r}: {{route: {route}}}\n" for name, route in ROUTES.items())
    return TINY.format(demo=DEMO).replace("names:\n", f"backends:\n{backends}names:\n") + names


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(WHOLE) as running:
        yield running


def markers_of(folder: Path, name: str) -> list[Path]:
    """A file for each death: it is made when the job stands still, and the next worker is spared."""
    return [folder / f"{name}-{number}" for number in range(DEATHS[name])]


def house_of(folder: Path, upstream: ScriptedUpstream, **settings: str) -> House:
    hang = {"kind": "hang", "phase": "denoise", "step": 1}
    faults = [hang | {"seed": SEEDS[name], "once": str(at)} for name in DEATHS for at in markers_of(folder, name)]
    usual = {
        "SAFELIGHT_STEP_TIMEOUT_SECONDS": "100000",
        "TEST_UPSTREAM_KEY": "sk-test",
        "SAFELIGHT_FALLBACK_SHARE": "1",
        "SAFELIGHT_FAULTS": json.dumps(faults),
        "SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000",
    }
    return House(folder, catalogue(upstream.url), **usual, **settings)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[House]:
    house = house_of(tmp_path_factory.mktemp("house"), upstream)
    yield house
    house.stop()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def kill_under(house: House, name: str, death: int = 0) -> None:
    """The worker, while the request is being drawn."""
    wait_until(markers_of(house.books.parent, name)[death].exists)
    (worker,) = workers_of(house.server.process.pid)
    os.kill(worker, signal.SIGKILL)
    house.restarts += 1
    wait_until(lambda: (now := workers_of(house.server.process.pid)) != [] and worker not in now)


def wait_until(has_come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * START_SECONDS
    while not has_come():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def last_entry(house: House) -> dict[str, Any]:
    """Of the request before; the only one that it has."""
    columns = "request_id, outcome, error_code, backend, attempts, cost_microusd, seed"
    with read_only(house.books) as books:
        (row,) = books.execute(f"SELECT {columns} FROM ledger_entries ORDER BY id DESC LIMIT 1")  # noqa: S608
        entry = dict(zip(columns.split(", "), row, strict=True))
        (same,) = books.execute("SELECT count(*) FROM ledger_entries WHERE request_id = ?", (entry["request_id"],))
    assert same == (1,)
    return entry


def attempts_of(house: House, request_id: str) -> list[tuple[Any, ...]]:
    """Number, backend, cause and cost of each that went out."""
    with read_only(house.books) as books:
        asked = "SELECT number, backend, cause, cost_microusd FROM ledger_attempts WHERE request_id = ? ORDER BY number"
        return list(books.execute(asked, (request_id,)))


def ask(house: House, callers: ThreadPoolExecutor, model: str) -> Future[httpx.Response]:
    """Its client waits for as long as two workers may take to start."""
    body = {"prompt": "a red circle", "model": model, "seed": SEEDS[model], "steps": 4, "response_format": "b64_json"}

    def answer() -> httpx.Response:
        url = f"{house.server.url}/v1/images/generations"
        reply = httpx.post(url, json=body, headers={"connection": "close"}, timeout=3 * START_SECONDS)
        if reply.status_code == httpx.codes.OK:
            house.told.add(reply)
        return reply

    return callers.submit(answer)


def test_a_worker_that_dies_under_what_a_provider_failed_to_draw_is_replaced_and_draws_it(
    house: House, upstream: ScriptedUpstream, callers: ThreadPoolExecutor
) -> None:
    upstream.script(error(500))
    before = len(upstream.asked)
    waiting = ask(house, callers, "sent-here")
    upstream.wait_for(before + 1)
    kill_under(house, "sent-here")
    reply = waiting.result()
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-safelight-attempts"] == "p0:m=failed, local:demo=ok"
    assert reply.json()["data"][0]["seed"] == SEEDS["sent-here"]
    assert len(upstream.asked) == before + 1, "the provider is not asked again"
    entry = last_entry(house)
    assert (entry["outcome"], entry["backend"], entry["attempts"], entry["seed"]) == (
        "succeeded",
        "local",
        2,
        str(SEEDS["sent-here"]),
    )
    (attempt,) = attempts_of(house, entry["request_id"])
    assert attempt[:3] == (1, "p0", "failed")
    assert entry["cost_microusd"] == attempt[3]
    house.assert_sound()


def test_a_request_that_no_provider_drew_and_that_two_workers_died_of_fails_once(
    house: House, upstream: ScriptedUpstream, callers: ThreadPoolExecutor
) -> None:
    upstream.script(error(500))
    before = len(upstream.asked)
    waiting = ask(house, callers, "lost")
    upstream.wait_for(before + 1)
    kill_under(house, "lost")
    kill_under(house, "lost", death=1)
    reply = waiting.result()
    # Of two failures the one that must not be repeated is told, although the provider may be back soon.
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "worker_lost")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-safelight-attempts"] == "p1:m=failed, local:demo=worker_lost"
    entry = last_entry(house)
    assert (entry["outcome"], entry["error_code"], entry["attempts"]) == ("failed", "worker_lost", 2)
    assert [attempt[:3] for attempt in attempts_of(house, entry["request_id"])] == [(1, "p1", "failed")]
    house.assert_sound()


def test_what_two_workers_died_of_here_is_drawn_by_a_provider_and_paid_for_once(
    house: House, upstream: ScriptedUpstream, callers: ThreadPoolExecutor
) -> None:
    upstream.script(WHOLE)
    before = len(upstream.asked)
    waiting = ask(house, callers, "sent-on")
    kill_under(house, "sent-on")
    assert len(upstream.asked) == before, "one death is no reason to ask a provider"
    kill_under(house, "sent-on", death=1)
    reply = waiting.result()
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-safelight-attempts"] == "local:demo=worker_lost, p2:m=ok"
    assert len(upstream.asked) == before + 1
    entry = last_entry(house)
    assert (entry["outcome"], entry["backend"], entry["attempts"]) == ("succeeded", "p2", 2)
    assert attempts_of(house, entry["request_id"]) == [(2, "p2", None, PRICE_MICROUSD)]
    assert entry["cost_microusd"] == PRICE_MICROUSD
    house.assert_sound()


def test_a_worker_that_dies_once_under_a_request_costs_it_no_provider(
    house: House, upstream: ScriptedUpstream, callers: ThreadPoolExecutor
) -> None:
    before = len(upstream.asked)
    waiting = ask(house, callers, "stays")
    kill_under(house, "stays")
    reply = waiting.result()
    assert reply.headers["x-safelight-attempts"] == "local:demo=ok"
    assert len(upstream.asked) == before
    entry = last_entry(house)
    assert (entry["outcome"], entry["backend"], entry["attempts"], entry["cost_microusd"]) == (
        "succeeded",
        "local",
        1,
        0,
    )
    house.assert_sound()


def test_a_stop_while_a_provider_draws_waits_for_it_answers_and_books_it(
    tmp_path: Path, upstream: ScriptedUpstream, callers: ThreadPoolExecutor
) -> None:
    house = house_of(tmp_path, upstream, SAFELIGHT_DRAIN_SECONDS="30")
    processes = children_of(house.server.process.pid)
    upstream.script(Reply(body=WHOLE.body, wait_seconds=12))
    before = len(upstream.asked)
    plain_one = ask(house, callers, "far")
    streamed = callers.submit(events_of, house, "far")
    upstream.wait_for(before + 2)
    house.server.process.terminate()
    wait_until(lambda: httpx.get(f"{house.server.url}/health/ready").status_code == httpx.codes.SERVICE_UNAVAILABLE)
    refused = httpx.post(f"{house.server.url}/v1/images/generations", json={"prompt": "late", "model": "far"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert plain_one.result().status_code == 200, plain_one.result().text
    assert streamed.result()[-1]["type"] == "image_generation.completed"
    assert house.server.process.wait(60) == 0
    assert len(upstream.asked) == before + 2
    with read_only(house.books) as books:
        drawn = counts(books, "count(*), sum(outcome = 'succeeded'), sum(cost_microusd)", "ledger_entries")
        paid = counts(books, "count(*), sum(cause IS NULL), sum(cost_microusd)", "ledger_attempts")
        assert counts(books, "sum(outcome IS NULL)", "ledger_entries") == (0,)
    assert drawn == (3, 3, 2 * PRICE_MICROUSD), "the house's own first picture, and two of the provider's"
    assert paid == (2, 2, 2 * PRICE_MICROUSD)
    assert not [pid for pid in processes if is_alive(pid)]
    assert not files_below(tmp_path / "tmp")


def events_of(house: House, model: str) -> list[dict[str, Any]]:
    body = {"prompt": "a red circle", "model": model, "stream": True, "response_format": "b64_json"}
    with httpx.stream("POST", f"{house.server.url}/v1/images/generations", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]
