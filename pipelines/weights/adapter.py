"""Loads an adapter (LoRA) and fits it to the layers of one model.

Knows tensors, and the layers that they stand beside; knows no jobs.
Invariant: only safetensors are read; every tensor is finite and fits its layer, or nothing of the file is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipelines.denoise.adapters import Adapter, Layer
from pipelines.weights.adapter_file import DAMAGED, NOT_FINITE, UNFIT, AdapterFile, AdapterProblem, Pair
from pipelines.weights.adapter_names import spellings

Loaded = dict[str, torch.Tensor]


def load_adapter(file: AdapterFile, models: Mapping[str, torch.nn.Module], identity: Hashable) -> Adapter:
    """models: by component. Raises AdapterProblem when a layer is not there, is of another shape, or is not finite."""
    tensors = _read(file)
    names = {component: spellings(model) for component, model in models.items()}
    layers: dict[str, dict[str, Layer]] = {}
    for (component, layer), pair in file.pairs.items():
        meant = names.get(component, {}).get(layer)
        if meant is None:
            raise AdapterProblem(f"{file.path} is for {layer} of the {component}, which this model has not", UNFIT)
        placed = layers.setdefault(component, {})
        config = file.config.get(component, {})
        for name, fitted in _fitted(file, pair, tensors, models[component], meant, config):
            if placed.setdefault(name, fitted) is not fitted:
                raise AdapterProblem(f"{file.path} names {layer} of the {component} twice", UNFIT)
    return Adapter(identity, {component: tuple(placed.values()) for component, placed in layers.items()})


def _read(file: AdapterFile) -> Loaded:
    try:
        with safe_open(file.path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for pair in file.pairs.values() for name in pair.tensors.values()}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise AdapterProblem(f"{file.path} cannot be read: {error}", DAMAGED) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            raise AdapterProblem(f"{file.path}: {name} is {tensor.dtype} {tuple(tensor.shape)}", UNFIT)
    return tensors


def _fitted(
    file: AdapterFile,
    pair: Pair,
    tensors: Loaded,
    model: torch.nn.Module,
    meant: tuple[str, ...],
    config: Mapping[str, Any],
) -> Iterator[tuple[str, Layer]]:
    """The pair for each of the layers that were one: all have the same first half, and each its rows of the second."""
    down, up = tensors[pair.tensors["down"]], tensors[pair.tensors["up"]]
    bases = [model.get_submodule(name) for name in meant]
    sizes = [_shape(base)[0] for base in bases]
    if up.dim() < 2 or up.shape[0] != sum(sizes):  # noqa: PLR2004  (a matrix)
        _refuse(file, pair.tensors["up"], up, f"{sum(sizes)} rows")
    for name, base, rows in zip(meant, bases, torch.split(up, sizes), strict=True):
        halves = _as_base(file, pair, model, base, down, rows)
        alpha = tensors.get(pair.tensors.get("alpha", ""))
        yield name, Layer(base, *halves, _factor(file, name, len(halves[0]), alpha, config))


def _as_base(
    file: AdapterFile, pair: Pair, model: Any, base: torch.nn.Module, down: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves in the base's form, where the model computes and in what it computes: its weights may lie elsewhere,
    and in float8."""
    outputs, inputs, *kernel = _shape(base)
    rank = down.shape[0]
    wanted = ((rank, inputs, *kernel), (outputs, rank, *[1] * len(kernel)))
    halves = []
    for kind, tensor, shape in zip(("down", "up"), (down, up), wanted, strict=True):
        # A convolution of one pixel is a linear layer; trainers write either as the other.
        if tensor.shape != shape and _squeezed(tensor.shape) != _squeezed(shape):
            _refuse(file, pair.tensors[kind], tensor, "x".join(map(str, shape)))
        kept = base.get_parameter("weight").dtype
        dtype = model.dtype if kept.itemsize == 1 else kept
        cast = tensor.reshape(shape).to(model.device, dtype, copy=True).contiguous()
        if not all(bool(torch.isfinite(end)) for end in torch.aminmax(cast)):
            raise AdapterProblem(f"{file.path}: {pair.tensors[kind]} is not finite as {cast.dtype}", NOT_FINITE)
        halves.append(cast)
    return halves[0], halves[1]


def _shape(base: torch.nn.Module) -> tuple[int, ...]:
    return tuple(base.get_parameter("weight").shape)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without a kernel of one pixel."""
    return tuple(shape[:2]) if all(side == 1 for side in shape[2:]) else tuple(shape)


def _refuse(file: AdapterFile, name: str, tensor: torch.Tensor, expected: str) -> None:
    found = "x".join(map(str, tensor.shape))
    raise AdapterProblem(f"{file.path}: {name} is {found}, expected {expected}", UNFIT)


def _factor(file: AdapterFile, layer: str, rank: int, alpha: torch.Tensor | None, config: Mapping[str, Any]) -> float:
    """alpha / rank; 1 where the file is silent. Source: sd-scripts and peft, which has a square root for rsLoRA."""
    try:
        told = float(alpha.item()) if alpha is not None else _told_alpha(layer, rank, config)
    except (TypeError, ValueError, RuntimeError, re.error) as error:
        raise AdapterProblem(f"{file.path}: the alpha of {layer} is no number", DAMAGED) from error
    if not math.isfinite(told):
        raise AdapterProblem(f"{file.path}: the alpha of {layer} is not finite", NOT_FINITE)
    return told / (math.sqrt(rank) if config.get("use_rslora") is True else rank)


def _told_alpha(layer: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    # As peft does it: the pattern is the end of the layer's name.
    found = next((alpha for end, alpha in patterns.items() if re.match(rf"(.*\.)?({end})$", layer)), None)
    return float(config.get("lora_alpha", rank) if found is None else found)
