"""Guards which models are where: within both budgets at every moment, nothing in use touched, nobody starved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import inf

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipelines.residency.holding import Budgets, Component, Holding, Move, Outlook, Plan, Rules, Tier, Wanted, Why
from pipelines.residency.plan import CALM_SECONDS, TURN_SWAPS, plan

DISK, HOST, DEVICE = Tier.DISK, Tier.HOST, Tier.DEVICE
NOW = 1000.0
# Too slow says nothing on a machine that is busy.
PROPERTY = settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def component(digest: str, size_bytes: int = 10) -> Component:
    """One that takes a second from disk, and a tenth from host memory, per ten bytes."""
    return Component(digest, size_bytes, load_seconds=size_bytes / 10, promote_seconds=size_bytes / 100)


def model(
    name: str,
    *shared: Component,
    size_bytes: int = 10,
    leased: bool = False,
    loaded: float = 0.0,
    used: float = 0.0,
) -> Holding:
    """A model with a denoiser of its own, and what it shares with others."""
    return Holding(name, (component(f"{name}.unet", size_bytes), *shared), leased, loaded, used)


def at(tier: Tier, *models: Holding) -> dict[str, Tier]:
    return {one.digest: tier for model in models for one in model.components}


def outlook(
    *models: Holding,
    places: Mapping[str, Tier],
    device: int,
    host: int = 0,
    wanted: Sequence[str | Wanted] = (),
    pinned: str = "",
    keep: str = "",
    apart: Sequence[str] = (),
    moving: str = "",
    now: float = NOW,
) -> Outlook:
    """Models are named by single letters; pinned, keep, apart and moving are strings of them."""
    wants = tuple(Wanted(want, now) if isinstance(want, str) else want for want in wanted)
    rules = Rules(frozenset(pinned), frozenset(keep), tuple(map(frozenset, apart)))
    return Outlook(now, Budgets(device, host), models, places, wants, rules, frozenset(moving))


def spoken(decided: Plan) -> list[str]:
    """The moves as words: verb, model, and how many components."""
    return [f"{move.verb} {move.model} {len(move.digests)}" for move in decided.moves]


def used_bytes(told: Outlook, tier: Tier, places: Mapping[str, Tier], moving: Move | None = None) -> int:
    """Counted by other means than the plan's: what is in this tier now, or on its way from or to it."""
    sizes = {one.digest: one.size_bytes for model in told.models for one in model.components}
    there = {digest for digest, where in places.items() if where is tier}
    if moving and moving.target is tier:
        there |= set(moving.digests)
    return sum(sizes[digest] for digest in there) if tier is not DISK else 0


def residents(told: Outlook, places: Mapping[str, Tier]) -> set[str]:
    return {m.id for m in told.models if all(places.get(one.digest, DISK) is DEVICE for one in m.components)}


def clashes(told: Outlook, places: Mapping[str, Tier]) -> set[tuple[str, ...]]:
    """Every two models that are on the device and must not be so together."""
    pairs = combinations(sorted(residents(told, places)), 2)
    return {pair for pair in pairs if any(set(pair) <= group for group in told.rules.never_together)}


def is_within(told: Outlook, places: Mapping[str, Tier], moving: Move | None = None) -> bool:
    device, host = told.budgets.device_bytes, told.budgets.host_bytes
    return used_bytes(told, DEVICE, places, moving) <= device and used_bytes(told, HOST, places, moving) <= host


def untouchable(told: Outlook) -> set[str]:
    """The digests of what is leased, pinned on the device or moving."""
    there = residents(told, told.places)
    held = [m for m in told.models if m.is_leased or m.id in told.moving or m.id in told.rules.pinned & there]
    return {one.digest for m in held for one in m.components}


def after(told: Outlook, decided: Plan) -> dict[str, Tier]:
    """Carry the plan out, one move after the other, and hold each against what is promised of all."""
    places, began_within = dict(told.places), is_within(told, told.places)
    for move in decided.moves:
        own = next({one.digest for one in m.components} for m in told.models if m.id == move.model)
        assert move.digests
        assert set(move.digests) <= own
        assert {places.get(digest, DISK) for digest in move.digests} == {move.source}
        assert move.target is not move.source
        assert move.target is DEVICE or not set(move.digests) & untouchable(told)
        assert is_within(told, places, move) or not began_within
        places.update(dict.fromkeys(move.digests, move.target))
    return places


def settled(told: Outlook, rounds: int = 50) -> Outlook:
    """Plan and carry out, in no time, until nothing moves any more."""
    for _ in range(rounds):
        decided = plan(told)
        if not decided.moves:
            return told
        told = replace(told, places=after(told, decided))
    raise AssertionError("it never came to rest")


# One decision


def test_nothing_moves_when_nothing_is_wanted() -> None:
    a, b = model("a"), model("b")
    assert plan(outlook(a, b, places=at(DEVICE, a), device=10)) == Plan()


