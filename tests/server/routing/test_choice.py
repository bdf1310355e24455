"""Guards who is asked first: the rule as its page states it, on worked examples and on any numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.providers import Target
from server.routing.choice import Prospect, Weights, ranked, score_seconds, told
from server.routing.record import HALF_LIFE_SECONDS, MAX_RECORDS, Record, Records

WEIGHTS = Weights(seconds_per_usd=100.0, seconds_per_place=30.0)
OURS, OPENAI, BEDROCK = Target("local", "sdxl"), Target("openai", "gpt-image-2"), Target("bedrock", "stable-core")
local = Prospect(OURS, place=0, seconds=4.0, usd=0.0)
openai = Prospect(OPENAI, place=1, seconds=None, usd=0.053, record=Record(0.99, 12.0))
bedrock = Prospect(BEDROCK, place=2, seconds=None, usd=0.04, record=Record(0.98, 6.0))


def order(*prospects: Prospect, weights: Weights = WEIGHTS) -> list[Target]:
    return [prospect.target for prospect in ranked(prospects, weights)]


def test_an_idle_server_of_our_own_is_asked_first() -> None:
    assert order(local, openai, bedrock) == [OURS, OPENAI, BEDROCK]
    assert score_seconds(openai, WEIGHTS) == pytest.approx(12 / 0.99 + 5.3 + 30)


def test_a_long_queue_sends_a_request_to_whoever_is_sooner_at_its_price() -> None:
    busy = replace(local, seconds=90.0)
    assert order(busy, openai, bedrock) == [OPENAI, BEDROCK, OURS]
    cheap_wins = Weights(seconds_per_usd=10_000.0, seconds_per_place=0.0)
    assert order(busy, openai, bedrock, weights=cheap_wins) == [OURS, BEDROCK, OPENAI]


def test_a_backend_that_often_fails_falls_behind_and_the_operators_preference_brings_it_forward() -> None:
    shaky = replace(openai, record=Record(0.25, 12.0))
    assert order(shaky, bedrock) == [BEDROCK, OPENAI]
    assert order(replace(shaky, preference_seconds=60.0), bedrock) == [OPENAI, BEDROCK]


def test_whoever_was_never_tried_is_taken_to_be_quick() -> None:
    untried = Prospect(BEDROCK, place=1, seconds=None, usd=0.053)
    assert order(openai, untried) == [BEDROCK, OPENAI]


def test_the_ranking_is_told_with_its_scores() -> None:
    assert told(ranked((openai, local), WEIGHTS), WEIGHTS) == "local:sdxl 4.0 s, openai:gpt-image-2 47.4 s"


def test_the_examples_on_the_page_are_what_the_rule_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "providers.md").read_text()
    busy = replace(local, seconds=90.0)
    shaky = replace(openai, record=Record(0.25, 12.0))
    for some in ((local, openai, bedrock), (busy, openai, bedrock), (busy, shaky, bedrock)):
        assert f"| `{told(ranked(some, WEIGHTS), WEIGHTS)}` |" in page


numbers = st.floats(0, 1e6)
prospects = st.builds(
    Prospect,
    target=st.just(OURS),
    place=st.integers(0, 5),
    seconds=st.none() | numbers,
    usd=st.floats(0, 100),
    count=st.integers(1, 10),
    record=st.builds(Record, success=st.floats(0.001, 1), seconds=st.none() | numbers),
    preference_seconds=st.floats(-1e3, 1e3),
)


@given(prospects, st.floats(0.01, 1e3))
def test_slower_dearer_shakier_and_later_never_help(prospect: Prospect, more: float) -> None:
    score = score_seconds(prospect, WEIGHTS)
    record = prospect.record
    worse = (
        replace(prospect, seconds=prospect.expected_seconds + more),
        replace(prospect, usd=prospect.usd + more),
        replace(prospect, place=prospect.place + 1),
        replace(prospect, record=replace(record, success=record.success / 2)),
        replace(prospect, preference_seconds=prospect.preference_seconds - more),
    )
    assert all(score_seconds(one, WEIGHTS) >= score for one in worse)


@given(st.lists(prospects, max_size=6))
def test_everybody_is_ranked_once_and_equals_stay_in_the_routes_order(some: list[Prospect]) -> None:
    result = ranked(some, WEIGHTS)
    assert sorted(map(id, result)) == sorted(map(id, some))
    keys = [(score_seconds(one, WEIGHTS), one.place) for one in result]
    assert keys == sorted(keys)


def test_success_and_speed_are_learned_by_size_and_fade() -> None:
    records = Records()
    assert records.of(OPENAI, "1024x1024", 0.0) == Record(1.0, None)
    for _ in range(3):
        records.failed(OPENAI, "1024x1024", 0.0)
    records.served(OPENAI, "1024x1024", 10.0, 0.0)
    fresh = records.of(OPENAI, "1024x1024", 0.0)
    assert fresh.success == pytest.approx(2 / 5)
    assert fresh.seconds == pytest.approx(10.0)
    assert records.of(OPENAI, "512x512", 0.0) == Record(1.0, None)
    later = records.of(OPENAI, "1024x1024", HALF_LIFE_SECONDS)
    assert later.success == pytest.approx(1.5 / 3)
    assert records.of(OPENAI, "1024x1024", 100 * HALF_LIFE_SECONDS).success == pytest.approx(1.0)


def test_a_new_speed_outweighs_an_old_one() -> None:
    records = Records()
    records.served(OPENAI, "1024x1024", 40.0, 0.0)
    records.served(OPENAI, "1024x1024", 10.0, 3 * HALF_LIFE_SECONDS)
    assert records.of(OPENAI, "1024x1024", 3 * HALF_LIFE_SECONDS).seconds == pytest.approx((40 / 8 + 10) / (1 / 8 + 1))


def test_what_clients_send_cannot_make_the_records_grow_for_ever() -> None:
    records = Records()
    for number in range(MAX_RECORDS + 10):
        records.failed(OPENAI, f"{number}x8", 0.0)
    assert records.of(OPENAI, "0x8", 0.0).success == 1.0
    assert records.of(OPENAI, f"{MAX_RECORDS + 9}x8", 0.0).success < 1.0
