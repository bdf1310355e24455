"""Requests that are handed on: a real server, the real SDK, and an upstream that answers as each test writes it."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from tests.end_to_end.server_process import ServerProcess
from tests.server.picture_files import RED, bomb, file_of, plain
from tests.upstreams.openai_replies import USAGE, error, pictures
from tests.upstreams.scripted import Reply, ScriptedUpstream

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
CANARY = "sk-canary-0123456789-nobody-may-read-this"
FOREIGN_WORDS = "organization org-canary-of-the-provider is not allowed"
RED_FILE = file_of(plain("RGB", (1024, 1024), RED))
MODELS = """\
default_model: demo
models:
  demo: {{family: sdxl, source: {demo}, defaults: {{size: 256x256, steps: 2}}}}
  broken: {{family: sdxl, source: nowhere}}
backends:
  openai:
    kind: openai
    base_url: {url}/v1
    key_variable: TEST_UPSTREAM_KEY
    timeout_seconds: 3
    daily_usd: {daily_usd}
    models:
      gpt-image-2:
        prices: [{{size: 256x256, usd: 0.001}}, {{usd: 0.05}}]
        token_prices: {{text_in_usd: 5, image_in_usd: 8, image_out_usd: 30}}
      gpt-image-1.5: {{prices: [{{usd: 0.03}}], successor: gpt-image-2}}
      gpt-image-2.5-flare: {{prices: [{{usd: 0.04}}]}}
      gpt-image-1: {{prices: [{{usd: 0.04}}]}}
      other: {{form: compatible, prices: [{{usd: 0.01}}]}}
      dall-e-2: {{}}
names:
  dall-e-3: {{route: [local:demo, openai:gpt-image-2], retired: 2026-05-12, successor: gpt-image-2}}
  far: {{route: [openai:gpt-image-2]}}
  gone: {{route: [openai:gpt-image-1.5]}}
  third: {{route: [openai:gpt-image-2.5-flare]}}
  fourth: {{route: [openai:gpt-image-1]}}
  other: {{route: [openai:other]}}
  both: {{route: [openai:gpt-image-2, local:demo]}}
  old: {{route: [openai:dall-e-2]}}
  shaky: {{route: [local:broken, openai:gpt-image-2]}}
  nowhere: {{route: [local:broken, openai:gpt-image-1.5]}}
"""


def models_file(folder: Path, url: str, daily_usd: float = 100.0) -> Path:
    path = folder / "models.yaml"
    path.write_text(MODELS.format(demo=DEMO, url=url, daily_usd=daily_usd))
    return path


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(pictures(RED_FILE)) as running:
        yield running


def started(folder: Path, models: Path, **settings: str) -> ServerProcess:
    environment = {
        "TEST_UPSTREAM_KEY": CANARY,
        "SAFELIGHT_LEDGER": f"sqlite:///{folder / 'books.sqlite'}",
        "SAFELIGHT_LOG_LEVEL": "debug",
        "SAFELIGHT_FALLBACK_SHARE": "1",
        **settings,
    }
    return ServerProcess(("--models", str(models)), environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's books lie."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path, upstream: ScriptedUpstream) -> Iterator[ServerProcess]:
    """For requests that leave every breaker closed."""
    running = started(folder, models_file(folder, upstream.url))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the other server's books lie."""
    return tmp_path_factory.mktemp("other")


@pytest.fixture(scope="module")
def other_server(other_folder: Path, upstream: ScriptedUpstream) -> Iterator[ServerProcess]:
    """For failures that close a breaker for long, each of which has a name of its own."""
    running = started(other_folder, models_file(other_folder, upstream.url))
    yield running
    running.stop()


def ask(server: ServerProcess, model: str, **body: Any) -> httpx.Response:
    asked = {"prompt": "a red circle", "model": model, "response_format": "b64_json", **body}
    return httpx.post(f"{server.url}/v1/images/generations", json=asked, timeout=60)


def image_of(item: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_name_is_served_by_a_provider_in_the_form_that_the_client_asked_for(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE, usage=USAGE, revised_prompt="a very red circle"))
    before = len(upstream.asked)
    answer = ask(server, "far", response_format="url", output_format="webp", quality="hd", style="vivid", seed=7)
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["data"]
    file = httpx.get(item["url"])
    assert (file.headers["content-type"], item["revised_prompt"]) == ("image/webp", "a very red circle")
    image = Image.open(io.BytesIO(file.content))
    assert (image.format, image.size) == ("WEBP", (1024, 1024))
    usage = answer.json()["usage"]
    assert usage["model_used"] == "gpt-image-2"
    assert usage["cost"] == pytest.approx((10 * 5 + 40 * 8 + 4160 * 30) / 1e6)
    assert answer.headers["x-safelight-backend"] == "openai"
    assert answer.headers["x-safelight-attempts"] == "openai:gpt-image-2=ok"
    assert answer.headers["x-safelight-ignored"] == "seed, style"
    (sent,) = upstream.asked[before:]
    assert sent.headers["authorization"] == f"Bearer {CANARY}"
    assert sent.json["quality"] == "high"
    assert "response_format" not in sent.json