def test_nothing_moves_when_all_that_is_wanted_is_there() -> None:
    a, b = model("a"), model("b")
    assert plan(outlook(a, b, places=at(DEVICE, a, b), device=20, wanted="ab")) == Plan()


def test_a_wanted_model_is_loaded_from_disk_into_free_room() -> None:
    a, b = model("a"), model("b")
    decided = plan(outlook(a, b, places=at(DEVICE, a), device=20, wanted="b"))
    assert decided.moves == (Move("b", ("b.unet",), DISK, DEVICE),)
    assert (decided.coming, decided.leaving, decided.refusals) == ("b", frozenset(), {})


def test_a_wanted_model_comes_from_host_memory_where_it_is_there() -> None:
    a = model("a")
    assert spoken(plan(outlook(a, places=at(HOST, a), device=10, host=10, wanted="a"))) == ["promote a 1"]


def test_each_component_comes_from_where_it_is() -> None:
    t5 = component("t5", 40)
    a = model("a", t5)
    assert spoken(plan(outlook(a, places={"t5": HOST}, device=50, host=40, wanted="a"))) == ["promote a 1", "load a 1"]


def test_an_idle_model_makes_room_and_goes_to_host_memory() -> None:
    a, b = model("a"), model("b")
    decided = plan(outlook(a, b, places=at(DEVICE, a), device=10, host=10, wanted="b"))
    assert spoken(decided) == ["demote a 1", "load b 1"]
    assert decided.leaving == {"a"}


def test_without_room_in_host_memory_a_model_is_dropped() -> None:
    a, b = model("a"), model("b")
    assert spoken(plan(outlook(a, b, places=at(DEVICE, a), device=10, host=9, wanted="b"))) == ["drop a 1", "load b 1"]


def test_host_memory_is_cleared_of_what_is_worth_less() -> None:
    a, b, old = model("a", used=900.0), model("b"), model("c", used=100.0)
    places = at(DEVICE, a) | at(HOST, old)
    told = outlook(a, b, old, places=places, device=10, host=10, wanted="b")
    assert spoken(plan(told)) == ["drop c 1", "demote a 1", "load b 1"]


def test_host_memory_keeps_what_is_worth_more_than_the_newcomer() -> None:
    a, b, fresh = model("a", used=100.0), model("b"), model("c", used=900.0)
    told = outlook(a, b, fresh, places=at(DEVICE, a) | at(HOST, fresh), device=10, host=10, wanted="b")
    assert spoken(plan(told)) == ["drop a 1", "load b 1"]


def test_a_wanted_model_is_not_dropped_from_host_memory_for_one_that_nothing_waits_for() -> None:
    a, b, c = model("a", used=999.0), model("b"), model("c", used=1.0)
    wanted = [Wanted("b", 0.0), Wanted("c", NOW)]
    told = outlook(a, b, c, places=at(DEVICE, a) | at(HOST, c), device=10, host=10, wanted=wanted)
    assert spoken(plan(told)) == ["drop a 1", "load b 1"]


def test_the_room_in_host_memory_that_the_coming_model_takes_is_free_only_once_it_has_come() -> None:
    a, b = model("a", used=999.0), model("b", used=1.0)
    told = outlook(a, b, places=at(DEVICE, a) | at(HOST, b), device=10, host=10, wanted="b")
    assert spoken(plan(told)) == ["drop a 1", "promote b 1"]


def test_a_model_that_nothing_waits_for_leaves_before_one_that_jobs_wait_for() -> None:
    idle, busy, b = model("a", used=999.0), model("c", used=1.0), model("b")
    told = outlook(idle, busy, b, places=at(DEVICE, idle, busy), device=20, wanted=[Wanted("c", 0.0), Wanted("b", 0.0)])
    assert plan(told).leaving == {"a"}


def test_the_model_used_longest_ago_leaves_when_reloading_costs_the_same() -> None:
    old, fresh, b = model("a", used=100.0), model("c", used=900.0), model("b")
    assert plan(outlook(old, fresh, b, places=at(DEVICE, old, fresh), device=20, wanted="b")).leaving == {"a"}


def test_a_model_that_is_dear_to_reload_stays_although_it_is_idle_for_longer() -> None:
    slow = Holding("a", (Component("a.unet", 10, load_seconds=60.0),), used_seconds=NOW - 50)
    quick = Holding("c", (Component("c.unet", 10, load_seconds=1.0),), used_seconds=NOW - 10)
    b = model("b")
    assert plan(outlook(slow, quick, b, places=at(DEVICE, slow, quick), device=20, wanted="b")).leaving == {"c"}
    much_later = outlook(slow, quick, b, places=at(DEVICE, slow, quick), device=20, wanted="b", now=NOW * 1000)
    assert plan(replace(much_later, models=(slow, replace(quick, used_seconds=NOW * 999.9), b))).leaving == {"a"}


