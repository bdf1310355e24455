"""The adapters of one loaded model: read when they are first asked for, and kept as long as they fit under a cap.

Knows which files there are and which components they are for; knows no jobs.
Invariant: what is kept and not in use stays under the cap; a file that cannot be used is read again only when it has
changed, and harms nobody but those who name it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipelines.denoise.adapters import NO_ADAPTERS, Adapter, AdapterSet
from pipelines.messages import FamilyName, Lora
from pipelines.weights.adapter import load_adapter
from pipelines.weights.adapter_file import AdapterProblem, read_adapter_file

Stamp = tuple[int, int]


class AdapterUnavailable(Exception):
    """An adapter that a job names cannot be used. reason: what callers may know, as the end of a sentence."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the adapter {name!r} cannot be used: {reason}")
        self.name, self.reason = name, reason


class AdapterShelf:
    """paths: name -> file. models: component -> what the adapters act on. One thread owns it."""

    def __init__(
        self, family: FamilyName, paths: Mapping[str, str], models: Mapping[str, torch.nn.Module], cap_bytes: int
    ) -> None:
        self._family, self._models, self._cap_bytes = family, models, cap_bytes
        self._paths = {name: Path(path) for name, path in paths.items()}
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        self._problems: dict[str, tuple[Stamp | None, AdapterProblem]] = {}

    @property
    def size_bytes(self) -> int:
        return sum(adapter.size_bytes for adapter in self._kept.values())

    def chosen(self, loras: Sequence[Lora]) -> AdapterSet:
        """The named adapters with their scales, in an order of our own, so that equal sets act to the same bit.

        Raises AdapterUnavailable.
        """
        if not loras:
            return NO_ADAPTERS
        return AdapterSet([(self._adapter(one.name), one.scale) for one in sorted(loras, key=lambda one: one.name)])

    def drop_idle(self) -> None:
        """Keep nothing: what jobs in work still hold goes with them."""
        self._kept.clear()

    def _adapter(self, name: str) -> Adapter:
        stamp = _stamp_of(self._paths.get(name))
        if name not in self._kept or self._kept[name].identity != (name, stamp):
            self._kept.pop(name, None)
            self._keep(name, self._loaded(name, stamp))
        self._kept.move_to_end(name)
        adapter = self._kept[name]
        self._shrink()
        return adapter

    def _loaded(self, name: str, stamp: Stamp | None) -> Adapter:
        if name not in self._paths:
            raise AdapterUnavailable(name, "the model has none of this name")
        known = self._problems.get(name)
        if known is not None and known[0] == stamp:
            raise AdapterUnavailable(name, known[1].reason) from known[1]
        try:
            file = read_adapter_file(self._paths[name], self._family)
            return load_adapter(file, self._models, (name, stamp))
        except AdapterProblem as problem:
            self._problems[name] = (stamp, problem)
            raise AdapterUnavailable(name, problem.reason) from problem

    def _keep(self, name: str, adapter: Adapter) -> None:
        self._kept[name] = adapter
        self._problems.pop(name, None)

    def _shrink(self) -> None:
        """Let go of what was not asked for longest, until the rest fits."""
        while self._kept and self.size_bytes > self._cap_bytes:
            self._kept.popitem(last=False)


def _stamp_of(path: Path | None) -> Stamp | None:
    """Another one where the file has been written to; None where there is none."""
    try:
        if path is None or not path.is_file():
            return None
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size
