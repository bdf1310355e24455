"""Guards fair shares: who was away comes back level, what was served counts, and who left is forgotten in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine.shares import Shares


def shares_of(**served: float) -> Shares:
    """All of them wait, each with one job, after so much work."""
    shares = Shares()
    for caller in served:
        shares.join(caller)
    for caller, work in served.items():
        shares.charge(caller, work)
    return shares


def lead(shares: Shares, caller: str, waiting: Iterable[str]) -> float:
    """By how much the caller is ahead of the least served of those who wait."""
    return shares.lead_of(caller, shares.least_served(waiting))


def remembered(shares: Shares) -> set[str]:
    return set(shares._served)


def test_nobody_leads_before_any_work_is_done() -> None:
    assert lead(shares_of(a=0.0, b=0.0), "a", ["a", "b"]) == 0.0


def test_the_lead_is_the_work_ahead_of_the_least_served_who_waits() -> None:
    shares = shares_of(a=9.0, b=2.0, c=5.0)
    assert lead(shares, "a", ["a", "b", "c"]) == 7.0
    assert lead(shares, "a", ["a", "c"]) == 4.0
    assert lead(shares, "b", ["a", "b", "c"]) == 0.0


def test_a_caller_who_waits_alone_leads_nobody() -> None:
    shares = shares_of(a=9.0, b=2.0)
    assert lead(shares, "a", ["a"]) == 0.0
    assert lead(shares, "a", []) == 0.0


def test_the_lead_counts_all_work_of_all_jobs_of_a_caller() -> None:
    shares = shares_of(a=0.0, b=0.0)
    shares.join("a")
    for work in (1.0, 2.0, 3.0):
        shares.charge("a", work)
    assert lead(shares, "a", ["a", "b"]) == 6.0


def test_a_newcomer_joins_at_the_level_that_those_present_have_on_average() -> None:
    shares = shares_of(a=9.0, b=4.0)
    shares.join("new")
    assert lead(shares, "new", ["a", "b", "new"]) == 2.5
    assert lead(shares, "b", ["a", "b", "new"]) == 0.0
    assert lead(shares, "a", ["a", "b", "new"]) == 5.0


def test_the_time_away_gives_no_credit() -> None:
    shares = shares_of(a=0.0, b=0.0)
    shares.leave("b")
    shares.charge("a", 100.0)
    shares.join("b")
    assert lead(shares, "a", ["a", "b"]) == 0.0


def test_work_done_while_nobody_else_waited_is_no_debt() -> None:
    shares = shares_of(a=100.0)
    shares.leave("a")
    shares.join("b")
    shares.join("a")
    assert lead(shares, "a", ["a", "b"]) == 0.0


def test_leaving_and_coming_back_clears_no_debt() -> None:
    shares = shares_of(a=9.0, b=2.0)
    shares.leave("a")
    shares.join("a")
    assert lead(shares, "a", ["a", "b"]) == 7.0


def test_a_debt_is_gone_once_the_others_have_caught_up() -> None:
    shares = shares_of(a=9.0, b=2.0)
    shares.leave("a")
    shares.charge("b", 20.0)
    shares.join("a")
    assert lead(shares, "a", ["a", "b"]) == 0.0


def test_another_job_of_a_caller_who_waits_changes_nothing() -> None:
    shares = shares_of(a=9.0, b=2.0)
    shares.charge("b", 3.0)
    shares.join("b")
    assert lead(shares, "a", ["a", "b"]) == 4.0


def test_a_caller_is_away_only_when_its_last_job_is_settled() -> None:
    shares = shares_of(a=0.0, b=0.0)
    shares.join("a")
    shares.leave("a")
    shares.charge("b", 9.0)
    shares.join("new")
    assert lead(shares, "new", ["a", "new"]) == 4.5
    assert lead(shares, "b", ["a", "b", "new"]) == 9.0


def test_a_caller_who_left_and_is_level_is_forgotten() -> None:
    shares = Shares()
    for number in range(1000):
        shares.join(f"caller {number}")
        shares.charge(f"caller {number}", 5.0)
        shares.leave(f"caller {number}")
    assert remembered(shares) == set()


def test_a_caller_who_left_ahead_is_remembered_until_the_others_have_caught_up() -> None:
    shares = shares_of(a=9.0, b=2.0, c=2.0)
    shares.leave("a")
    assert remembered(shares) == {"a", "b", "c"}
    shares.charge("b", 20.0)
    shares.charge("c", 20.0)
    shares.leave("c")
    assert remembered(shares) == {"b"}


def test_many_callers_who_come_and_go_beside_a_steady_one_are_forgotten_as_it_is_served() -> None:
    shares = shares_of(steady=0.0)
    for number in range(1000):
        shares.join(f"caller {number}")
        shares.charge(f"caller {number}", 5.0)
        shares.charge("steady", 5.0)
        shares.leave(f"caller {number}")
    assert remembered(shares) == {"steady"}


TOLERANCE = 1e-6
ACTS = st.lists(st.tuples(st.sampled_from(["join", "leave", "charge"]), st.sampled_from("abcd"), st.integers(0, 50)))


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTS)
def test_whoever_comes_and_goes_nobody_comes_back_with_credit_or_loses_a_debt(acts: list[tuple[str, str, int]]) -> None:
    shares, jobs = Shares(), Counter[str]()
    for act, caller, work in acts:
        others = {one for one in jobs if jobs[one] and one != caller}
        if act == "join":
            shares.join(caller)
            jobs[caller] += 1
            if jobs[caller] == 1 and others:
                assert lead(shares, caller, others) >= -TOLERANCE
        elif act == "leave" and jobs[caller]:
            before = lead(shares, caller, others)
            shares.leave(caller)
            jobs[caller] -= 1
            assert lead(shares, caller, others) >= before - TOLERANCE
        elif act == "charge" and jobs[caller]:
            before = lead(shares, caller, others)
            shares.charge(caller, float(work))
            assert not others or abs(lead(shares, caller, others) - before - work) <= TOLERANCE