def test_a_small_model_stays_when_a_larger_one_has_to_leave_anyway() -> None:
    small, large, b = (
        model("a", size_bytes=2, used=1.0),
        model("c", size_bytes=20, used=900.0),
        model("b", size_bytes=20),
    )
    assert plan(outlook(small, large, b, places=at(DEVICE, small, large), device=22, wanted="b")).leaving == {"c"}


@pytest.mark.parametrize("pinned", [False, True])
def test_nothing_leaves_that_is_leased_or_pinned(pinned: bool) -> None:
    a, b = model("a", leased=not pinned), model("b")
    told = outlook(a, b, places=at(DEVICE, a), device=10, host=10, wanted="b", pinned="a" if pinned else "")
    assert plan(told).moves == ()
    assert plan(told).refusals == {"b": Why.PINNED if pinned else Why.BUSY}


def test_a_pinned_model_does_not_make_room_for_one_that_waits_for_leases_to_end() -> None:
    a, b, c = model("a"), model("b"), model("c", leased=True)
    decided = plan(outlook(a, b, c, places=at(DEVICE, a, c), device=20, wanted="b", pinned="a"))
    assert (decided.moves, decided.refusals) == ((), {"b": Why.BUSY})


def test_a_model_that_just_came_and_was_not_used_yet_is_not_taken_for_idle() -> None:
    a, b, c = model("a", loaded=NOW - 1, used=-inf), model("b"), model("c", used=NOW - 100)
    assert plan(outlook(a, b, c, places=at(DEVICE, a, c), device=20, wanted="b")).leaving == {"c"}


def test_a_model_larger_than_the_device_never_fits() -> None:
    a, b = model("a"), model("b", size_bytes=11)
    decided = plan(outlook(a, b, places=at(DEVICE, a), device=10, wanted="b"))
    assert decided == Plan(refusals={"b": Why.NEVER_FITS})


def test_who_never_fits_keeps_nobody_waiting() -> None:
    a, b = model("a"), model("b", size_bytes=11)
    decided = plan(outlook(a, b, places={}, device=10, wanted=[Wanted("b", 1.0), Wanted("a", 900.0)]))
    assert (decided.coming, decided.refusals) == ("a", {"b": Why.NEVER_FITS})


def test_the_measured_size_counts_not_the_estimate() -> None:
    files = Holding("a", (Component("a.unet", 20, is_estimate=True),))
    assert plan(outlook(files, places={}, device=10, wanted="a")).refusals == {"a": Why.NEVER_FITS}
    assert plan(outlook(model("a"), places={}, device=10, wanted="a")).coming == "a"


def test_until_it_is_measured_loading_is_taken_to_last_as_long_as_its_bytes_suggest() -> None:
    unknown = Component("x", 3_000_000_000, is_estimate=True)
    assert unknown.seconds_from(DISK) == 2.0
    assert unknown.seconds_from(HOST) == 0.2
    assert unknown.seconds_from(DEVICE) == 0.0
    measured = replace(unknown, load_seconds=9.0, promote_seconds=1.0)
    assert (measured.seconds_from(DISK), measured.seconds_from(HOST)) == (9.0, 1.0)


def test_models_that_measure_more_than_their_files_make_room_again() -> None:
    a, b = model("a", used=900.0), model("b", used=100.0)
    told = outlook(a, b, places=at(DEVICE, a, b), device=19, host=10)
    assert spoken(plan(told)) == ["demote b 1"]


def test_host_memory_that_holds_too_much_is_cleared() -> None:
    a, b = model("a", used=900.0), model("b", used=100.0)
    assert spoken(plan(outlook(a, b, places=at(HOST, a, b), device=10, host=19))) == ["drop b 1"]


def test_one_model_comes_at_a_time_and_the_others_stay_in_line() -> None:
    a, b = model("a"), model("b")
    decided = plan(outlook(a, b, places={}, device=20, wanted=[Wanted("a", 900.0), Wanted("b", 800.0)]))
    assert (decided.coming, decided.refusals) == ("b", {"a": Why.IN_LINE})


def test_nothing_is_planned_while_something_moves() -> None:
    a, b = model("a"), model("b")
    told = outlook(a, b, places={}, device=20, wanted="ab", moving="a")
    assert plan(told) == Plan(refusals={"a": Why.IN_LINE, "b": Why.IN_LINE})


def test_what_is_quick_to_come_and_done_soon_comes_first() -> None:
    a, b = model("a", size_bytes=10), model("b", size_bytes=100)
    assert plan(outlook(a, b, places={}, device=200, wanted="ba")).coming == "a"


def test_many_waiting_jobs_share_the_price_of_loading() -> None:
    a, b = model("a", size_bytes=50), model("b", size_bytes=100)
    wanted = [Wanted("a", NOW, jobs=1, work_seconds=1.0), Wanted("b", NOW, jobs=10, work_seconds=10.0)]
    assert plan(outlook(a, b, places={}, device=200, wanted=wanted)).coming == "b"