def test_our_own_model_is_asked_first_and_the_provider_where_it_cannot(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE))
    before = len(upstream.asked)
    ours = ask(server, "dall-e-3")
    assert (ours.headers["x-safelight-backend"], ours.json()["usage"]["model_used"]) == ("local", "demo")
    assert len(upstream.asked) == before
    theirs = ask(server, "shaky")
    assert theirs.status_code == 200, theirs.text
    assert theirs.headers["x-safelight-attempts"] == "local:broken=model_unavailable, openai:gpt-image-2=ok"


def test_a_request_may_pin_who_draws_and_may_stay_here(server: ServerProcess, upstream: ScriptedUpstream) -> None:
    upstream.script(pictures(RED_FILE))
    assert ask(server, "dall-e-3", provider="openai").headers["x-safelight-backend"] == "openai"
    assert ask(server, "dall-e-3", provider="local").headers["x-safelight-backend"] == "local"
    before = len(upstream.asked)
    assert ask(server, "dall-e-3", local_only=True).headers["x-safelight-backend"] == "local"
    stays = ask(server, "shaky", local_only=True)
    assert code_of(stays) == (503, "model_unavailable")
    for body, param in (({"local_only": True}, "local_only"), ({"provider": "bedrock"}, "provider")):
        refused = ask(server, "far", **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert len(upstream.asked) == before


def test_a_size_that_the_provider_does_not_draw_is_brought_to_the_one_asked_for(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE))
    answer = ask(server, "far", size="256x256")
    assert answer.status_code == 200, answer.text
    assert image_of(answer.json()["data"][0]).size == (256, 256)
    assert answer.headers["x-safelight-drawn-size"] == upstream.asked[-1].json["size"] != "256x256"
    assert answer.json()["usage"]["image_size"] == "256x256"
    # The provider bills what it drew, not what was made of it.
    assert answer.json()["usage"]["cost"] == pytest.approx(0.05)


def test_an_image_that_our_own_model_cannot_take_goes_to_whoever_can(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE))
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    small = file_of(plain("RGB", (96, 96), RED))
    for name in ("dall-e-3", "both"):
        reply = client.images.with_raw_response.edit(model=name, prompt="a red circle", image=small)
        assert reply.headers["x-safelight-backend"] == "openai"
    with pytest.raises(BadRequestError, match="at least 256"):
        client.images.edit(model="demo", prompt="a red circle", image=small)
    before = len(upstream.asked)
    with pytest.raises(BadRequestError, match="no PNG, JPEG or WebP"):
        client.images.edit(model="dall-e-3", prompt="a red circle", image=b"no picture")
    assert len(upstream.asked) == before


def test_a_variation_by_a_model_of_few_sizes_is_drawn_in_its_own_where_none_is_named(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE))
    files = {"image": file_of(plain("RGB", (300, 600), RED))}
    reply = httpx.post(f"{server.url}/v1/images/variations", data={"model": "old"}, files=files, timeout=60)
    assert reply.status_code == 200, reply.text
    assert upstream.asked[-1].words["size"] == "1024x1024"


