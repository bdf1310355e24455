"""An operator sets the clock by two hours, forth and back: what lasts for a time lasts so long; a day is the clock's.

A library loaded before the C library shifts the wall clock of a real server; what only counts seconds is left alone, as
it is when somebody sets the time.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.invariants import DEMO, TINY, House, counts, read_only
from tests.server.picture_files import RED, file_of, plain
from tests.upstreams.openai_replies import error, pictures
from tests.upstreams.scripted import ScriptedUpstream

pytestmark = pytest.mark.whole
TWO_HOURS, DAY = 7200, 86400
LIFETIME_SECONDS = 6
PROVIDER = """\
backends:
  far:
    kind: openai
    base_url: {url}/v1
    key_variable: TEST_UPSTREAM_KEY
    daily_usd: 0.025
    models:
      m: {{form: compatible, prices: [{{usd: 0.01}}]}}
      broken: {{form: compatible, prices: [{{usd: 0.0001}}]}}
names:
  far: {{route: ['far:m']}}
  broken: {{route: ['far:broken']}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("this machine has no C compiler, so no clock can be shifted")
    built = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(source)], check=True)
    return built


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(pictures(file_of(plain("RGB", (64, 64), RED)))) as running:
        yield running


@pytest.fixture
def house(tmp_path: Path, library: Path, upstream: ScriptedUpstream) -> Iterator[House]:
    (tmp_path / "shift").write_text("0")
    settings = {
        "LD_PRELOAD": str(library),
        "CLOCK_SHIFT": str(tmp_path / "shift"),
        "SAFELIGHT_FILE_LIFETIME_SECONDS": str(LIFETIME_SECONDS),
        "TEST_UPSTREAM_KEY": "sk-test",
    }
    models = TINY.format(demo=DEMO).partition("names:\n")[0] + PROVIDER.format(url=upstream.url)
    house = House(tmp_path, models, **settings)
    yield house
    assert house.server.stop() == 0


def shift(house: House, seconds: int) -> None:
    (house.books.parent / "shift").write_text(str(seconds))


def began_unix_seconds(house: House) -> float:
    """When the server says that its last request began."""
    with read_only(house.books) as books:
        (last,) = counts(books, "max(began_unix_ms)", "ledger_entries")
    return last / 1000


@pytest.mark.parametrize("by", [TWO_HOURS, -TWO_HOURS], ids=["forth", "back"])
def test_a_result_lives_for_its_time_whatever_the_clock_says(house: House, by: int) -> None:
    url = house.ask().json()["data"][0]["url"]
    shift(house, by)
    assert httpx.get(url).status_code == 200
    house.draw()
    assert house.ask(response_format="b64_json").json()["created"] == pytest.approx(time.time() + by, abs=30)
    time.sleep(LIFETIME_SECONDS + 0.5)
    assert httpx.get(url).status_code == 410
    with read_only(house.books) as books:
        (least,) = counts(books, "min(latency_ms)", "ledger_entries")
    assert least >= 0


def test_a_day_of_spending_is_the_clocks_and_a_closed_provider_stays_closed(
    house: House, upstream: ScriptedUpstream
) -> None:
    assert [ask(house, "far") for _ in range(3)] == [200, 200, 429]
    shift(house, TWO_HOURS if time.gmtime().tm_hour < 22 else -TWO_HOURS)
    assert ask(house, "far") == 429, "the day is the same"
    shift(house, DAY)
    assert ask(house, "far") == 200, "the next day has begun"
    upstream.script(error(500))
    assert [ask(house, "broken") for _ in range(5)] == [502] * 5
    asked = len(upstream.asked)
    shift(house, DAY + TWO_HOURS)
    assert ask(house, "broken") == 502
    assert len(upstream.asked) == asked, "who is closed for half a minute is closed for that long"


def ask(house: House, model: str) -> int:
    return house.ask(model=model, response_format="b64_json", size="256x256").status_code
