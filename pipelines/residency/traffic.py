"""Counts how often models come to a device and leave it, and what their caches found.

Knows models' names and numbers; knows no weights and no plan.
Invariant: what is counted here outlives the model that was counted: it may come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.denoise.prompts import CacheUse
from pipelines.families.contract import Family
from pipelines.figures import ModelFigures


@dataclass(slots=True)
class Traffic:
    """One device's. load_seconds: of all loads of a model together. prompts: what its prompt caches found so far."""

    loads: Counter[str] = field(default_factory=Counter)
    load_seconds: dict[str, float] = field(default_factory=dict)
    evictions: Counter[str] = field(default_factory=Counter)
    prompts: dict[str, CacheUse] = field(default_factory=dict)

    def came(self, model: str, seconds: float) -> None:
        self.loads[model] += 1
        self.load_seconds[model] = self.load_seconds.get(model, 0.0) + seconds

    def left(self, models: Iterable[str]) -> None:
        self.evictions.update(models)

    def prompts_of(self, model: str) -> CacheUse:
        return self.prompts.setdefault(model, CacheUse())

    def figures(self, families: Mapping[str, Family | None]) -> tuple[ModelFigures, ...]:
        """families: of all models; None for those that are not there."""
        return tuple(self._of(model, family) for model, family in families.items())

    def _of(self, model: str, family: Family | None) -> ModelFigures:
        use, kept = self.prompts.get(model, CacheUse()), None if family is None else family.cached_bytes()
        return ModelFigures(
            model,
            loads=self.loads[model],
            load_seconds=self.load_seconds.get(model, 0.0),
            evictions=self.evictions[model],
            prompt_hits=use.hits,
            prompt_misses=use.misses,
            prompt_cache_bytes=0 if kept is None else kept.prompts,
            adapter_bytes=0 if kept is None else kept.adapters,
        )
