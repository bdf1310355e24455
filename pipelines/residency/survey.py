"""Looks at a model's files before anything is loaded: what it is made of, how much that takes, what it shares.

Knows files; loads no tensors, and is done beside the step loop.
Invariant: a model that passed is as its manifest says, where it has one, and its components are known by content.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.messages import ModelSpec
from pipelines.residency.holding import Component
from pipelines.weights.digest import FileDigests, component_digest, model_digest
from pipelines.weights.files import CheckpointProblem, element_count
from pipelines.weights.layout import Weights, source_of
from pipelines.weights.load import MODEL_CLASSES, Opened


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A sound model. digest: of all its weights and configurations. components: by name, what is held of it, in the
    size that its files promise."""

    opened: Opened
    digest: str
    components: dict[str, Component]


def survey(spec: ModelSpec, dtype: torch.dtype, digests: FileDigests) -> Surveyed:
    """Read and verify, hashing only what no manifest vouches for. Raises CheckpointProblem when it is not sound."""
    source = source_of(spec)
    opened = Opened(source, spec.family)
    for place in dict.fromkeys((source.path, *source.folders, *source.parts.values())):
        digests.trust(place)
    components = {
        name: Component(
            component_digest(opened.layout.weights[name], cls.__name__, str(dtype), digests),
            size_of(opened.layout.weights[name], dtype),
            is_estimate=True,
        )
        for name, cls in MODEL_CLASSES[spec.family].items()
    }
    components |= _controls(opened, dtype, digests)
    return Surveyed(opened, model_digest(opened.layout, digests), components)


def _controls(opened: Opened, dtype: torch.dtype, digests: FileDigests) -> dict[str, Component]:
    """The model's ControlNets, each a component of its own. One whose files cannot be read is left out, and only
    those who name it are told."""
    components = {}
    for name, part in tuple(opened.controls.items()):
        try:
            digests.trust(part.config.parent)
            digest = component_digest(part, "ControlNetModel", str(dtype), digests)
            components[name] = Component(digest, size_of(part, dtype), is_estimate=True)
        except CheckpointProblem as problem:
            opened.leave_out(name, problem)
    return components


def size_of(part: Weights, dtype: torch.dtype) -> int:
    """Bytes that the tensors will take in this dtype."""
    return dtype.itemsize * sum(element_count(file, part.prefix) for file in part.files)