def test_waiting_outweighs_any_price_in_the_end() -> None:
    a, b = model("a", size_bytes=10), model("b", size_bytes=1000)
    wanted = [Wanted("a", NOW), Wanted("b", NOW - 600)]
    assert plan(outlook(a, b, places={}, device=2000, wanted=wanted)).coming == "b"


# Shared components


def test_a_shared_component_is_counted_once() -> None:
    t5 = component("t5", 40)
    a, b = model("a", t5), model("b", t5)
    decided = plan(outlook(a, b, places=at(DEVICE, a), device=60, wanted="b"))
    assert decided.moves == (Move("b", ("b.unet",), DISK, DEVICE),)


def test_what_the_coming_model_shares_with_the_leaving_one_stays_where_it_is() -> None:
    t5, vae = component("t5", 40), component("vae", 1)
    a, b = model("a", t5, vae), model("b", t5, vae)
    decided = plan(outlook(a, b, places=at(DEVICE, a), device=51, host=100, wanted="b"))
    assert decided.moves == (Move("a", ("a.unet",), DEVICE, HOST), Move("b", ("b.unet",), DISK, DEVICE))


def test_a_shared_component_leaves_with_its_last_holder() -> None:
    t5 = component("t5", 40)
    a, b, c = model("a", t5, used=1.0), model("b", t5, used=2.0), model("c", size_bytes=60)
    told = outlook(a, b, c, places=at(DEVICE, a, b), device=60, host=60, wanted="c")
    assert spoken(plan(told)) == ["demote a 1", "demote b 2", "load c 1"]


def test_two_entries_over_the_same_weights_leave_together() -> None:
    weights = component("weights", 10)
    a, b, c = Holding("a", (weights,)), Holding("b", (weights,)), model("c")
    decided = plan(outlook(a, b, c, places=at(DEVICE, a), device=10, host=10, wanted="c"))
    assert decided.leaving == {"a", "b"}
    assert after(outlook(a, b, c, places=at(DEVICE, a), device=10, host=10), decided)["weights"] is HOST


def test_a_component_that_a_model_in_host_memory_needs_goes_there_when_its_holder_is_dropped() -> None:
    t5 = component("t5", 5)
    a, b, c = model("a", t5, size_bytes=50), model("b", t5, used=999.0), model("c", size_bytes=55)
    places = at(DEVICE, a) | {"b.unet": HOST}
    decided = plan(outlook(a, b, c, places=places, device=55, host=20, wanted="c"))
    assert decided.moves[:2] == (Move("a", ("a.unet",), DEVICE, DISK), Move("a", ("t5",), DEVICE, HOST))


def test_what_a_failed_load_left_behind_goes_first() -> None:
    a, b, c = model("a", component("vae", 10)), model("b"), model("c")
    decided = plan(outlook(a, b, c, places=at(DEVICE, b) | {"vae": DEVICE}, device=20, host=50, wanted="c"))
    assert spoken(decided) == ["drop a 1", "load c 1"]


# The operator's rules


def test_models_that_must_never_be_together_displace_each_other_whatever_room_there_is() -> None:
    a, b, c = model("a"), model("b"), model("c", used=NOW)
    decided = plan(outlook(a, b, c, places=at(DEVICE, a, c), device=100, host=100, wanted="b", apart=["ab"]))
    assert spoken(decided) == ["demote a 1", "load b 1"]


def test_a_model_that_must_never_be_with_a_pinned_one_is_refused() -> None:
    a, b = model("a"), model("b")
    told = outlook(a, b, places=at(DEVICE, a), device=100, wanted="b", pinned="a", apart=["ab"])
    assert plan(told).refusals == {"b": Why.PINNED}


def test_models_that_were_together_before_it_was_forbidden_are_in_nobody_elses_way() -> None:
    a, b, c = model("a", leased=True), model("b"), model("c", leased=True)
    assert plan(outlook(a, b, c, places=at(DEVICE, a, c), device=30, wanted="b", apart=["ac"])).coming == "b"


def test_pinned_models_come_before_all_others_though_nothing_waits_for_them() -> None:
    a, b = model("a"), model("b")
    decided = plan(outlook(a, b, places={}, device=20, wanted=[Wanted("a", 1.0)], pinned="b"))
    assert (decided.coming, decided.refusals) == ("b", {"a": Why.IN_LINE})


def test_a_model_to_be_kept_loaded_comes_when_nothing_waits() -> None:
    a, b = model("a"), model("b")
    told = outlook(a, b, places={}, device=20, wanted="b", keep="a")
    assert [plan(told).coming, residents(told, settled(told).places)] == ["b", {"a", "b"}]


