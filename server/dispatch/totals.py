"""What all workers of one lane have counted, one after the other: sums that a restart does not set back.

Knows figures; knows no process.
Invariant: no sum ever falls; what the last worker said is lost with nothing that it had said before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from pipelines.figures import DeviceMemory, ModelFigures, WorkFigures, WorkKind
from pipelines.messages import Figures
from server.core.worker_names import id_of

Key = tuple[str, WorkKind, int]
# What is true of a moment and goes with the worker; the rest are sums.
NOW = ("prompt_cache_bytes", "adapter_bytes")
SUMMED = tuple(name for name in ModelFigures.__struct_fields__ if name not in ("model", *NOW))


@dataclass(slots=True)
class Totals:
    """One lane's. memory: as last told; None while no worker tells."""

    memory: DeviceMemory | None = None
    _work: dict[Key, WorkFigures] = field(default_factory=dict)
    _models: dict[str, ModelFigures] = field(default_factory=dict)
    _told: Figures = field(default_factory=Figures)

    def take(self, figures: Figures) -> None:
        """What the worker that is there says now."""
        self._told, self.memory = _by_id(figures), figures.memory

    def end(self) -> None:
        """The worker is gone: the next one counts from 0."""
        self._work = {_key(one): one for one in self.work()}
        self._models = {
            one.model: msgspec.structs.replace(one, prompt_cache_bytes=0, adapter_bytes=0) for one in self.models()
        }
        self._told, self.memory = Figures(), None

    def frozen(self) -> Totals:
        """As they are now: what is told later is not in it."""
        return replace(self)

    def work(self) -> list[WorkFigures]:
        summed = dict(self._work)
        for one in self._told.work:
            past = summed.get(_key(one))
            summed[_key(one)] = one if past is None else _sum_of_work(past, one)
        return list(summed.values())

    def models(self) -> list[ModelFigures]:
        summed = dict(self._models)
        for one in self._told.models:
            past = summed.get(one.model)
            summed[one.model] = one if past is None else _sum_of_model(past, one)
        return list(summed.values())


def _by_id(figures: Figures) -> Figures:
    """Under the ids of models.yaml: what a worker did under several names of a model is added up."""
    work: dict[Key, WorkFigures] = {}
    for one in figures.work:
        named = msgspec.structs.replace(one, model=id_of(one.model))
        past = work.get(_key(named))
        work[_key(named)] = named if past is None else _sum_of_work(past, named)
    models: dict[str, ModelFigures] = {}
    for each in figures.models:
        same = msgspec.structs.replace(each, model=id_of(each.model))
        before = models.get(same.model)
        models[same.model] = same if before is None else _sum_of_model(before, same)
    return msgspec.structs.replace(figures, work=tuple(work.values()), models=tuple(models.values()))


def _key(figures: WorkFigures) -> Key:
    return (figures.model, figures.kind, figures.rows_bucket)


def _sum_of_work(past: WorkFigures, now: WorkFigures) -> WorkFigures:
    return msgspec.structs.replace(
        now,
        items=past.items + now.items,
        rows=past.rows + now.rows,
        seconds=past.seconds + now.seconds,
        buckets=tuple(a + b for a, b in zip(past.buckets, now.buckets, strict=True)),
    )


def _sum_of_model(past: ModelFigures, now: ModelFigures) -> ModelFigures:
    return msgspec.structs.replace(now, **{name: getattr(past, name) + getattr(now, name) for name in SUMMED})
