"""Guards who works next: by fair shares, least work left and memory in the fair policy, in turn in the baseline."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import fifo, scheduler
from pipelines.engine.candidate import Candidate, Phase, Situation
from pipelines.engine.scheduler import AGEING_SECONDS, BURST_WORK
from pipelines.engine.shares import Shares
from tests.pipelines.simulation import PIXELS, WORK_PER_SECOND, Device, Job, Policy, known_mix

POLICIES = [fifo.next_batch, scheduler.next_batch]
BURST_SECONDS = BURST_WORK / WORK_PER_SECOND
# Too slow says nothing on a machine that is busy.
PROPERTY = settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def candidate(
    job_id: str,
    work_left: float = 1.0,
    *,
    caller: str = "a",
    model: str = "m",
    phase: Phase = Phase.DENOISE,
    key: Hashable = None,
    rows: int = 1,
    arrived_seconds: float = 0.0,
    size: Hashable = None,
    footprint_bytes: int = 0,
    request_key: Hashable = None,
    priority: int = 0,
    is_admitted: bool | None = None,
    runs_alone: bool = False,
) -> Candidate:
    return Candidate(
        job_id=job_id,
        caller=caller,
        model=model,
        phase=phase,
        key=key,
        rows=rows,
        work_left=work_left,
        arrived_seconds=arrived_seconds,
        size=size,
        denoise_rows=rows,
        footprint_bytes=footprint_bytes,
        request_key=request_key,
        priority=priority,
        is_admitted=phase is not Phase.PREPARE if is_admitted is None else is_admitted,
        runs_alone=runs_alone,
    )


def situation(
    *,
    now_seconds: float = 0.0,
    served: dict[str, float] | None = None,
    memory_left_bytes: int | None = None,
    last_model: str | None = None,
    row_cap: int = 8,
    switch_work: float = 0.0,
) -> Situation:
    shares = Shares()
    for caller in served or {}:
        shares.join(caller)
    for caller, work in (served or {}).items():
        shares.charge(caller, work)
    return Situation(now_seconds, shares, memory_left_bytes, last_model, lambda _: row_cap, switch_work)


def fair(*candidates: Candidate, told: Situation | None = None) -> tuple[str, ...]:
    return scheduler.next_batch(candidates, told or situation())


def first_come(*candidates: Candidate, told: Situation | None = None) -> tuple[str, ...]:
    return fifo.next_batch(candidates, told or situation())


def checked(policy: Policy) -> Policy:
    """The policy, with each of its choices held against what every batch must be."""

    def choose(candidates: Sequence[Candidate], told: Situation) -> tuple[str, ...]:
        batch = policy(candidates, told)
        by_id = {one.job_id: one for one in candidates}
        chosen = [by_id[job_id] for job_id in batch]
        leader = chosen[0]
        assert len(set(batch)) == len(batch)
        assert {(one.model, one.phase, one.key) for one in chosen} == {(leader.model, leader.phase, leader.key)}
        assert len(batch) == 1 or sum(one.rows for one in chosen) <= told.row_cap(leader)
        assert len(batch) == 1 or not any(one.runs_alone for one in chosen)
        if told.memory_left_bytes is not None:
            newly_held_bytes = sum(one.footprint_bytes for one in chosen if not one.is_admitted)
            assert newly_held_bytes <= told.memory_left_bytes or newly_held_bytes == 0
        return batch

    return choose


def short_jobs(steps: int, load: float, until_seconds: float, *, pixels: int, caller: str | None) -> Iterator[Job]:
    """Short jobs that arrive evenly and alone make up this load; each of a caller of its own if None."""
    seconds_between = Job("", steps, pixels=pixels).work_left() / WORK_PER_SECOND / load
    for number in range(int(until_seconds / seconds_between)):
        name = f"short {number:05}"
        yield Job(name, steps, caller or name, pixels=pixels, arrived_seconds=number * seconds_between)


def seconds_alone(job: Job) -> float:
    return job.work_left() / WORK_PER_SECOND


def test_no_candidates_make_no_batch() -> None:
    assert fair() == first_come() == ()


def test_the_job_with_the_least_work_left_leads() -> None:
    assert fair(candidate("long", 9.0), candidate("short", 2.0), candidate("middle", 5.0))[0] == "short"


def test_alike_jobs_share_a_batch_the_most_urgent_first() -> None:
    assert fair(candidate("c", 3.0), candidate("a", 1.0), candidate("b", 2.0)) == ("a", "b", "c")


def test_equal_jobs_work_in_order_of_arrival() -> None:
    late, early = candidate("late", arrived_seconds=2.0), candidate("early", arrived_seconds=1.0)
    assert fair(late, early, told=situation(row_cap=1)) == ("early",)


def test_a_job_that_waits_long_comes_first() -> None:
    old, fresh = candidate("old", 10.0), candidate("fresh", 4.0, arrived_seconds=20 * AGEING_SECONDS)
    assert fair(old, fresh, told=situation(now_seconds=20 * AGEING_SECONDS, row_cap=1)) == ("old",)


def test_a_job_that_has_waited_the_time_of_ageing_counts_half_its_work() -> None:
    told = situation(now_seconds=AGEING_SECONDS, row_cap=1)
    fresh = candidate("fresh", 5.0, arrived_seconds=AGEING_SECONDS)
    assert fair(candidate("old", 9.9), fresh, told=told) == ("old",)
    assert fair(candidate("old", 10.1), fresh, told=told) == ("fresh",)


def test_a_clock_that_goes_back_makes_nobody_less_urgent() -> None:
    early, late = candidate("early", 2.0, arrived_seconds=500.0), candidate("late", 1.0, arrived_seconds=1000.0)
    assert fair(early, late, told=situation(now_seconds=0.0, row_cap=1)) == ("late",)


def test_a_step_of_priority_counts_the_work_half() -> None:
    told = situation(row_cap=1)
    assert fair(candidate("urgent", 9.9, priority=1), candidate("plain", 5.0), told=told) == ("urgent",)
    assert fair(candidate("urgent", 10.1, priority=1), candidate("plain", 5.0), told=told) == ("plain",)
    assert fair(candidate("idle", 5.0, priority=-1), candidate("plain", 9.9), told=told) == ("plain",)


def test_a_caller_within_the_burst_may_finish_its_shorter_job() -> None:
    told = situation(served={"a": BURST_WORK, "b": 0.0}, row_cap=1)
    assert fair(candidate("short", 1.0, caller="a"), candidate("long", 9.0, caller="b"), told=told) == ("short",)


def test_a_caller_beyond_the_burst_waits_for_the_least_served() -> None:
    told = situation(served={"a": BURST_WORK + 1, "b": 0.0}, row_cap=1)
    assert fair(candidate("short", 1.0, caller="a"), candidate("long", 9.0, caller="b"), told=told) == ("long",)


def test_a_caller_beyond_the_burst_works_when_nobody_else_waits() -> None:
    assert fair(candidate("a"), told=situation(served={"a": 9 * BURST_WORK, "b": 0.0})) == ("a",)


def test_a_caller_beyond_the_burst_still_fills_the_rows_that_are_left() -> None:
    told = situation(served={"a": BURST_WORK + 1, "b": 0.0})
    assert fair(candidate("x", 1.0, caller="a"), candidate("y", 9.0, caller="b"), told=told) == ("y", "x")


def test_going_over_to_another_model_has_its_price() -> None:
    told = situation(last_model="m", switch_work=3.0)
    assert fair(candidate("stay", 5.0), candidate("switch", 2.1, model="n"), told=told) == ("stay",)
    assert fair(candidate("stay", 5.0), candidate("switch", 1.9, model="n"), told=told) == ("switch",)


def test_the_first_model_of_all_has_no_price() -> None:
    told = situation(last_model=None, switch_work=3.0)
    assert fair(candidate("urgent", 10.1, priority=1), candidate("plain", 5.0, model="n"), told=told) == ("plain",)


def test_a_price_on_switching_makes_models_take_turns() -> None:
    def switches(switch_work: float) -> int:
        models = list[str]()

        def choose(candidates: Sequence[Candidate], told: Situation) -> tuple[str, ...]:
            batch = scheduler.next_batch(candidates, told)
            models.extend(one.model for one in candidates if one.job_id == batch[0])
            return batch

        jobs = [Job(f"{n:02}", 9 + n % 3, model="mn"[n % 2], arrived_seconds=n / 10) for n in range(40)]
        Device(choose, switch_work=switch_work).serve(jobs)
        return sum(one != other for one, other in pairwise(models))

    assert switches(8.0 * PIXELS) < switches(0.0) / 2


@pytest.mark.parametrize("policy", POLICIES)
def test_jobs_of_another_model_phase_or_key_wait(policy: Policy) -> None:
    others = [candidate("x", model="n"), candidate("y", phase=Phase.DECODE), candidate("z", key=2)]
    batch = policy([candidate("a", key=1), *others, candidate("b", key=1)], situation())
    assert batch == ("a", "b")


@pytest.mark.parametrize("policy", POLICIES)
def test_keys_are_compared_by_value(policy: Policy) -> None:
    assert policy([candidate("a", key=(64, 2)), candidate("b", key=(64, 2))], situation()) == ("a", "b")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_that_runs_alone_shares_with_nobody(policy: Policy) -> None:
    assert policy([candidate("a", runs_alone=True), candidate("b")], situation()) == ("a",)
    assert policy([candidate("a"), candidate("b", runs_alone=True), candidate("c")], situation()) == ("a", "c")


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_never_exceed_the_cap_unless_the_leader_alone_does(policy: Policy) -> None:
    jobs = [candidate("a", rows=2), candidate("b", rows=2), candidate("c", rows=1)]
    assert policy(jobs, situation(row_cap=3)) == ("a", "c")
    assert policy(jobs, situation(row_cap=4)) == ("a", "b")
    assert policy(jobs, situation(row_cap=1)) == ("a",)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_that_does_not_fit_into_the_memory_left_waits(policy: Policy) -> None:
    large = candidate("large", phase=Phase.PREPARE, footprint_bytes=9)
    small = candidate("small", phase=Phase.PREPARE, footprint_bytes=3, arrived_seconds=1.0)
    assert policy([large], situation(memory_left_bytes=8)) == ()
    assert policy([large], situation(memory_left_bytes=9)) == ("large",)
    assert policy([large, small], situation(memory_left_bytes=9)) == ("large",)
    assert policy([large, small], situation(memory_left_bytes=11)) == ("large",)
    assert policy([large, small], situation(memory_left_bytes=12)) == ("large", "small")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_memory_of_all_mates_together_must_fit(policy: Policy) -> None:
    jobs = [candidate(name, phase=Phase.PREPARE, footprint_bytes=3) for name in "abc"]
    assert policy(jobs, situation(memory_left_bytes=8)) == ("a", "b")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_leader_that_holds_its_memory_takes_none_from_its_mates(policy: Policy) -> None:
    tried_before = candidate("a", phase=Phase.PREPARE, footprint_bytes=9, is_admitted=True)
    fresh = candidate("b", phase=Phase.PREPARE, footprint_bytes=3)
    assert policy([tried_before, fresh], situation(memory_left_bytes=3)) == ("a", "b")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_that_holds_its_memory_works_though_none_is_left(policy: Policy) -> None:
    assert policy([candidate("a", footprint_bytes=9)], situation(memory_left_bytes=0)) == ("a",)


def test_a_job_that_could_join_the_next_step_is_prepared_first() -> None:
    running, joining = candidate("running", 5.0), candidate("joining", 9.0, phase=Phase.PREPARE)
    assert fair(running, joining, told=situation(row_cap=2)) == ("joining",)
    assert fair(running, joining, told=situation(row_cap=1)) == ("running",)


def test_nobody_is_prepared_to_join_a_job_that_runs_alone() -> None:
    assert fair(candidate("alone", runs_alone=True), candidate("other", 9.0, phase=Phase.PREPARE)) == ("alone",)


def test_only_as_many_jobs_are_prepared_as_rows_are_free() -> None:
    joining = [candidate(f"joining {number}", 9.0, phase=Phase.PREPARE, rows=2) for number in range(4)]
    assert fair(candidate("running", rows=2), *joining, told=situation(row_cap=7)) == ("joining 0", "joining 1")


def test_what_could_not_join_the_next_step_is_not_prepared_for_it() -> None:
    running = candidate("running", size=(512, 512))
    other_size = candidate("x", 9.0, phase=Phase.PREPARE, size=(512, 768))
    other_model = candidate("y", 9.0, phase=Phase.PREPARE, size=(512, 512), model="n")
    alone = candidate("z", 9.0, phase=Phase.PREPARE, size=(512, 512), runs_alone=True)
    too_large = candidate("w", 9.0, phase=Phase.PREPARE, size=(512, 512), footprint_bytes=9)
    told = situation(memory_left_bytes=8)
    assert fair(running, other_size, other_model, alone, too_large, told=told) == ("running",)


def test_jobs_that_are_prepared_to_join_share_a_key() -> None:
    joining = [candidate(f"joining {key}", 9.0, phase=Phase.PREPARE, key=key) for key in (1, 2)]
    assert fair(candidate("running"), *joining) == ("joining 1",)


def test_first_come_is_first_served_whatever_its_work() -> None:
    first, second = candidate("first", 9.0, key=1), candidate("second", 1.0, key=2, arrived_seconds=1.0)
    assert first_come(second, first) == ("first",)


def test_a_request_that_has_begun_ends_before_the_next_begins() -> None:
    begun = candidate("begun", arrived_seconds=1.0)
    first = candidate("first", phase=Phase.PREPARE)
    assert first_come(first, begun) == ("begun",)


def test_the_baseline_batches_no_unequal_requests() -> None:
    jobs = [candidate("a", request_key=1), candidate("b", request_key=2), candidate("c", request_key=1)]
    assert first_come(*jobs) == ("a", "c")


def test_the_baseline_lets_nobody_join_on_the_way() -> None:
    assert first_come(candidate("ahead", 5.0), candidate("behind", 6.0)) == ("ahead",)


def keyed_by_size(one: Candidate) -> Candidate:
    """As the engine shows jobs: what is not prepared yet has no other key than its size."""
    return replace(one, key=one.size) if one.phase is Phase.PREPARE else one


CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.uuids().map(str),
        st.floats(1.0, 1e9),
        caller=st.sampled_from("abc"),
        model=st.sampled_from("mmmn"),
        phase=st.sampled_from([Phase.PREPARE, Phase.DENOISE]),
        key=st.integers(1, 2),
        rows=st.integers(1, 3),
        arrived_seconds=st.floats(0.0, 1e4),
        size=st.integers(1, 2),
        footprint_bytes=st.integers(0, 5),
        request_key=st.integers(1, 2),
        priority=st.integers(-2, 2),
        runs_alone=st.sampled_from([False, False, True]),
    ).map(keyed_by_size),
    min_size=1,
    max_size=10,
    unique_by=lambda one: one.job_id,
)
SITUATIONS = st.builds(
    situation,
    now_seconds=st.floats(0.0, 1e5),
    served=st.fixed_dictionaries({caller: st.floats(0.0, 3 * BURST_WORK) for caller in "abc"}),
    last_model=st.sampled_from([None, "m", "n"]),
    memory_left_bytes=st.none() | st.integers(5, 12),
    row_cap=st.integers(1, 8),
    switch_work=st.floats(0.0, 1e8),
)


@PROPERTY
@given(CANDIDATES, SITUATIONS, st.sampled_from(POLICIES))
def test_whatever_waits_a_batch_is_alike_and_within_its_bounds(
    candidates: list[Candidate], told: Situation, policy: Policy
) -> None:
    assert checked(policy)(candidates, told)


JOBS = st.lists(
    st.builds(
        Job,
        id=st.uuids().map(str),
        steps=st.integers(1, 6),
        caller=st.sampled_from("abc"),
        rows=st.integers(1, 2),
        pixels=st.sampled_from([PIXELS, 16 * PIXELS]),
        arrived_seconds=st.floats(0.0, 20.0),
        model=st.sampled_from("mn"),
        key=st.integers(1, 2),
        footprint_bytes=st.integers(0, 4),
        priority=st.integers(-2, 2),
        is_broken=st.sampled_from([False, False, True]),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda job: job.id,
)


@PROPERTY
@given(JOBS, st.sampled_from(POLICIES), st.integers(1, 6), st.none() | st.integers(4, 10))
def test_every_job_is_settled_once_and_every_batch_on_the_way_is_within_its_bounds(
    jobs: list[Job], policy: Policy, row_cap: int, memory_bytes: int | None
) -> None:
    device = Device(checked(policy), row_cap, memory_bytes, switch_work=4.0 * PIXELS)
    device.serve(jobs)
    assert sorted(device.settled) == sorted(job.id for job in jobs)


@PROPERTY
@given(JOBS, st.integers(1, 6))
def test_no_leader_is_of_a_caller_further_ahead_than_the_burst(jobs: list[Job], row_cap: int) -> None:
    def choose(candidates: Sequence[Candidate], told: Situation) -> tuple[str, ...]:
        batch = scheduler.next_batch(candidates, told)
        leader = next(one for one in candidates if one.job_id == batch[0])
        fills_a_step = leader.phase is Phase.PREPARE and row_cap > 1
        least = told.shares.least_served({one.caller for one in candidates})
        lead_work = told.shares.lead_of(leader.caller, least)
        assert lead_work <= BURST_WORK or fills_a_step
        return batch

    Device(choose, row_cap).serve(jobs)


@PROPERTY
@given(JOBS, st.integers(1, 6), st.none() | st.integers(4, 10))
def test_the_baseline_runs_whole_requests_in_order_of_arrival(
    jobs: list[Job], row_cap: int, memory_bytes: int | None
) -> None:
    begun_together = dict[str, tuple[str, ...]]()

    def choose(candidates: Sequence[Candidate], told: Situation) -> tuple[str, ...]:
        batch = fifo.next_batch(candidates, told)
        by_id = {one.job_id: one for one in candidates}
        if by_id[batch[0]].phase is Phase.PREPARE:
            assert not any(one.is_admitted for one in candidates)
            assert by_id[batch[0]].arrived_seconds == min(one.arrived_seconds for one in candidates)
            begun_together.update(dict.fromkeys(batch, batch))
        assert len({by_id[job_id].request_key for job_id in batch}) == 1
        assert set(batch) <= set(begun_together[batch[0]])
        return batch

    Device(choose, row_cap, memory_bytes).serve(jobs)


LONG_PIXELS = 4 * PIXELS


@settings(PROPERTY, max_examples=10)
@given(st.integers(20, 78), st.integers(2, 10), st.floats(0.9, 1.0), st.sampled_from(["a", None]))
def test_a_long_job_ends_though_short_ones_keep_the_device_busy(
    long_steps: int, short_steps: int, load: float, caller: str | None
) -> None:
    long, short = Job("long", long_steps, pixels=LONG_PIXELS), Job("short", short_steps, pixels=LONG_PIXELS)
    bound_seconds = AGEING_SECONDS * long.work_left() / short.work_left() + 4 * seconds_alone(long)
    shorts = short_jobs(short_steps, load, 1.5 * bound_seconds, pixels=LONG_PIXELS, caller=caller)
    device = Device(scheduler.next_batch)
    device.serve([long, *shorts], until_seconds=1.5 * bound_seconds)
    assert device.settled["long"] <= bound_seconds


def test_a_long_job_ends_soon_after_it_has_become_the_most_urgent() -> None:
    long, short = Job("long", 120, pixels=LONG_PIXELS), Job("short", 4, pixels=LONG_PIXELS)
    most_urgent_seconds = AGEING_SECONDS * (long.work_left() / short.work_left() - 1)
    bound_seconds = most_urgent_seconds + 2 * seconds_alone(long)
    device = Device(scheduler.next_batch)
    device.serve([long, *short_jobs(4, 1.0, 3600.0, pixels=LONG_PIXELS, caller="a")], until_seconds=3600.0)
    assert device.settled["long"] <= bound_seconds


def test_a_long_job_ends_though_more_short_ones_arrive_than_the_device_can_do() -> None:
    shorts = short_jobs(4, 1.5, 2000.0, pixels=2 * LONG_PIXELS, caller="a")
    device = Device(scheduler.next_batch)
    device.serve([Job("long", 120, pixels=2 * LONG_PIXELS), *shorts], until_seconds=2000.0)
    assert "long" in device.settled


def test_a_job_of_more_than_a_burst_ends_though_fresh_callers_keep_coming() -> None:
    shorts = short_jobs(4, 1.0, 3600.0, pixels=LONG_PIXELS, caller=None)
    device = Device(scheduler.next_batch)
    device.serve([Job("long", 120, pixels=LONG_PIXELS), *shorts], until_seconds=3600.0)
    assert "long" in device.settled


def test_a_job_that_needs_all_memory_ends_though_small_ones_keep_coming() -> None:
    small = [
        Job(f"{n:03}", (20, 21, 24)[n % 3], "b", footprint_bytes=1, arrived_seconds=max(0, n - 4) * 2.322)
        for n in range(200)
    ]
    device = Device(scheduler.next_batch, row_cap=4, memory_bytes=4)
    device.serve([Job("large", 20, footprint_bytes=4, arrived_seconds=5.0), *small])
    assert device.settled["large"] <= 5 * AGEING_SECONDS


def test_a_higher_priority_goes_first_but_a_low_one_still_ends() -> None:
    low = Job("low", 20, pixels=LONG_PIXELS, priority=-2)
    bound_seconds = 2**2 * AGEING_SECONDS + 4 * seconds_alone(low)
    device = Device(scheduler.next_batch)
    device.serve([low, *short_jobs(20, 1.0, 1200.0, pixels=LONG_PIXELS, caller="a")])
    assert device.settled["short 00000"] < device.settled["short 00001"] < device.settled["low"]
    assert device.settled["low"] <= bound_seconds


def worst_of_a_light_caller(policy: Policy) -> float:
    flood = [Job(f"flood {n:03}", 20, "flooder", arrived_seconds=n * 0.2155) for n in range(200)]
    light = [Job(f"light {n}", 20, "light", arrived_seconds=5.0 + 25.0 * n) for n in range(10)]
    device = Device(policy)
    device.serve([*flood, *light])
    return max(device.settled[job.id] - job.arrived_seconds for job in light)


def test_a_caller_who_floods_at_ten_times_the_capacity_delays_a_light_one_by_a_burst_at_most() -> None:
    alone_seconds = seconds_alone(Job("", 20))
    assert worst_of_a_light_caller(scheduler.next_batch) <= BURST_SECONDS + 2 * alone_seconds + 1.0
    assert worst_of_a_light_caller(fifo.next_batch) > 8 * BURST_SECONDS


def work_of_greedy_callers(row_cap: int) -> list[float]:
    """What each of four callers has got after 400 s, all of whom wanted more."""
    steps_by_caller = {"w": 10, "x": 20, "y": 60, "z": 120}
    jobs = [
        Job(f"{caller} {number}", steps, caller, pixels=LONG_PIXELS)
        for caller, steps in steps_by_caller.items()
        for number in range(800 // steps)
    ]
    device = Device(scheduler.next_batch, row_cap)
    device.serve(jobs, until_seconds=400.0)
    return list(device.served.values())


def test_each_of_several_greedy_callers_gets_about_equal_work() -> None:
    works = work_of_greedy_callers(row_cap=1)
    assert len(works) == 4
    assert max(works) - min(works) <= BURST_WORK + 2 * LONG_PIXELS


def test_each_of_several_greedy_callers_gets_about_equal_work_in_shared_batches() -> None:
    works = work_of_greedy_callers(row_cap=4)
    assert len(works) == 4
    assert max(works) - min(works) <= BURST_WORK + 8 * LONG_PIXELS


@pytest.mark.parametrize("caller_count", [1, 8])
def test_the_known_mix_is_slowed_down_far_less_than_by_the_baseline(caller_count: int) -> None:
    baseline = known_mix(fifo.next_batch, 2000, caller_count, seed=0)
    ours = known_mix(scheduler.next_batch, 2000, caller_count, seed=0)
    assert ours.mean <= baseline.mean / 6
    assert ours.p95 <= baseline.p95 / 8
    assert ours.worst <= baseline.worst
