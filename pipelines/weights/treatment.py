"""How a model's components are held and computed: precision, place, attention. Chosen, or refused with the reason.

Knows settings, one device and modules; knows no files and no families' verbs.
Invariant: what cannot work here is refused before anything is loaded; one treatment gives one digest.
Sources: diffusers' layerwise casting (weights in float8, computing as ever) and group offloading (one block of layers
on the device at a time, the next one on its way).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.models.attention_dispatch import AttentionBackendName

from pipelines.fits import DENOISERS, OTHERWISE_BYTES, choose_fit, fit_of
from pipelines.messages import Attention, DtypeName, Fit, ModelSpec
from pipelines.weights.files import CheckpointProblem

DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CPP_COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++")
FLOAT8 = torch.float8_e4m3fn
HOPPER = (9, 0)
# The package that each needs, and what diffusers calls it.
ATTENTION_PACKAGES: dict[Attention, tuple[str, AttentionBackendName]] = {
    "xformers": ("xformers", AttentionBackendName.XFORMERS),
    "flash": ("flash_attn", AttentionBackendName.FLASH),
    "flash3": ("flash_attn_interface", AttentionBackendName._FLASH_3),
}


@dataclass(frozen=True, slots=True)
class Treatment:
    """dtype: of what is computed. fit: full, float8 (the denoiser's weights take a byte each) or offload (they stay in
    host memory and visit the device). attention: which kernels the denoiser's attention runs on."""

    dtype: torch.dtype
    fit: Fit = "full"
    attention: Attention = "sdpa"

    def of(self, component: str) -> Treatment:
        """What of it concerns a component of this name."""
        return Treatment(self.dtype, fit_of(component, self.fit), self.attention if component in DENOISERS else "sdpa")

    def size_of(self, weight_count: int) -> int:
        """About what so many weights of a component with this treatment take on the device, before it was measured."""
        return weight_count * OTHERWISE_BYTES.get(self.fit, self.dtype.itemsize)

    def __str__(self) -> str:
        return f"{self.dtype} {self.fit} {self.attention}"


def treatment_of(spec: ModelSpec, device: torch.device, counts: Mapping[str, int], budget_bytes: int) -> Treatment:
    """What a model's entry asks for, where it says `auto` what is best here.

    counts: weights by component. budget_bytes: of the device, for all models. Raises CheckpointProblem when something
    that was asked for cannot work on this device.
    """
    dtype = _dtype(spec, device)
    attention = _attention(spec, device)
    _refuse_fit(spec, device)
    _refuse_compile(spec, device)
    can_offload = device.type == "cuda"
    fit = choose_fit(spec.fit, counts, dtype.itemsize, budget_bytes, can_offload=can_offload)
    return Treatment(dtype, fit, attention)


def _dtype(spec: ModelSpec, device: torch.device) -> torch.dtype:
    """bfloat16 where tensor cores make it quick; float32 on a CPU, where it is exact and no slower."""
    if spec.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if spec.dtype == "float16" and device.type == "cpu":
        raise CheckpointProblem("dtype float16 cannot work on a CPU, whose layers lack it: write float32 or bfloat16")
    if spec.dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise CheckpointProblem("dtype bfloat16 cannot work on this device: write float16 or float32")
    return DTYPES[spec.dtype]


def _refuse_fit(spec: ModelSpec, device: torch.device) -> None:
    if spec.fit == "offload" and device.type != "cuda":
        raise CheckpointProblem("fit offload cannot work on a CPU, which has no other memory to keep weights in")
    if spec.fit == "float8" and spec.dtype == "float32" and device.type == "cuda":
        raise CheckpointProblem("fit float8 with dtype float32 saves memory and costs speed: write bfloat16")


def _refuse_compile(spec: ModelSpec, device: torch.device) -> None:
    if spec.compile == "off":
        return
    if spec.fit != "full":
        raise CheckpointProblem(f"compile {spec.compile} needs fit full, as what moves weights cannot be compiled")
    if device.type == "cpu" and not any(map(shutil.which, CPP_COMPILERS)):
        raise CheckpointProblem(f"compile {spec.compile} needs a C++ compiler on a CPU, such as g++, and there is none")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise CheckpointProblem(f"compile {spec.compile} needs the package triton, which is not installed")


def _attention(spec: ModelSpec, device: torch.device) -> Attention:
    if spec.attention == "auto" or spec.attention == "sdpa":  # noqa: PLR1714  (mypy narrows no membership)
        return "sdpa"
    package, _ = ATTENTION_PACKAGES[spec.attention]
    if device.type != "cuda":
        raise CheckpointProblem(f"attention {spec.attention} cannot work on a CPU: write sdpa")
    if importlib.util.find_spec(package) is None:
        raise CheckpointProblem(f"attention {spec.attention} needs the package {package}, which is not installed")
    if spec.attention == "flash3" and torch.cuda.get_device_capability(device) < HOPPER:
        raise CheckpointProblem("attention flash3 needs a device of the Hopper generation or a later one")
    if spec.attention != "xformers" and spec.family != "flux":
        raise CheckpointProblem(f"attention {spec.attention} is for family flux: write sdpa or xformers")
    return spec.attention


def treated(module: Any, treatment: Treatment, device: torch.device) -> Any:
    """The loaded module, held and computed as the treatment says. One that is offloaded was loaded into host memory."""
    if treatment.attention != "sdpa":
        _set_attention(module, treatment.attention)
    if treatment.fit == "float8":
        skipped = getattr(module, "_skip_layerwise_casting_patterns", None) or "auto"
        apply_layerwise_casting(module, FLOAT8, treatment.dtype, skip_modules_pattern=skipped)
    if treatment.fit == "offload":
        apply_group_offloading(module, device, offload_type="block_level", num_blocks_per_group=1, use_stream=True)
    return module


def _set_attention(module: Any, attention: Attention) -> None:
    """For this module alone: diffusers' own way changes the default of all others too."""
    if not isinstance(module, FluxTransformer2DModel):
        module.enable_xformers_memory_efficient_attention()
        return
    _, backend = ATTENTION_PACKAGES[attention]
    for part in module.modules():
        processor: Any = getattr(part, "processor", None)
        if hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


def bytes_on_device(module: torch.nn.Module, treatment: Treatment) -> int:
    """What a held module takes of the device: all its weights and buffers, each counted once; of an offloaded one its
    two largest blocks, the one at work and the one on its way."""
    if treatment.fit == "offload":
        blocks = [_bytes(block) for group in module.children() for block in _blocks_of(group)]
        return sum(sorted(blocks)[-2:])
    return _bytes(module)


def _blocks_of(group: torch.nn.Module) -> list[torch.nn.Module]:
    return list(group.children()) if isinstance(group, torch.nn.ModuleList) else [group]


def _bytes(module: torch.nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
