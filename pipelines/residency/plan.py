"""Decides which models are on one device, which in host memory, and what moves next.

Knows components by digest, their bytes and seconds, what the queue waits for and the operator's rules; knows no
tensors, clocks or threads.
Invariant: carried out in order, a plan is within both budgets at every moment, and nothing moves of a model that is
leased, pinned on the device or moving already.

Who leaves: the model whose components save the fewest seconds of loading per byte, at the rate at which they were
lately used. Source: LNC-R (Scheuermann, Shim, Vingralek, "A case for delay-conscious caching of Web documents", 1997)
with one remembered use. GreedyDual-Size (Cao, Irani, 1997) weighs the same, but carries a level from one eviction to
the next; told the time, this needs no memory. Where loading takes as long as the bytes are many, both are LRU.
Who comes: the fewest seconds per waiting job (Smith, 1956), halved for each AGEING_SECONDS of waiting, as in scheduler.
When: a model that nothing waits for leaves at once. One that jobs wait for must have served, and have had its turn:
TURN_SWAPS times what changing over costs, from when it was there and the other one waited. So models that always have
work spend at most a quarter of the time on changing over, and each waits for no more than the turns and leases of
those in its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log2

from pipelines.residency.holding import (
    LEAST_SECONDS,
    Component,
    Holding,
    Move,
    Outlook,
    Plan,
    Tier,
    Wanted,
    Why,
    bytes_of,
)

# As in the scheduler: what has waited so long counts half its work.
AGEING_SECONDS = 60.0
TURN_SWAPS = 3.0
# What nothing waits for, but is to be kept loaded, displaces only what was not used for so long.
CALM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Claim:
    """A model that should come. since_seconds: since when jobs wait for it; -inf is always. is_asked: by the queue or
    by a pin."""

    coming: Holding
    since_seconds: float = -inf
    is_asked: bool = True


# A model that needs no room.
NOTHING = Holding("", ())


def plan(outlook: Outlook) -> Plan:
    """What moves now, so that one model comes. One that cannot come yet keeps its place in the line: until it can,
    others come only where they will never be in its way (backfilling; Lifka, 1995)."""
    # Without anyone coming: budgets change, and components measure more than their files.
    draft, draining = _room_for(_Claim(NOTHING), outlook)
    draft = draft if draft and draft.moves and not outlook.moving else None
    ahead, refusals = list[Holding](), dict[str, Why]()
    for claim in _in_line(outlook):
        why = _hindrance(claim.coming, ahead, outlook)
        if why is None and draft is not None:
            why = Why.IN_LINE
        if why is None:
            draft, to_drain = _room_for(claim, outlook)
            why = Why.BUSY if draft is None else None
            if why and claim.is_asked:
                ahead.append(claim.coming)
                draining = draining or to_drain
        if why:
            refusals[claim.coming.id] = why
    if draft and outlook.moving:
        refusals[draft.coming.id] = Why.IN_LINE
        draft = None
    return draft.plan(draining, refusals) if draft else Plan(draining=draining, refusals=refusals)


def unloading(model: Holding, outlook: Outlook) -> Plan:
    """The moves after which nothing is held for this model alone. What jobs work with, what is moving and what is
    pinned stays: then there are none."""
    if model.is_leased or outlook.moving or model.id in outlook.rules.pinned:
        return Plan()
    gone = _Draft(outlook, NOTHING, outlook.places)._lowered(model, Tier.DISK)
    return gone.plan(frozenset(), {}) if gone else Plan()


def _in_line(outlook: Outlook) -> list[_Claim]:
    """Who should come: the pinned, then the wanted by urgency, then those to be kept loaded."""
    there, rules = outlook.residents(outlook.places), outlook.rules
    absent = {one.id: one for one in outlook.models if one.id not in there}
    wanted = {want.model: want for want in sorted(outlook.wanted, key=lambda want: _urgency(want, outlook))}
    line = {name: _Claim(absent[name]) for name in absent if name in rules.pinned}
    line |= {name: _Claim(absent[name], wanted[name].since_seconds) for name in wanted if name in absent.keys() - line}
    kept = [name for name in absent if name in rules.keep_loaded and name not in line]
    return [*line.values(), *(_Claim(absent[name], is_asked=False) for name in kept)]


def _urgency(want: Wanted, outlook: Outlook) -> tuple[float, float, str]:
    """Smaller is sooner."""
    (model,) = (one for one in outlook.models if one.id == want.model)
    seconds = max(LEAST_SECONDS, _seconds_to_come(model, outlook) + want.work_seconds)
    waited_seconds = max(0.0, outlook.now_seconds - want.since_seconds)
    return (log2(seconds / want.jobs) - waited_seconds / AGEING_SECONDS, want.since_seconds, want.model)


def _hindrance(coming: Holding, ahead: Sequence[Holding], outlook: Outlook) -> Why | None:
    """Why the model cannot come, whoever leaves."""
    there = outlook.residents(outlook.places) & outlook.rules.pinned
    pinned = [one for one in outlook.models if one.id in there]
    if not _fit([coming], outlook):
        return Why.NEVER_FITS
    if not _fit([coming, *pinned], outlook):
        return Why.PINNED
    is_free = coming.id not in outlook.moving and _fit([coming, *pinned, *ahead], outlook)
    return None if is_free else Why.IN_LINE


def _fit(models: Iterable[Holding], outlook: Outlook) -> bool:
    """Whether these, and nothing else, may be on the device together."""
    places = {one.digest: Tier.DEVICE for model in models for one in model.components}
    together = outlook.residents(places)
    has_room = outlook.bytes_at(Tier.DEVICE, places) <= outlook.budgets.device_bytes
    return has_room and not any(len(group & together) > 1 for group in outlook.rules.never_together)


def _room_for(claim: _Claim, outlook: Outlook) -> tuple[_Draft | None, frozenset[str]]:
    """All moves so that the model comes; or None, and the leased models that are to drain for it."""
    able = [one for one in outlook.models if _may_leave(one, claim, outlook)]
    start = _Draft(outlook, claim.coming, outlook.places).within_host()
    victims = _victims(start, [one for one in able if not one.is_leased])
    if victims is not None:
        return start.without(victims).arrived(), frozenset()
    return None, frozenset(one.id for one in _victims(start, able) or () if one.is_leased)


def _victims(start: _Draft, able: Sequence[Holding]) -> list[Holding] | None:
    """Who of these leaves the device, the least worth first, so that there is room; None if even all are not enough."""
    draft, victims = start, list[Holding]()
    while not draft.has_room():
        left = [one for one in able if one not in victims and draft.could_leave(one)]
        if not left:
            return None
        victims.append(min(left, key=lambda one: draft.rank(one, Tier.DEVICE)))
        draft = draft.without(victims[-1:])
    for victim in victims[-2::-1]:  # one that leaves later may have made it needless
        fewer = [one for one in victims if one is not victim]
        if start.without(fewer).has_room():
            victims = fewer
    return victims


def _may_leave(model: Holding, claim: _Claim, outlook: Outlook) -> bool:
    """Whether the model, but for its leases, may leave the device for this claim."""
    if model.tier(outlook.places) is not Tier.DEVICE:
        return model is not claim.coming
    if model.id in outlook.rules.pinned:
        return False
    if not claim.is_asked:
        is_calm = model.idle_seconds(outlook.now_seconds) >= CALM_SECONDS
        return is_calm and not outlook.is_wanted(model) and model.id not in outlook.rules.keep_loaded
    return not outlook.is_wanted(model) or _turn_is_over(model, claim, outlook)


def _turn_is_over(model: Holding, claim: _Claim, outlook: Outlook) -> bool:
    back_seconds = sum(one.seconds_from(_below(model.components, outlook)) for one in model.components)
    swap_seconds = back_seconds + _seconds_to_come(claim.coming, outlook)
    began_seconds = max(claim.since_seconds, model.loaded_seconds)
    return model.has_served() and outlook.now_seconds - began_seconds >= TURN_SWAPS * swap_seconds


@dataclass(frozen=True, slots=True)
class _Draft:
    """Where everything is once the moves decided so far are done.

    coming: what it shares with those who leave stays where it is. released: the models that have no hold any more on
    components that are still there, since others hold them too.
    """

    outlook: Outlook
    coming: Holding
    places: Mapping[str, Tier]
    moves: tuple[Move, ...] = ()
    released: frozenset[str] = frozenset()

    def plan(self, draining: frozenset[str], refusals: Mapping[str, Why]) -> Plan:
        leaving = self.outlook.residents(self.outlook.places) - self.outlook.residents(self.places)
        return Plan(self.moves, self.coming.id or None, leaving, draining, refusals)

    def arrived(self) -> _Draft:
        return self._moved(self.coming, dict.fromkeys(self.coming.components, Tier.DEVICE))

    def has_room(self) -> bool:
        """Whether the coming model could come now, and would bring none together that must never be."""
        after = self.arrived().places
        before, together = self.outlook.residents(self.places), self.outlook.residents(after)
        groups = [group for group in self.outlook.rules.never_together if group & (together - before)]
        used_bytes = self.outlook.bytes_at(Tier.DEVICE, after)
        return used_bytes <= self.outlook.budgets.device_bytes and not any(len(one & together) > 1 for one in groups)

    def could_leave(self, model: Holding) -> bool:
        """What is not all on the device matters only if it left something there that nobody holds."""
        return model.tier(self.places) is Tier.DEVICE or bool(self._freed(model, Tier.DEVICE))

    def without(self, victims: Iterable[Holding]) -> _Draft:
        """After these have left the device: to host memory, unless all that is there is worth more; else to disk."""
        draft = self
        for victim in victims:
            floors = (Tier.HOST, Tier.DISK) if victim.tier(draft.places) > Tier.DISK else (Tier.DISK,)
            draft = next(lower for floor in floors if (lower := draft._lowered(victim, floor)))
        return draft

    def within_host(self) -> _Draft:
        """After the least worth has made host memory keep to its budget."""
        draft, budget_bytes = self, self.outlook.budgets.host_bytes
        while self.outlook.bytes_at(Tier.HOST, draft.places) > budget_bytes and (least := draft._least_in_host()):
            draft = draft._given_up(least)
        return draft

    def rank(self, model: Holding, tier: Tier, going: Sequence[Component] | None = None) -> tuple[bool, bool, float]:
        """Smaller goes sooner. A model is worth, per byte that goes from the tier with it, the seconds of loading that
        those will probably save in each second."""
        going = self._freed(model, tier) if going is None else going
        below = _below(going, self.outlook) if tier is Tier.DEVICE else Tier.DISK
        saved = sum(_uses_per_second(one, tier, self.outlook) * one.seconds_from(below) for one in going)
        is_awaited = self.outlook.is_wanted(model) or model.id in self.outlook.rules.pinned
        return (is_awaited, model.id in self.outlook.rules.keep_loaded, saved / max(1, bytes_of(going)))

    def _lowered(self, victim: Holding, floor: Tier) -> _Draft | None:
        """After the victim has gone down to the floor, where the others allow it; None if host memory has no room."""
        draft = self
        while True:
            targets = {one: max(floor, draft._held_at(one, victim)) for one in victim.components}
            targets = {one: tier for one, tier in targets.items() if tier < draft._place(one)}
            to_host = [one for one, tier in targets.items() if tier is Tier.HOST]
            host_bytes = self.outlook.bytes_at(Tier.HOST, draft.places) + bytes_of(to_host)
            if not to_host or host_bytes <= self.outlook.budgets.host_bytes:
                return draft._moved(victim, targets) if targets else draft._released(victim)
            least = draft._least_in_host(but=victim)
            is_worth_it = least and draft.rank(least, Tier.HOST) < draft.rank(victim, Tier.HOST, to_host)
            if least is None or (floor is Tier.HOST and not is_worth_it):
                return None
            draft = draft._given_up(least)

    def _given_up(self, model: Holding) -> _Draft:
        """After the model has gone from host memory."""
        return self._moved(model, dict.fromkeys(self._freed(model, Tier.HOST), Tier.DISK))._released(model)

    def _released(self, model: Holding) -> _Draft:
        return replace(self, released=self.released | {model.id})

    def _least_in_host(self, but: Holding = NOTHING) -> Holding | None:
        there = [one for one in self.outlook.models if one not in (but, self.coming) and one.id not in self.released]
        there = [one for one in there if one.tier(self.places) is not Tier.DEVICE]
        there = [one for one in there if Tier.HOST in map(self._place, one.components)]
        return min(there, key=lambda one: self.rank(one, Tier.HOST), default=None)

    def _place(self, component: Component) -> Tier:
        return self.places.get(component.digest, Tier.DISK)

    def _held_at(self, component: Component, leaving: Holding) -> Tier:
        """Where other models than the leaving one need it to stay."""
        others = [one for one in self.outlook.models if one is not leaving and component in one.components]
        return max(map(self._hold, others), default=Tier.DISK)

    def _hold(self, model: Holding) -> Tier:
        if model is self.coming:
            return Tier.DEVICE
        return Tier.DISK if model.id in self.released else model.tier(self.places)

    def _freed(self, model: Holding, tier: Tier) -> list[Component]:
        """What goes from this tier if the model goes."""
        return [one for one in model.components if self._place(one) is tier and self._held_at(one, model) < tier]

    def _moved(self, model: Holding, targets: Mapping[Component, Tier]) -> _Draft:
        """After these components have moved, those first that only make room."""
        moves = dict[tuple[Tier, Tier], list[str]]()
        for one, target in targets.items():
            if self._place(one) is not target:
                moves.setdefault((target, self._place(one)), []).append(one.digest)
        in_order = sorted(moves.items(), key=lambda way: (way[0][0], -way[0][1]))
        added = [Move(model.id, tuple(digests), source, target) for (target, source), digests in in_order]
        places = {**self.places, **{one.digest: target for one, target in targets.items()}}
        return replace(self, places=places, moves=(*self.moves, *added))


def _seconds_to_come(model: Holding, outlook: Outlook) -> float:
    return sum(one.seconds_from(outlook.places.get(one.digest, Tier.DISK)) for one in model.components)


def _below(components: Sequence[Component], outlook: Outlook) -> Tier:
    """From where these would come back to the device."""
    return Tier.HOST if bytes_of(components) <= outlook.budgets.host_bytes else Tier.DISK


def _uses_per_second(component: Component, tier: Tier, outlook: Outlook) -> float:
    """By all who have it in this tier or above: each once in the time since it last did."""
    users = [one for one in outlook.models if component in one.components and one.tier(outlook.places) >= tier]
    return sum(1 / one.idle_seconds(outlook.now_seconds) for one in users)
