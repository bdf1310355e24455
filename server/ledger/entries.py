"""What the ledger holds: an entry for each image, an attempt for each call that may cost money, and how both ended.

Knows values and their ranges; knows no database.
Invariant: money is a whole number of millionths of a dollar everywhere. Sums of fractions depend on their order, and a
cap that holds on one database must hold on the other to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["generation", "edit", "variation"]
Outcome = Literal["succeeded", "failed", "cancelled", "interrupted"]

# What the end of an attempt says that a later start closed, as its server had died.
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, reserved before any work for it starts. request_id and index (0, 1 ...) together are unique.

    key_id: whose it is; None without keys. requested_model: the name as sent, at most 100 characters. size:
    "1024x1024", as asked. work_units: rows x pixels x steps that drawing it takes, 0 where nobody knows.
    reserved_microusd: what it may cost, which counts until it is settled.
    """

    request_id: str
    index: int
    key_id: str | None
    operation: Operation
    requested_model: str
    size: str
    began_unix_ms: int
    work_units: float
    reserved_microusd: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """What may be used up from some moment on. key_id: whose; None: of everybody together. None: no such limit."""

    key_id: str | None
    work_units: float | None = None
    microusd: int | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What was drawn, and what is reserved for what is open."""

    work_units: float
    microusd: int


@dataclass(frozen=True, slots=True)
class Excess:
    """A quota that does not suffice, and what is used up of it already. is_of_money: whether it is money that lacks."""

    quota: Quota
    used: Used
    is_of_money: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an image ended.

    backend: "local", or a backend's name. attempts: how often it was tried. seed: 0 to 2**64 - 1. queue_ms, device_ms:
    None where nobody measured. size: as served, where it differs from what was asked.
    """

    request_id: str
    index: int
    outcome: Outcome
    error_code: str | None
    served_model: str | None
    backend: str | None
    attempts: int
    steps: int | None
    seed: int | None
    queue_ms: int | None
    device_ms: int | None
    latency_ms: int
    cost_microusd: int
    size: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that may cost money, written before the call.

    number: 1, 2 ... within its request. count: images asked for. reserved_microusd: the most that it may cost.
    """

    attempt_id: str
    request_id: str
    number: int
    backend: str
    model: str
    count: int
    reserved_microusd: int
    began_unix_ms: int


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How a call ended. cause: why it served nothing; None if it served. status: of HTTP, where there was an answer."""

    attempt_id: str
    cause: str | None
    status: int | None
    latency_ms: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Row:
    """One image as it stands in the ledger. settlement: None while it is open. What a later start closed as
    `interrupted` has 0 for its attempts, latency and cost: nobody was left to say them."""

    entry: Entry
    settlement: Settlement | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place behind one row, in the order of `began_unix_ms` and then of reservation."""

    began_unix_ms: int
    id: int


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, oldest first. after: where the next page begins; None if this is the last one."""

    rows: tuple[Row, ...]
    after: Cursor | None
