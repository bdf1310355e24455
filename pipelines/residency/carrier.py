"""Carries weights between disk, host memory and one device, and says after each move what is where.

Knows tensors, moves and one device; knows no queue and decides nothing.
Invariant: one thread at a time carries, so that a component is never in two moves; what failed half-way is let go.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.residency.holding import Move, Tier
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.load import Opened
from pipelines.weights.treatment import Treatment, bytes_on_device, treated

HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a component can be loaded from: a model and the name that it has there; and how it is held."""

    opened: Opened
    name: str
    treatment: Treatment


@dataclass(frozen=True, slots=True)
class Measured:
    """What one component took."""

    digest: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A move is done, or has failed: then problem says why, and what was lost is in gone."""

    move: Move
    measured: tuple[Measured, ...] = ()
    gone: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(slots=True)
class Carrier:
    """modules: all that is held, by digest; changed by the carrying thread alone. now: seconds."""

    device: torch.device
    now: Callable[[], float] = time.perf_counter
    modules: dict[str, Any] = field(default_factory=dict)

    def carry(self, moves: Sequence[Move], origins: Mapping[str, Origin], tell: Callable[[Moved], None]) -> bool:
        """Do the moves in order, telling of each. Stops at the first that fails; whether all are done."""
        for move in moves:
            done = self._moved(move, origins)
            tell(done)
            if done.problem is not None:
                return False
        return True

    def _moved(self, move: Move, origins: Mapping[str, Origin]) -> Moved:
        measured: list[Measured] = []
        try:
            with _on_own_stream(self.device):
                for digest in move.digests:
                    measured.append(self._carry_one(move, digest, origins[digest]))
        except Exception as error:
            problem = _reason(error)
            error.__traceback__ = None  # its frames hold what was loaded
            gone = self._let_go(move.digests)
            return Moved(move, gone=gone, problem=problem)
        if move.target is not Tier.DEVICE:
            give_back_memory(self.device)
        return Moved(move, tuple(measured))

    def _carry_one(self, move: Move, digest: str, origin: Origin) -> Measured:
        began = self.now()
        if move.target is Tier.DISK:
            size_bytes = bytes_on_device(self.modules.pop(digest), origin.treatment)
        elif move.source is Tier.DISK:
            size_bytes = self._load(digest, origin, move.target)
        else:
            size_bytes = bytes_on_device(self.modules[digest], origin.treatment)
            if origin.treatment.fit != "offload":  # that one is in host memory all the time
                relocate(self.modules[digest], self.device if move.target is Tier.DEVICE else HOST)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return Measured(digest, size_bytes, self.now() - began)

    def _load(self, digest: str, origin: Origin, target: Tier) -> int:
        stays_in_host = target is Tier.HOST or origin.treatment.fit == "offload"
        loaded = origin.opened.module(origin.name, HOST if stays_in_host else self.device, origin.treatment.dtype)
        self.modules[digest] = treated(loaded, origin.treatment, self.device)
        return bytes_on_device(self.modules[digest], origin.treatment)

    def _let_go(self, digests: Sequence[str]) -> tuple[str, ...]:
        """Components of a move that failed: half here and half there, they are of no use."""
        for digest in digests:
            self.modules.pop(digest, None)
        give_back_memory(self.device)
        return tuple(digests)


def relocate(module: torch.nn.Module, device: torch.device) -> None:
    """Move all weights; in host memory they are pinned where a CUDA device is, so that they come back at full speed."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == device.type:
            continue
        if device.type == "cpu":
            kept = torch.empty_like(tensor.data, device=HOST, pin_memory=torch.cuda.is_available())
            tensor.data = kept.copy_(tensor.data)
        else:
            tensor.data = tensor.data.to(device, non_blocking=True)


def give_back_memory(device: torch.device) -> None:
    """Let the system have what nothing holds any more: libraries keep freed memory for themselves otherwise."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have none
    if trim is not None:
        trim(0)


def _on_own_stream(device: torch.device) -> Any:
    """Copies beside the kernels of the step loop, not between them."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch's own


def _reason(error: Exception) -> str:
    if isinstance(error, CheckpointProblem):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"there is not enough memory for it: {str(error)[:200]}"
    return f"it could not be moved: {type(error).__name__}: {str(error)[:200]}"
