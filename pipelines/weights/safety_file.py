"""Says whether a safety checker's files are sound: the one of the Stable Diffusion family, as diffusers saves it.

Knows one folder, its configuration and safetensors headers; imports no torch, so that checking is quick.
Invariant: what passes here is a checker by its own configuration, in safetensors, whole.
Source: diffusers 0.42's StableDiffusionSafetyChecker.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import Weights, weights_in
from pipelines.weights.verify import refuse_unsafe_files, verify_weights

NAME, CLASS = "safety_checker", "StableDiffusionSafetyChecker"


def verify_safety_checker(folder: Path) -> Weights:
    """Where its weights are. Raises CheckpointProblem."""
    if not folder.is_dir():
        raise CheckpointProblem(f"the folder {folder} does not exist")
    refuse_unsafe_files(folder)
    part = weights_in(folder, NAME)
    if CLASS not in str(read_json(part.config).get("architectures")):
        raise CheckpointProblem(f"{part.config} does not describe a {CLASS}")
    verify_weights(part, (CLASS,))
    return part


def find_safety_problem(folder: Path) -> str | None:
    """What is wrong with it, or None."""
    try:
        verify_safety_checker(folder)
    except CheckpointProblem as problem:
        return str(problem)
    return None
