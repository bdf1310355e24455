"""Holds the loaded models of one worker and says which can be served.

Knows folders, families and one device; knows no jobs.
Invariant: a model that failed to load is named as a problem and never half kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.registry import LOADERS
from pipelines.messages import FamilyName, ModelReport, ModelSpec
from pipelines.weights.digest import digest_of, digest_of_files
from pipelines.weights.layout import Source, arrange, source_of
from pipelines.weights.verify import CheckpointProblem, find_problem


class Models:
    """Loads each model at its first use and keeps it."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        device: torch.device,
        dtype: torch.dtype,
        options: FamilyOptions | None = None,
    ) -> None:
        self._specs = {spec.id: spec for spec in specs}
        self._device, self._dtype, self._options = device, dtype, options or FamilyOptions()
        self._loaded: dict[str, Family] = {}
        self._digests: dict[str, str] = {}
        self._problems = {spec.id: find_problem(source_of(spec), spec.family) for spec in specs}

    def reports(self) -> tuple[ModelReport, ...]:
        return tuple(ModelReport(model, problem) for model, problem in self._problems.items())

    def loaded(self, model: str) -> Family | None:
        """The model if it is loaded already."""
        return self._loaded.get(model)

    def family(self, model: str) -> Family:
        """The loaded model. Raises CheckpointProblem when it cannot be served."""
        if model not in self._loaded:
            self._loaded[model] = self._load(model)
        return self._loaded[model]

    def digest(self, model: str) -> str:
        """Of the weights that the model was loaded from."""
        return self._digests[model]

    def _load(self, model: str) -> Family:
        problem = self._problems.get(model, f"no model {model} is known here")
        if problem is not None:
            raise CheckpointProblem(problem)
        spec = self._specs[model]
        source = source_of(spec)
        try:
            self._digests[model] = _digest_of(source, spec.family)
            return LOADERS[spec.family](source, self._device, self._dtype, self._options.for_model(spec))
        except CheckpointProblem as found:
            self._problems[model] = str(found)
            raise


def _digest_of(source: Source, family: FamilyName) -> str:
    """A folder that holds everything is known by all that is in it, anything else by the files that it is made of."""
    is_folder = source.path.is_dir() and source.rest is None and not source.parts
    return digest_of(source.path) if is_folder else digest_of_files(arrange(source, family).files())
