"""The words of residency: components and the models made of them, tiers, wants, budgets, rules, moves, plans.

Knows digests, bytes and seconds; knows no tensors, clocks or threads.
Invariant: nothing here changes; a component is held once however many models are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import inf

# Until a component has been measured: a plain disk, and pinned memory over PCIe 4.
DISK_BYTES_PER_SECOND, HOST_BYTES_PER_SECOND = 1.5e9, 1.5e10
# Less makes no difference to anyone, and what was used this instant must not be worth infinitely much.
LEAST_SECONDS = 1.0


class Tier(IntEnum):
    """Where a component is, the farthest first. A model is where the farthest of its components is."""

    DISK = 0
    HOST = 1
    DEVICE = 2


class Why(Enum):
    """Why a model that should come to the device does not come with this plan."""

    NEVER_FITS = "it does not fit this device, or contains a model that it must never be together with"
    PINNED = "it does not fit, or must never be, beside what is pinned"
    BUSY = "it does not fit, or must never be, beside what is in use"
    IN_LINE = "another one comes or moves first"


@dataclass(frozen=True, slots=True)
class Component:
    """Weights, held once however many models use them.

    digest: of their content and dtype. size_bytes: measured at the first load; before, what their files take, and then
    is_estimate. load_seconds, promote_seconds: measured, to the device from disk and from host memory.
    """

    digest: str
    size_bytes: int = field(compare=False)
    is_estimate: bool = field(default=False, compare=False)
    load_seconds: float | None = field(default=None, compare=False)
    promote_seconds: float | None = field(default=None, compare=False)

    def seconds_from(self, tier: Tier) -> float:
        """How long it takes to come to the device."""
        if tier is Tier.DEVICE:
            return 0.0
        measured = self.load_seconds if tier is Tier.DISK else self.promote_seconds
        pace = DISK_BYTES_PER_SECOND if tier is Tier.DISK else HOST_BYTES_PER_SECOND
        return self.size_bytes / pace if measured is None else measured


@dataclass(frozen=True, slots=True)
class Holding:
    """A model as this decision sees it, whether it is held or not.

    is_leased: jobs work with it. loaded_seconds: when it last came to the device. used_seconds: when a lease on it last
    began (not ended: else those who drain would look the busier the more of their jobs end). -inf is never.
    """

    id: str
    components: tuple[Component, ...]
    is_leased: bool = False
    loaded_seconds: float = -inf
    used_seconds: float = -inf

    def idle_seconds(self, now_seconds: float) -> float:
        return max(LEAST_SECONDS, now_seconds - max(self.loaded_seconds, self.used_seconds))

    def has_served(self) -> bool:
        """Whether it was leased since it last came."""
        return -inf < self.used_seconds >= self.loaded_seconds

    def tier(self, places: Mapping[str, Tier]) -> Tier:
        return min((places.get(one.digest, Tier.DISK) for one in self.components), default=Tier.DEVICE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many jobs wait for this model, the oldest since since_seconds, with work_seconds of work in all."""

    model: str
    since_seconds: float
    jobs: int = 1
    work_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """What weights may take: on the device, what activations and the VAE leave. host_bytes: 0 is no second tier."""

    device_bytes: int
    host_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's. pinned: come first of all, and never leave the device. keep_loaded: come when that disturbs
    nobody, and leave last of what nothing waits for. never_together: no two of a group are on the device."""

    pinned: frozenset[str] = frozenset()
    keep_loaded: frozenset[str] = frozenset()
    never_together: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a decision depends on.

    places: the tier of every component that is held, by digest. moving: the models that the last plan touches, until it
    has been carried out or has failed; till then nothing else is made to move.
    """

    now_seconds: float
    budgets: Budgets
    models: tuple[Holding, ...]
    places: Mapping[str, Tier] = field(default_factory=dict)
    wanted: tuple[Wanted, ...] = ()
    rules: Rules = field(default_factory=Rules)
    moving: frozenset[str] = frozenset()

    def is_wanted(self, model: Holding) -> bool:
        return any(want.model == model.id for want in self.wanted)

    def residents(self, places: Mapping[str, Tier]) -> frozenset[str]:
        """The models whose components all are on the device."""
        return frozenset(one.id for one in self.models if one.tier(places) is Tier.DEVICE)

    def bytes_at(self, tier: Tier, places: Mapping[str, Tier]) -> int:
        """What the tier holds, each component counted once."""
        return bytes_of({one for model in self.models for one in model.components if places.get(one.digest) is tier})


@dataclass(frozen=True, slots=True)
class Move:
    """Bring these components of a model from one tier to another. Until that is done they take room in both."""

    model: str
    digests: tuple[str, ...]
    source: Tier
    target: Tier

    @property
    def verb(self) -> str:
        """load, promote, demote or drop."""
        if self.target is Tier.DEVICE:
            return "load" if self.source is Tier.DISK else "promote"
        return "demote" if self.target is Tier.HOST else "drop"


@dataclass(frozen=True, slots=True)
class Plan:
    """moves: one after the other. coming: the model that they bring to the device. leaving: those that they take from
    it. draining: those that finish the jobs they have but take no new ones, so that another one's turn comes."""

    moves: tuple[Move, ...] = ()
    coming: str | None = None
    leaving: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    refusals: Mapping[str, Why] = field(default_factory=dict)


def bytes_of(components: Iterable[Component]) -> int:
    return sum(one.size_bytes for one in components)
