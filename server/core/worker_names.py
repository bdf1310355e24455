"""What the workers call a model: its id; after each reload of models.yaml that changed it, the id and another number.

Knows names; knows no models.
Invariant: as long as a request may still ask for what a name means, the name means nothing else. No id holds the
separator, so no two models ever share a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from pipelines.messages import ModelSpec

SEPARATOR = "@"


def id_of(worker_name: str) -> str:
    """As models.yaml calls it."""
    return worker_name.partition(SEPARATOR)[0]


def name_anew(
    specs: Iterable[ModelSpec], now: Mapping[str, ModelSpec], taken: Collection[str] = ()
) -> dict[str, ModelSpec]:
    """The specs under the workers' names, by id. now: the same of the edition that goes: whoever is in it as before
    keeps its name. taken: names that may still mean something else."""
    return {spec.id: _named(spec, now.get(spec.id), {*taken, *(one.id for one in now.values())}) for spec in specs}


def _named(spec: ModelSpec, now: ModelSpec | None, taken: Collection[str]) -> ModelSpec:
    # When a model comes and whether it leaves does not make it another one.
    if now is not None and msgspec.structs.replace(now, id=spec.id, loading=spec.loading) == spec:
        return msgspec.structs.replace(spec, id=now.id)
    names = (f"{spec.id}{SEPARATOR}{number}" if number > 1 else spec.id for number in range(1, len(taken) + 2))
    return msgspec.structs.replace(spec, id=next(name for name in names if name not in taken))
