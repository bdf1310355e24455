"""Whatever a provider answers, its caller gets one answer, the books what it may have cost, and the house is sound.

Each answer has a backend of its own, as failures close what they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.invariants import DEMO, TINY, House, counts, read_only
from tests.server.picture_files import RED, bomb, file_of, plain
from tests.upstreams.openai_replies import error, pictures, redirect, urls
from tests.upstreams.scripted import Reply, ScriptedUpstream

pytestmark = pytest.mark.whole  # tests/end_to_end/test_providers.py tries the commonest in the quick run
PICTURE = file_of(plain("RGB", (64, 64), RED))
MICRO = 1_000_000
PRICE_USD = 0.01


@dataclass(frozen=True, slots=True)
class Answer:
    """reply: of the provider. charged: whether the books take it for paid."""

    reply: Reply
    status: int
    code: str | None = None


BROKEN, BUSY, SILENT = (502, "backend_failed"), (429, "rate_limit_exceeded"), (504, "backend_timeout")
WHOLE = pictures(PICTURE)
ANSWERS: dict[str, Answer] = {
    "a picture": Answer(WHOLE, 200),
    "429": Answer(error(429), *BUSY),
    "429 with an hour's patience": Answer(error(429, headers={"Retry-After": "3600"}), *BUSY),
    "429 with no number": Answer(error(429, headers={"Retry-After": "soon"}), *BUSY),
    "500": Answer(error(500), *BROKEN),
    "501": Answer(error(501), *BROKEN),
    "502 of a proxy": Answer(Reply(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}), *BROKEN),
    "503": Answer(error(503), *BUSY),
    "504": Answer(error(504), *BROKEN),
    "409": Answer(error(409), *BROKEN),
    "a status of 299": Answer(Reply(299, b"{}"), *BROKEN),
    "a status of 999": Answer(Reply(999, b"{}"), *BROKEN),
    "silence": Answer(Reply(wait_seconds=60), *SILENT),
    "a body that stops": Answer(Reply(body=WHOLE.body, stall_at=30), *SILENT),
    "a byte a second": Answer(Reply(body=WHOLE.body, drip_seconds=1.0), *SILENT),
    "a body that is cut": Answer(Reply(body=WHOLE.body, close_at=30), *BROKEN),
    "a connection that is cut": Answer(Reply(None), *BROKEN),
    "a body without end": Answer(Reply(body=b" " * 100_000, endless=True), *BROKEN),
    "more than is said": Answer(Reply(body=WHOLE.body, declared_bytes=10), *BROKEN),
    "garbage": Answer(Reply(body=b"\x00\xff garbage"), *BROKEN),
    "nothing": Answer(Reply(), *BROKEN),
    "null": Answer(Reply(body=b"null"), *BROKEN),
    "an array": Answer(Reply(body=b"[]"), *BROKEN),
    "NaN": Answer(Reply(body=b'{"data": NaN}'), *BROKEN),
    "100,000 levels": Answer(Reply(body=b"[" * 100_000), *BROKEN),
    "an empty list": Answer(pictures(), *BROKEN),
    "no list": Answer(Reply(body=b'{"data": {"b64_json": "AAAA"}}'), *BROKEN),
    "a list of null": Answer(Reply(body=b'{"data": [null]}'), *BROKEN),
    "a list of numbers": Answer(Reply(body=json.dumps({"data": [1]}).encode()), *BROKEN),
    "no base64": Answer(Reply(body=b'{"data": [{"b64_json": "$$$$"}]}'), *BROKEN),
    "no picture": Answer(pictures(b"no picture"), *BROKEN),
    "half a picture": Answer(pictures(PICTURE[:60]), *BROKEN),
    "an oversized picture": Answer(pictures(bomb("PNG", 9000)), *BROKEN),
    "a picture of 50,000 square": Answer(pictures(bomb("JPEG", 50_000)), *BROKEN),
    "SVG": Answer(pictures(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), *BROKEN),
    "a URL of this machine": Answer(urls("http://127.0.0.1/x.png"), *BROKEN),
    "a URL of a file": Answer(urls("file:///etc/passwd"), *BROKEN),
    "a redirect": Answer(redirect("http://169.254.169.254/"), *BROKEN),
}
BACKEND = """\
  p{number}:
    kind: openai
    base_url: {url}/v1
    key_variable: TEST_UPSTREAM_KEY
    timeout_seconds: 3
    models: {{m: {{form: compatible, prices: [{{usd: {price}}}]}}}}
"""


def catalogue(url: str) -> str:
    backends = [BACKEND.format(number=number, url=url, price=PRICE_USD) for number in range(len(ANSWERS))]
    names = [f"  far{number}: {{route: ['p{number}:m']}}\n" for number in range(len(ANSWERS))]
    whole = TINY.format(demo=DEMO).replace("names:\n", f"backends:\n{''.join(backends)}names:\n")
    return whole + "".join(names)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(WHOLE) as running:
        yield running


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[House]:
    settings = {"TEST_UPSTREAM_KEY": "sk-test", "SAFELIGHT_FALLBACK_SHARE": "1"}
    house = House(tmp_path_factory.mktemp("far"), catalogue(upstream.url), **settings)
    yield house
    house.stop()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_a_provider_is_one_answer_of_ours(far: House, upstream: ScriptedUpstream, name: str) -> None:
    answer, number = ANSWERS[name], list(ANSWERS).index(name)
    upstream.script(answer.reply)
    before, asked = money(far), len(upstream.asked)
    reply = far.ask(model=f"far{number}", response_format="b64_json", size="256x256")
    assert reply.status_code == answer.status, reply.text
    if answer.code is not None:
        assert reply.json()["error"]["code"] == answer.code
    assert len(upstream.asked) == asked + 1, "it was asked once"
    entries, attempts = money(far)
    assert entries - before[0] == attempts - before[1] <= PRICE_USD * MICRO
    far.assert_sound()


def money(house: House) -> tuple[int, ...]:
    """What the entries and the attempts of the books cost together, in millionths of a dollar."""
    with read_only(house.books) as books:
        entries = counts(
            books, "sum(CASE WHEN backend != 'local' OR backend IS NULL THEN cost_microusd END)", "ledger_entries"
        )
        return *entries, *counts(books, "sum(cost_microusd)", "ledger_attempts")
