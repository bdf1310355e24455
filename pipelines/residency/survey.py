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
from pipelines.weights.treatment import Treatment, treatment_of


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A sound model. digest: of all its weights and configurations. components: by name, what is held of it, in the
    size that its files promise. treatment: how it is held and computed."""

    opened: Opened
    digest: str
    components: dict[str, Component]
    treatment: Treatment


def survey(spec: ModelSpec, device: torch.device, budget_bytes: int, digests: FileDigests) -> Surveyed:
    """Read and verify, hashing only what no manifest vouches for.

    Raises CheckpointProblem when the model is not sound, or what its entry asks for cannot work on the device.
    """
    source = source_of(spec)
    opened = Opened(source, spec.family)
    for place in dict.fromkeys((source.path, *source.folders, *source.parts.values())):
        digests.trust(place)
    parts = {name: opened.layout.weights[name] for name in MODEL_CLASSES[spec.family]}
    counts = {name: _weight_count(part) for name, part in parts.items()}
    treatment = treatment_of(spec, device, counts, budget_bytes)
    components = {
        name: Component(
            component_digest(part, MODEL_CLASSES[spec.family][name].__name__, str(treatment.of(name)), digests),
            treatment.of(name).size_of(counts[name]),
            is_estimate=True,
        )
        for name, part in parts.items()
    }
    components |= _controls(opened, treatment, digests)
    return Surveyed(opened, model_digest(opened.layout, digests), components, treatment)


def _controls(opened: Opened, treatment: Treatment, digests: FileDigests) -> dict[str, Component]:
    """The model's ControlNets, each a component of its own. One whose files cannot be read is left out, and only
    those who name it are told."""
    components = {}
    for name, part in tuple(opened.controls.items()):
        held = treatment.of(name)
        try:
            digests.trust(part.config.parent)
            digest = component_digest(part, "ControlNetModel", str(held), digests)
            components[name] = Component(digest, held.size_of(_weight_count(part)), is_estimate=True)
        except CheckpointProblem as problem:
            opened.leave_out(name, problem)
    return components


def _weight_count(part: Weights) -> int:
    return sum(element_count(file, part.prefix) for file in part.files)
