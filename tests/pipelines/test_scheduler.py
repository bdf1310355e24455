"""Guards the choice of the next step: one model and one key in every batch, led by the job that came first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.engine.scheduler import Candidate, next_batch


def job(
    job_id: str, *, model: str = "m", phase: str = "denoise", key: object = 1, runs_alone: bool = False
) -> Candidate:
    return Candidate(job_id, model, phase, key, runs_alone)


def test_no_candidates_make_no_batch() -> None:
    assert next_batch([], 4) == ()


def test_alike_jobs_share_a_batch_in_order_of_arrival() -> None:
    assert next_batch([job("b"), job("a"), job("c")], 4) == ("b", "a", "c")


def test_a_batch_is_no_larger_than_its_limit() -> None:
    assert next_batch([job("a"), job("b"), job("c")], 2) == ("a", "b")


def test_the_leader_works_though_the_limit_is_one() -> None:
    assert next_batch([job("a"), job("b")], 1) == ("a",)


def test_jobs_of_another_model_phase_or_key_wait() -> None:
    others = [job("x", model="n"), job("y", phase="decode"), job("z", key=2)]
    assert next_batch([job("a"), *others, job("b")], 8) == ("a", "b")


def test_keys_are_compared_by_value() -> None:
    assert next_batch([job("a", key=(64, 64, 2)), job("b", key=(64, 64, 2))], 8) == ("a", "b")


def test_a_job_that_is_not_prepared_shares_with_nobody() -> None:
    assert next_batch([job("a", key=None), job("b", key=None)], 8) == ("a",)


def test_a_job_that_runs_alone_is_its_own_batch() -> None:
    assert next_batch([job("a", runs_alone=True), job("b")], 8) == ("a",)


def test_a_job_that_runs_alone_joins_no_other() -> None:
    assert next_batch([job("a"), job("b", runs_alone=True), job("c")], 8) == ("a", "c")


def test_the_first_come_is_served_though_a_larger_batch_waits() -> None:
    assert next_batch([job("a", key=9), job("b"), job("c"), job("d")], 8) == ("a",)


CANDIDATES = st.lists(
    st.builds(
        job,
        st.uuids().map(str),
        model=st.sampled_from(["m", "n"]),
        phase=st.sampled_from(["denoise", "decode"]),
        key=st.none() | st.sampled_from([1, 2, (1, 2)]),
        runs_alone=st.booleans(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda candidate: candidate.job_id,
)


@settings(max_examples=300, deadline=None, database=None)
@given(CANDIDATES, st.integers(1, 8))
def test_every_batch_is_alike_led_by_the_first_and_as_full_as_it_can_be(
    candidates: list[Candidate], job_limit: int
) -> None:
    batch = next_batch(candidates, job_limit)
    leader = candidates[0]
    chosen = [candidate for candidate in candidates if candidate.job_id in batch]

    assert batch == tuple(candidate.job_id for candidate in chosen)
    assert batch[0] == leader.job_id
    assert len(batch) <= job_limit
    assert {(one.model, one.phase, one.key) for one in chosen} == {(leader.model, leader.phase, leader.key)}
    if leader.key is None or leader.runs_alone:
        assert chosen == [leader]
        return
    assert not any(one.runs_alone for one in chosen)
    could_share = [
        one
        for one in candidates
        if (one.model, one.phase, one.key) == (leader.model, leader.phase, leader.key) and not one.runs_alone
    ]
    assert chosen == could_share[:job_limit]


@settings(max_examples=100, deadline=None, database=None)
@given(CANDIDATES, st.integers(1, 8))
def test_serving_batch_after_batch_serves_every_job_once(candidates: list[Candidate], job_limit: int) -> None:
    waiting, served = list(candidates), list[str]()
    while waiting:
        batch = next_batch(waiting, job_limit)
        served += batch
        waiting = [one for one in waiting if one.job_id not in batch]
    assert sorted(served) == sorted(one.job_id for one in candidates)
