"""One model as its worker knows it: what was asked of it, what was found in its files, and where it stands.

Knows one model; decides nothing.
Invariant: whoever looks at its files learns what is wrong with them as a sentence, whatever is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch

from pipelines.families.contract import Family, FamilyOptions
from pipelines.messages import ModelSpec
from pipelines.residency.holding import Component, Why
from pipelines.residency.survey import Surveyed, survey
from pipelines.weights.digest import FileDigests
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.layout import source_of
from pipelines.weights.verify import find_problem


@dataclass(slots=True)
class Entry:
    """What is known of one model. problem: why it cannot be served, whatever moves; is_absent: since it is not there.
    refusal: why it does not come to the device. asked_seconds: since when the operator wants it there. is_leaving: it
    goes as soon as no job has it, and where is_forgotten nothing is known of it then."""

    spec: ModelSpec
    problem: str | None = None
    is_absent: bool = False
    refusal: Why | None = None
    surveyed: Surveyed | None = None
    is_being_surveyed: bool = False
    loaded_seconds: float = -inf
    used_seconds: float = -inf
    asked_seconds: float | None = None
    is_to_go: bool = False
    is_leaving: bool = False
    is_forgotten: bool = False
    family: Family | None = None

    def components(self, measured: Mapping[str, Component]) -> tuple[Component, ...]:
        mine = () if self.surveyed is None else self.surveyed.components.values()
        return tuple(measured.get(one.digest, one) for one in mine)

    def look_at_headers(self) -> None:
        """The quick check, which reads no more."""
        source = source_of(self.spec)
        self.problem = find_problem(source, self.spec.family)
        self.is_absent = self.problem is not None and not source.path.exists()


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A report: of a model's files."""

    model: str
    found: Surveyed | None
    problem: str | None = None


def look_at(
    spec: ModelSpec, options: FamilyOptions, device: torch.device, budget_bytes: int, digests: FileDigests
) -> LookedAt:
    """The whole check; it may take long, and is done beside the step loop. budget_bytes: for weights on the device."""
    try:
        _refuse_compiled_bytes(spec, options)
        return LookedAt(spec.id, survey(spec, device, budget_bytes, digests))
    except CheckpointProblem as problem:
        return LookedAt(spec.id, None, str(problem))
    except Exception as error:
        return LookedAt(spec.id, None, f"its files cannot be read: {type(error).__name__}: {error}")


def _refuse_compiled_bytes(spec: ModelSpec, options: FamilyOptions) -> None:
    if spec.compile != "off" and options.padded_rows is not None:
        raise CheckpointProblem(
            f"compile {spec.compile} cannot go with SAFELIGHT_BATCH_EXACT_ROWS: a picture's bytes would depend on "
            "whether compiling is done"
        )