def test_a_model_to_be_kept_loaded_leaves_last_of_the_idle_but_leaves() -> None:
    a, b, c = model("a", used=1.0), model("b", used=999.0), model("c", size_bytes=20)
    places = at(DEVICE, a, b)
    assert plan(outlook(a, b, model("c"), places=places, device=20, wanted="c", keep="a")).leaving == {"b"}
    assert plan(outlook(a, b, c, places=places, device=20, wanted="c", keep="a")).leaving == {"a", "b"}


def test_a_model_to_be_kept_loaded_displaces_only_what_is_calm_and_need_not_be_kept() -> None:
    a, b = model("a"), model("b", used=NOW - CALM_SECONDS)
    assert plan(outlook(a, b, places=at(DEVICE, b), device=10, keep="a")).coming == "a"
    fresh = model("b", used=NOW - CALM_SECONDS + 1)
    assert plan(outlook(a, fresh, places=at(DEVICE, b), device=10, keep="a")).moves == ()
    assert plan(outlook(a, b, places=at(DEVICE, b), device=10, keep="ab")).moves == ()
    assert plan(outlook(a, b, places=at(DEVICE, b), device=10, keep="a", wanted="b")).moves == ()


# Turns


def turns(since: float, *, served: bool = True, leased: bool = False, loaded: float = 900.0) -> Plan:
    """Jobs wait for a, which is there, and since then for b, which needs its room; going over costs 2 seconds."""
    a, b = model("a", loaded=loaded, used=loaded + 5 if served else loaded - 5, leased=leased), model("b")
    return plan(outlook(a, b, places=at(DEVICE, a), device=10, wanted=[Wanted("a", 990.0), Wanted("b", since)]))


TURN_SECONDS = TURN_SWAPS * 2


def test_a_model_with_waiting_work_stays_until_the_other_has_waited_for_a_turn() -> None:
    assert turns(NOW - TURN_SECONDS + 0.1).refusals == {"b": Why.BUSY}
    assert turns(NOW - TURN_SECONDS).leaving == {"a"}


def test_a_model_that_just_came_has_its_turn_however_long_the_other_has_waited() -> None:
    assert turns(0.0, loaded=NOW - TURN_SECONDS + 0.1).refusals == {"b": Why.BUSY}
    assert turns(0.0, loaded=NOW - TURN_SECONDS).leaving == {"a"}


def test_a_model_that_came_for_waiting_work_does_not_leave_before_it_has_served() -> None:
    assert turns(0.0, served=False).refusals == {"b": Why.BUSY}
    assert turns(0.0, served=True).leaving == {"a"}


def test_when_its_turn_is_over_a_model_takes_no_new_jobs_and_leaves_with_the_last_lease() -> None:
    waiting = turns(0.0, leased=True)
    assert waiting == Plan(draining=frozenset("a"), refusals={"b": Why.BUSY})
    assert turns(NOW - 1, leased=True).draining == frozenset()
    assert turns(0.0, leased=False).leaving == {"a"}


def test_nobody_drains_for_a_model_that_would_not_fit_even_then() -> None:
    a, b, c = model("a", leased=True, used=5.0), model("b", leased=True, used=-inf), model("c", size_bytes=20)
    wanted = [Wanted("a", 0.0), Wanted("b", 0.0), Wanted("c", 0.0)]
    assert plan(outlook(a, b, c, places=at(DEVICE, a, b), device=20, wanted=wanted)).draining == frozenset()


def test_another_model_comes_meanwhile_only_where_it_will_not_be_in_the_way() -> None:
    a, big = model("a", leased=True), model("b", size_bytes=95)
    beside, in_the_way = model("c", size_bytes=5), model("d", size_bytes=6)
    wanted = [Wanted("b", 0.0), Wanted("c", NOW), Wanted("d", NOW)]
    told = outlook(a, big, beside, in_the_way, places=at(DEVICE, a), device=100, wanted=wanted)
    assert plan(told).coming == "c"
    without_c = plan(replace(told, wanted=(Wanted("b", 0.0), Wanted("d", NOW))))
    assert (without_c.coming, without_c.refusals) == (None, {"b": Why.BUSY, "d": Why.IN_LINE})


def test_draining_goes_on_while_another_model_moves() -> None:
    a, b, c = model("a", leased=True, used=5.0), model("b"), model("c", size_bytes=1)
    wanted = [Wanted("a", 0.0), Wanted("b", 0.0)]
    told = outlook(a, b, c, places=at(DEVICE, a), device=11, wanted=wanted, moving="c")
    assert plan(told).draining == {"a"}


# Whatever is asked


SHARED = [component("t5", 9), component("vae", 1), component("clip", 3)]
RARELY = st.sampled_from([False, False, False, True])


