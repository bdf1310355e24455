"""Loads a ControlNet beside a model's components, or what stands in its place when it cannot be used.

Knows tensors; knows no jobs.
Invariant: a ControlNet that does not load never keeps its model from being served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ControlNetModel

from pipelines.messages import ControlKind
from pipelines.weights.component import load_component
from pipelines.weights.control_file import NOT_SOUND, PREFIX, ControlProblem
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.layout import Weights


class UnusableControl(torch.nn.Module):
    """In the place of a ControlNet, and moved like one. problem: why; its reason is what callers may know."""

    def __init__(self, problem: ControlProblem) -> None:
        super().__init__()
        self.problem = problem


# By kind.
ControlNets = Mapping[str, ControlNetModel | UnusableControl]


def load_control(part: Weights, device: torch.device, dtype: torch.dtype) -> ControlNetModel | UnusableControl:
    """Raises what is no fault of the files, such as a want of memory."""
    try:
        return load_component(ControlNetModel, part, device, dtype)
    except CheckpointProblem as problem:
        return UnusableControl(ControlProblem(str(problem), NOT_SOUND))


def without_controls(modules: Mapping[str, Any]) -> dict[str, Any]:
    """The components that the family itself is made of."""
    return {name: module for name, module in modules.items() if not name.startswith(PREFIX)}


def by_kind(modules: Mapping[str, Any], problems: Mapping[ControlKind, ControlProblem]) -> ControlNets:
    """Those that are there, and for the others what is wrong with them."""
    there: dict[str, ControlNetModel | UnusableControl] = {
        name.removeprefix(PREFIX): module for name, module in modules.items() if name.startswith(PREFIX)
    }
    return {**{kind: UnusableControl(problem) for kind, problem in problems.items()}, **there}