def test_whoever_leaves_ends_the_call_and_a_stop_refuses_what_takes_too_long(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    running = started(tmp_path, models_file(tmp_path, upstream.url), SAFELIGHT_DRAIN_SECONDS="1")
    try:
        upstream.script(Reply(wait_seconds=30))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/images/generations", json={"prompt": "x", "model": "third"}, timeout=1)
        assert upstream.asked[-1].is_over.wait(5)
        with ThreadPoolExecutor(1) as callers:
            before = len(upstream.asked)
            waiting = callers.submit(ask, running, "third")
            upstream.wait_for(before + 1)
            running.process.terminate()
            assert code_of(waiting.result()) == (503, "server_is_overloaded")
    finally:
        assert running.stop() == 0
    books = sqlite3.connect(tmp_path / "books.sqlite")
    attempts = books.execute("SELECT cause, cost_microusd FROM ledger_attempts ORDER BY began_unix_ms").fetchall()
    entries = books.execute("SELECT outcome, cost_microusd FROM ledger_entries ORDER BY began_unix_ms").fetchall()
    books.close()
    assert attempts == [("abandoned", 40_000), ("server_is_overloaded", 40_000)]
    assert entries == [("cancelled", 40_000), ("failed", 40_000)]


def test_the_description_tells_of_every_status_that_a_provider_may_lead_to(server: ServerProcess) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for route in ("generations", "edits", "variations"):
        responses = paths[f"/v1/images/{route}"]["post"]["responses"]
        assert {str(status) for _, status, _ in FAILURES.values()} <= set(responses)


def test_an_image_and_a_mask_go_to_the_provider_as_it_takes_them(
    server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(pictures(RED_FILE))
    mask = Image.new("L", (96, 96), 0)
    mask.paste(255, (0, 0, 48, 96))
    files = {"image": file_of(plain("RGB", (96, 96), RED)), "mask": file_of(mask)}
    form = {"prompt": "a red circle", "model": "far", "size": "1024x1024"}
    answer = httpx.post(f"{server.url}/v1/images/edits", data=form, files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    sent = upstream.asked[-1]
    assert sent.path.endswith("/images/edits")
    parts = sent.form
    alpha = Image.open(io.BytesIO(parts["mask"].content)).getchannel("A")
    assert (alpha.getpixel((10, 512)), alpha.getpixel((1000, 512))) == (0, 255)
    assert Image.open(io.BytesIO(parts["image"].content)).size == (1024, 1024)


def test_a_stream_ends_with_the_providers_pictures(server: ServerProcess, upstream: ScriptedUpstream) -> None:
    upstream.script(pictures(RED_FILE, RED_FILE))
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    events = list(client.images.generate(model="far", prompt="a red circle", n=2, stream=True))
    assert [event.type for event in events] == ["image_generation.completed"] * 2


FAILURES: dict[str, tuple[Reply, int, str]] = {
    "wrong key": (error(401, code="invalid_api_key", message=FOREIGN_WORDS), 503, "backend_unavailable"),
    "forbidden": (error(403, message=FOREIGN_WORDS), 503, "backend_unavailable"),
    "refused": (error(400, code="invalid_value", message=FOREIGN_WORDS), 400, "backend_refused"),
    "moderated": (error(400, code="moderation_blocked", message=FOREIGN_WORDS), 400, "content_policy_violation"),
    "throttled": (
        error(429, code="rate_limit_exceeded", message=FOREIGN_WORDS, headers={"Retry-After": "7"}),
        429,
        "rate_limit_exceeded",
    ),
    "no quota": (error(429, code="insufficient_quota", message=FOREIGN_WORDS), 429, "insufficient_quota"),
    "failed": (error(500, message=FOREIGN_WORDS), 502, "backend_failed"),
    "overloaded": (error(503, message=FOREIGN_WORDS), 429, "rate_limit_exceeded"),
    "closed": (Reply(None, close_at=0), 502, "backend_failed"),
    "cut off": (Reply(body=json.dumps({"data": FOREIGN_WORDS * 100}).encode(), close_at=50), 502, "backend_failed"),
    "garbage": (Reply(body=FOREIGN_WORDS.encode()), 502, "backend_failed"),
    "empty": (pictures(), 502, "backend_failed"),
    "a bomb": (pictures(bomb("PNG", 9000)), 502, "backend_failed"),
    "no picture": (pictures(FOREIGN_WORDS.encode()), 502, "backend_failed"),
    "silent": (Reply(wait_seconds=30), 504, "backend_timeout"),
}


def test_the_books_and_the_replies_name_the_same_money(
    other_server: ServerProcess, upstream: ScriptedUpstream, other_folder: Path
) -> None:
    upstream.script(pictures(RED_FILE, RED_FILE, RED_FILE))
    attempts, entries = sums_of(other_folder)
    told = ask(other_server, "far", n=3).json()["usage"]["cost"]
    upstream.script(Reply(body=b"{", close_at=1))
    ask(other_server, "far")  # cut off: it may have cost what it was estimated at
    assert told == pytest.approx(0.15)
    assert sums_of(other_folder) == (attempts + 150_000 + 50_000, entries + 150_000 + 50_000)


def sums_of(folder: Path) -> tuple[int, int]:
    """Millionths of a dollar, of all attempts and of all entries."""
    books = sqlite3.connect(folder / "books.sqlite")
    (attempts,) = books.execute("SELECT coalesce(sum(cost_microusd), 0) FROM ledger_attempts").fetchone()
    (entries,) = books.execute("SELECT coalesce(sum(cost_microusd), 0) FROM ledger_entries").fetchone()
    books.close()
    return attempts, entries


# These close a target for long, so each has one of its own.
LASTING = {"wrong key": "far", "forbidden": "fourth", "no quota": "third"}


def test_no_failure_of_a_provider_tells_its_words_or_our_key(
    other_server: ServerProcess, upstream: ScriptedUpstream, other_folder: Path
) -> None:
    told = ""
    for name, (reply, status, code) in FAILURES.items():
        upstream.script(reply)
        answer = ask(other_server, LASTING.get(name, "other"))
        assert code_of(answer) == (status, code), name
        told += answer.text + str(answer.headers)
        if name == "throttled":
            assert answer.headers["retry-after"] == "7"
        upstream.script(pictures(RED_FILE))
        assert ask(other_server, "other").status_code == 200, f"after {name}"
    told += httpx.get(f"{other_server.url}/v1/models").text
    assert FOREIGN_WORDS not in told
    assert "org-canary" not in told
    books = sqlite3.connect(other_folder / "books.sqlite")
    log = "".join(other_server.lines)
    told += "\n".join("".join(books.iterdump())) + log
    books.close()
    assert CANARY not in told
    # docs/errors.md promises it.
    assert '"request_id": "req_' in next(line for line in other_server.lines if '"cause": "refused"' in line)


def test_a_model_that_is_gone_for_good_is_named_so_and_not_asked_again(
    other_server: ServerProcess, upstream: ScriptedUpstream
) -> None:
    upstream.script(error(404, code="model_not_found", message="The model has been deprecated and removed."))
    first = ask(other_server, "gone")
    assert code_of(first) == (404, "model_retired")
    assert "'gpt-image-2'" in first.json()["error"]["message"]
    before = len(upstream.asked)
    assert code_of(ask(other_server, "gone")) == (404, "model_retired")
    assert httpx.get(f"{other_server.url}/v1/models/gone").json()["route"][0]["state"] == "retired"
    assert len(upstream.asked) == before


@pytest.mark.whole  # a restart of the router alone is tested in tests/server/routing/test_router.py
def test_the_days_limit_outlives_the_server(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.script(pictures(RED_FILE))
    models = models_file(tmp_path, upstream.url, daily_usd=0.12)
    statuses = []
    for _ in range(2):
        running = started(tmp_path, models)
        try:
            statuses += [ask(running, "far").status_code for _ in range(2)]
        finally:
            running.stop()
    assert statuses == [200, 200, 429, 429]


def test_the_list_of_models_says_who_serves_and_what_is_over(server: ServerProcess) -> None:
    listed = {one["id"]: one for one in httpx.get(f"{server.url}/v1/models").json()["data"]}
    dalle = listed["dall-e-3"]
    assert (dalle["shutdown_date"], dalle["successor"]) == ("2026-05-12", "gpt-image-2")
    assert dalle["route"] == [
        {"backend": "local", "model": "demo", "state": "ready"},
        {"backend": "openai", "model": "gpt-image-2", "state": "ready"},
    ]
    assert (listed["far"]["served_by"], listed["far"]["state"]) == (None, "remote")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"SAFELIGHT_OFFLINE": "true"}, marks=pytest.mark.whole),
        pytest.param({"SAFELIGHT_LOCAL_ONLY": "true"}, marks=pytest.mark.whole),
        pytest.param({"TEST_UPSTREAM_KEY": ""}, marks=pytest.mark.whole),
    ],
)
def test_what_is_not_allowed_or_has_no_key_is_not_there(
    tmp_path: Path, upstream: ScriptedUpstream, settings: dict[str, str]
) -> None:
    before = upstream.connections
    running = started(tmp_path, models_file(tmp_path, upstream.url), **settings)
    try:
        assert ask(running, "dall-e-3").headers["x-safelight-backend"] == "local"
        far = ask(running, "far")
        assert code_of(far) == (503, "backend_unavailable")
        assert far.headers["x-should-retry"] == "false"
        assert code_of(ask(running, "shaky")) == (503, "model_unavailable")
        route = httpx.get(f"{running.url}/v1/models/far").json()["route"]
        assert route == [{"backend": "openai", "model": "gpt-image-2", "state": "not_set_up"}]
    finally:
        running.stop()
    assert upstream.connections == before


def test_check_says_what_is_missing_and_what_is_over(tmp_path: Path) -> None:
    models = models_file(tmp_path, "http://127.0.0.1:1")
    environment = {"SAFELIGHT_LEDGER": f"sqlite:///{tmp_path / 'books.sqlite'}"}
    command = [sys.executable, "-m", "server.cli", "check", "--models", str(models)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PATH": "/usr/bin"}, check=False)
    assert "TEST_UPSTREAM_KEY" in done.stdout
    assert "backend openai, dall-e-2: has no prices, so that a limit in USD cannot hold it back" in done.stdout
    assert "gpt-image-2: has no prices" not in done.stdout
    assert "dall-e-3: was switched off on 2026-05-12 where it came from; here local:demo, openai:" in done.stdout
    without_books = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin"}, check=False)
    assert "SAFELIGHT_LEDGER" in without_books.stderr