@st.composite
def some_models(draw: st.DrawFn) -> tuple[Holding, ...]:
    """Most have a denoiser of their own, some use the same one, and they share the rest in all ways."""
    denoisers = [component(f"unet {number}", draw(st.integers(2, 20))) for number in range(5)]
    models = []
    for number, name in enumerate("abcde"[: draw(st.integers(2, 5))]):
        denoiser = denoisers[draw(st.integers(0, number)) if draw(RARELY) else number]
        shared: list[Component] = draw(st.lists(st.sampled_from(SHARED), max_size=3, unique=True))
        is_its_own = not draw(RARELY) or not shared
        models.append(Holding(name, (denoiser, *shared) if is_its_own else tuple(shared)))
    return tuple(models)


@st.composite
def some_rules(draw: st.DrawFn, names: Sequence[str]) -> Rules:
    some = st.sampled_from([frozenset[str](), *(frozenset({name}) for name in names)])
    apart = st.lists(st.frozensets(st.sampled_from(names), min_size=2, max_size=3), max_size=2)
    pinned, keep = (draw(some) | draw(some) if draw(RARELY) else frozenset[str]() for _ in range(2))
    return Rules(pinned, keep, tuple(draw(apart)) if draw(RARELY) else ())


MOMENT = st.one_of(st.just(-inf), st.floats(0.0, NOW))


@st.composite
def some_places(draw: st.DrawFn, models: Sequence[Holding]) -> dict[str, Tier]:
    """As after many plans, and now and then with what failed loads left behind."""
    places: dict[str, Tier] = {}
    for model in models:
        tier = draw(st.sampled_from(Tier))
        for one in model.components:
            places[one.digest] = max(tier, places.get(one.digest, DISK))
    for digest in sorted(places):
        places[digest] = draw(st.sampled_from(Tier)) if draw(RARELY) and draw(RARELY) else places[digest]
    return places


@st.composite
def some_use(draw: st.DrawFn, model: Holding, is_there: bool) -> Holding:
    loaded, used = draw(MOMENT), draw(MOMENT)
    return replace(model, is_leased=is_there and draw(RARELY), loaded_seconds=loaded, used_seconds=used)


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook:
    """Anything that may be found within its budgets, and these are tight."""
    models = draw(some_models())
    names = [one.id for one in models]
    told = Outlook(NOW, Budgets(0, 0), models, draw(some_places(models)), rules=draw(some_rules(names)))
    least = [used_bytes(told, tier, told.places) for tier in (DEVICE, HOST)]
    least[0] = max(least[0], used_bytes(told, DEVICE, at(DEVICE, draw(st.sampled_from(models)))))
    there = residents(told, told.places)
    wanted = [
        Wanted(name, draw(st.floats(0.0, NOW)), draw(st.integers(1, 9)), draw(st.floats(0.0, 99.0)))
        for name in names
        if draw(st.booleans())
    ]
    return replace(
        told,
        budgets=Budgets(least[0] + draw(st.integers(0, 9)), least[1] + draw(st.integers(0, 30))),
        models=tuple(draw(some_use(one, one.id in there)) for one in models),
        wanted=tuple(wanted),
    )


@PROPERTY
@given(outlooks())
def test_whatever_is_asked_budgets_hold_at_every_moment_and_nothing_in_use_moves(told: Outlook) -> None:
    after(told, plan(told))


@PROPERTY
@given(outlooks())
def test_the_coming_model_is_there_in_the_end_and_only_those_said_to_leave_are_not(told: Outlook) -> None:
    decided = plan(told)
    before, then = residents(told, told.places), residents(told, after(told, decided))
    assert before - then == decided.leaving
    assert decided.coming is None or decided.coming in then - before
    assert not decided.draining - before
    assert {move.model for move in decided.moves if move.target is DEVICE} <= {decided.coming}


@PROPERTY
@given(outlooks())
def test_models_that_must_never_be_together_never_come_together(told: Outlook) -> None:
    assert clashes(told, after(told, plan(told))) <= clashes(told, told.places)


@PROPERTY
@given(outlooks())
def test_nobody_leaves_for_a_model_that_fits_as_things_are(told: Outlook) -> None:
    decided = plan(told)
    assume(decided.coming is not None)
    (coming,) = (one for one in told.models if one.id == decided.coming)
    places = {**told.places, **at(DEVICE, coming)}
    if used_bytes(told, DEVICE, places) <= told.budgets.device_bytes and not clashes(told, places):
        assert decided.leaving == frozenset()
        assert {move.target for move in decided.moves} == {DEVICE}


@PROPERTY
@given(outlooks())
def test_none_of_those_who_leave_could_have_stayed(told: Outlook) -> None:
    decided = plan(told)
    then = after(told, decided)
    for name in decided.leaving:
        (model,) = (one for one in told.models if one.id == name)
        places = {**then, **at(DEVICE, model)}
        has_room = used_bytes(told, DEVICE, places) <= told.budgets.device_bytes
        assert not has_room or clashes(told, places) - clashes(told, told.places)


@PROPERTY
@given(outlooks())
def test_what_another_model_on_the_device_holds_stays_there(told: Outlook) -> None:
    decided = plan(told)
    staying = residents(told, told.places) - decided.leaving
    held = {one.digest for model in told.models if model.id in staying for one in model.components}
    assert not held & {digest for move in decided.moves if move.target is not DEVICE for digest in move.digests}


