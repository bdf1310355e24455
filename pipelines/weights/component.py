"""Builds one component: the class by its configuration, its tensors out of the files, each in its place.

Knows tensors, devices and dtypes; knows no families and no folders.
Invariant: every weight of the model comes from the files, in its shape and finite, and the files hold no other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open

from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import Weights
from pipelines.weights.single_file import Tensors, to_model_names

MAX_REASON_CHARS = 200
# What is built while another thread builds a model without weights would be without weights too.
BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a model expects against what there is, by the model's names. misshapen: name -> (found, expected)."""

    expected: int
    found: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def problem(self) -> str | None:
        if self.missing:
            return f"{len(self.missing)} of {self.expected} tensors are missing, such as {self.missing[0]}"
        if self.unexpected:
            return f"it holds {len(self.unexpected)} tensors that have no place, such as {self.unexpected[0]}"
        for name, (found, expected) in self.misshapen.items():
            return f"{name} is {'x'.join(map(str, found))}, expected {'x'.join(map(str, expected))}"
        return None


def load_component(cls: Any, part: Weights, device: torch.device, dtype: torch.dtype) -> Any:
    """The component on the device. Raises CheckpointProblem when files and configuration do not fit."""
    model = empty_model(cls, part.config)
    tensors = _converted(part, model)
    problem = compare(model, tensors).problem()
    if problem is not None:
        raise CheckpointProblem(f"{_place(part)} does not fit {part.config}: {problem}")
    filled = {name: _placed(tensor, device, _dtype_of(model, name, dtype)) for name, tensor in tensors.items()}
    _refuse_not_finite(part, filled)
    model.load_state_dict(filled, strict=False, assign=True)
    _tie(model)
    return model.to(device).eval().requires_grad_(False)


def empty_model(cls: Any, config: Path) -> Any:
    """The model without weights, on the meta device. Raises CheckpointProblem when the configuration is not its own."""
    written = read_json(config)
    try:
        with BUILDING, init_empty_weights():
            if issubclass(cls, ModelMixin):
                model = cls.from_config(written)
            else:
                model = cls(cls.config_class.from_pretrained(config.parent, local_files_only=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON_CHARS]
        raise CheckpointProblem(f"{config} does not describe a {cls.__name__}: {reason}") from error
    _tie(model)
    return model


def compare(model: Any, tensors: Tensors) -> Comparison:
    """Tied weights are expected once."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Comparison(
        len(expected),
        len(found),
        tuple(sorted(expected.keys() - found.keys())),
        tuple(sorted(found.keys() - expected.keys())),
        {name: (found[name], shape) for name, shape in expected.items() if found.get(name, shape) != shape},
    )


def _tie(model: Any) -> None:
    if hasattr(model, "tie_weights"):
        model.tie_weights()


def _converted(part: Weights, model: Any) -> Tensors:
    tensors = {name: tensor for file in part.files for name, tensor in _read(file, part.prefix).items()}
    try:
        return to_model_names(tensors, model)
    except Exception as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointProblem(f"{_place(part)} holds no {part.name} that can be converted: {reason}") from error


def _read(file: Path, prefix: str) -> Tensors:
    """The tensors below a prefix, without it; their bytes are read when they are used."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
            return {name.removeprefix(prefix): opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointProblem(f"{file} cannot be read: {error}") from error


def _placed(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy, for what lies in a file moves with the file and is aligned as the file happens to be."""
    return tensor.to(device, dtype, copy=True).contiguous()


def _dtype_of(model: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Some layers overflow in half precision, and their class says which."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else set()
    kept |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    is_kept = any(re.search(rf"(^|\.){module}(\.|$)", name) for module in kept)
    return torch.float32 if is_kept else dtype


def _refuse_not_finite(part: Weights, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor)):
            raise CheckpointProblem(f"{_place(part)}: {name} holds values that are not finite as {tensor.dtype}")


def _place(part: Weights) -> Path:
    """The file, or the folder of several."""
    return part.files[0] if len(part.files) == 1 else part.files[0].parent