@PROPERTY
@given(outlooks())
def test_nothing_is_dropped_while_host_memory_has_room_for_all(told: Outlook) -> None:
    decided = plan(replace(told, budgets=replace(told.budgets, host_bytes=10_000)))
    dropped = {move.model for move in decided.moves if move.verb == "drop"}
    assert not dropped & {one.id for one in told.models if one.tier(told.places) > DISK}


@PROPERTY
@given(outlooks())
def test_nothing_moves_unless_something_should_come(told: Outlook) -> None:
    calm = replace(told, wanted=(), rules=replace(told.rules, pinned=frozenset(), keep_loaded=frozenset()))
    assert plan(calm) == Plan()
    there = residents(told, told.places)
    satisfied = replace(told, wanted=tuple(want for want in told.wanted if want.model in there))
    all_kept = told.rules.pinned | told.rules.keep_loaded
    assert all_kept - there or plan(satisfied) == Plan()


@PROPERTY
@given(outlooks())
def test_every_model_that_should_come_comes_or_is_told_why_not(told: Outlook) -> None:
    decided = plan(told)
    asked = {want.model for want in told.wanted} | told.rules.pinned | told.rules.keep_loaded
    coming = {decided.coming} - {None}
    assert asked - residents(told, told.places) - coming == set(decided.refusals)


@PROPERTY
@given(outlooks())
def test_while_something_moves_nothing_else_is_made_to(told: Outlook) -> None:
    for model in told.models:
        assert plan(replace(told, moving=frozenset({model.id}))).moves == ()


@PROPERTY
@given(outlooks())
def test_equal_outlooks_make_equal_plans(told: Outlook) -> None:
    assert plan(told) == plan(replace(told, places=dict(reversed(list(told.places.items())))))


@PROPERTY
@given(outlooks())
def test_plans_come_to_rest_when_nothing_waits(told: Outlook) -> None:
    calm = replace(told, wanted=(), models=tuple(replace(one, is_leased=False) for one in told.models))
    assert plan(settled(calm)).moves == ()


@PROPERTY
@given(outlooks(), st.integers(0, 40), st.integers(0, 40))
def test_smaller_budgets_are_kept_as_soon_as_nothing_is_in_use(told: Outlook, device: int, host: int) -> None:
    idle = tuple(replace(one, is_leased=False) for one in told.models)
    rules = replace(told.rules, pinned=frozenset())
    told = settled(replace(told, models=idle, wanted=(), rules=rules, budgets=Budgets(device, host)))
    assert is_within(told, told.places)


# In the long run


@dataclass(slots=True)
class Worker:
    """One device on made-up time. It carries plans out beside its jobs: while a model loads, the others go on serving.

    demand: for these models jobs wait at all times, each of so many seconds. arrivals: how often each model came.
    """

    told: Outlook
    demand: Mapping[str, float]
    lanes: int = 3
    served: Counter[str] = field(default_factory=Counter)
    arrivals: Counter[str] = field(default_factory=Counter)
    moving_seconds: float = 0.0
    _since: dict[str, float] = field(default_factory=dict)
    _ends: dict[str, list[float]] = field(default_factory=dict)
    _plan: Plan = field(default_factory=Plan)
    _todo: list[Move] = field(default_factory=list)
    _done_at: float = 0.0

    def run(self, seconds: float, tick: float = 1.0) -> None:
        self._since = self._since or dict.fromkeys(self.demand, self.told.now_seconds)
        until = self.told.now_seconds + seconds
        while self.told.now_seconds < until:
            self._end_leases()
            self._carry_on()
            self._decide()
            self._begin_jobs()
            self.told = replace(self.told, now_seconds=self.told.now_seconds + tick)
            self.moving_seconds += tick if self._todo else 0.0

    def _decide(self) -> None:
        wanted = tuple(
            Wanted(name, since, jobs=2, work_seconds=2 * self.demand[name]) for name, since in self._since.items()
        )
        self.told = replace(self.told, wanted=wanted)
        decided = plan(self.told)
        assert not (decided.moves and self._todo)
        self._plan = replace(self._plan, draining=decided.draining, refusals=decided.refusals)
        if decided.moves:
            self._plan, self._todo = decided, list(decided.moves)
            touched = decided.leaving | {move.model for move in decided.moves}
            self.told = replace(self.told, moving=touched)
            self._start_move()

    def _start_move(self) -> None:
        move = self._todo[0]
        assert is_within(self.told, self.told.places, move)
        assert move.target is DEVICE or not set(move.digests) & self._in_use()
        sizes = {one.digest: one for model in self.told.models for one in model.components}
        lasts = (
            sum(sizes[digest].seconds_from(move.source) for digest in move.digests) if move.target is DEVICE else 0.1
        )
        self._done_at = self.told.now_seconds + lasts

    def _in_use(self) -> set[str]:
        pinned = self.told.rules.pinned & residents(self.told, self.told.places)
        held = pinned | {name for name, ends in self._ends.items() if ends}
        return {one.digest for model in self.told.models if model.id in held for one in model.components}

    def _carry_on(self) -> None:
        while self._todo and self.told.now_seconds >= self._done_at:
            before = residents(self.told, self.told.places)
            move = self._todo.pop(0)
            self.told = replace(self.told, places={**self.told.places, **dict.fromkeys(move.digests, move.target)})
            new = residents(self.told, self.told.places) - before
            self.arrivals.update(new)
            self._change({name: {"loaded_seconds": self.told.now_seconds} for name in new})
            if self._todo:
                self._start_move()
            else:
                self.told = replace(self.told, moving=frozenset())
                self._plan = Plan()

    def _begin_jobs(self) -> None:
        open_to_all = residents(self.told, self.told.places) - self._plan.draining - self.told.moving
        for name in sorted(open_to_all & self.demand.keys()):
            leases = self._ends.setdefault(name, [])
            if len(leases) < self.lanes:
                leases.append(self.told.now_seconds + self.demand[name])
                self.served[name] += 1
                self._since[name] = self.told.now_seconds
                self._change({name: {"used_seconds": self.told.now_seconds, "is_leased": True}})

    def _end_leases(self) -> None:
        for name, ends in self._ends.items():
            ends[:] = [end for end in ends if end > self.told.now_seconds]
            self._change({name: {"is_leased": bool(ends)}})

    def _change(self, changes: Mapping[str, Mapping[str, object]]) -> None:
        models = tuple(replace(one, **changes.get(one.id, {})) for one in self.told.models)  # type: ignore[arg-type]
        self.told = replace(self.told, models=models)

    def hopeless(self) -> set[str]:
        return {name for name, why in self._plan.refusals.items() if why in (Why.NEVER_FITS, Why.PINNED)}


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    """Empty ones, where some models always have waiting work, more than the device can hold or serve."""
    models = draw(some_models())
    names = [one.id for one in models]
    budgets = Budgets(draw(st.integers(20, 50)), draw(st.integers(0, 60)))
    told = Outlook(0.0, budgets, models, rules=draw(some_rules(names)))
    demand = {name: draw(st.sampled_from([0.5, 2.0, 10.0])) for name in names if not draw(RARELY)}
    return Worker(told, demand)


@settings(PROPERTY, max_examples=25)
@given(workers())
def test_every_model_that_can_fit_is_served_again_and_again_however_much_the_others_are_wanted(worker: Worker) -> None:
    worker.run(100.0)
    before = Counter(worker.served)
    worker.run(200.0)
    starved = {name for name in worker.demand if worker.served[name] <= before[name]}
    assert starved <= worker.hopeless()
    assert clashes(worker.told, worker.told.places) == set()


def always_wanted(*models: Holding, device: int, host: int = 0) -> Worker:
    return Worker(outlook(*models, places={}, device=device, host=host, now=0.0), {one.id: 1.0 for one in models})


def test_two_models_that_do_not_fit_together_share_the_time_and_spend_little_of_it_on_changing_over() -> None:
    worker = always_wanted(model("a", size_bytes=30), model("b", size_bytes=30), device=50)
    worker.run(600.0)
    assert worker.arrivals["a"] == pytest.approx(worker.arrivals["b"], abs=1)
    assert min(worker.served.values()) > max(worker.served.values()) / 2
    assert 0 < worker.moving_seconds <= 600 / (1 + TURN_SWAPS)


def test_a_rare_model_beside_a_busy_one_waits_no_longer_than_a_turn_the_leases_and_its_load() -> None:
    worker = always_wanted(model("a", size_bytes=30), device=50, host=50)
    worker.run(100.0)
    worker.told = replace(worker.told, models=(*worker.told.models, model("b", size_bytes=30)))
    worker.demand = {"a": 1.0, "b": 1.0}
    worker._since["b"] = worker.told.now_seconds
    worker.run(TURN_SWAPS * (3.0 + 0.3) + 1.0 + 3.0 + 2.0)
    assert worker.served["b"] > 0


def test_models_that_fit_together_are_loaded_once() -> None:
    t5 = component("t5", 40)
    worker = always_wanted(model("a", t5), model("b", t5), model("c", t5), device=70)
    worker.run(300.0)
    assert worker.arrivals == {"a": 1, "b": 1, "c": 1}


def test_going_through_host_memory_models_are_read_from_disk_once() -> None:
    models = [model(name, size_bytes=30, loaded=-inf, used=-inf) for name in "abc"]
    worker = always_wanted(*models, device=40, host=90)
    worker.run(300.0)
    assert min(worker.arrivals.values()) > 5
    assert all(one.tier(worker.told.places) > DISK for one in worker.told.models)
