"""Adapters (LoRA) at work: small products beside the layers of a model, for the length of one forward.

Knows layers and tensors; knows no files, no names of trainers and no jobs.
Invariant: no weight of a model is ever written to, and outside of `applied` no model can tell that adapters exist; so
whatever was drawn with them, the next forward without them has the bits of the first.
Source: Hu et al., "LoRA" (2021), equation 3. Kept beside the weights and not added into them, as adding and taking away
leaves what rounding left. Not peft: it puts wrappers into the model for good, and here models may share components.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional

DENOISER = "denoiser"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What an adapter adds to one layer: up(down(x)) * factor.

    base: the linear layer (I to O) or convolution that it stands beside. down: (R, I) or (R, I, h, w); up: (O, R) or
    (O, R, 1, 1), both in the base's dtype and on its device.
    """

    base: torch.nn.Module
    down: torch.Tensor
    up: torch.Tensor
    factor: float

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        """To the output of the base for these inputs."""
        if isinstance(self.base, torch.nn.Conv2d):
            base = self.base
            low = functional.conv2d(values, self.down, None, base.stride, base.padding, base.dilation)
            return functional.conv2d(low * (self.factor * scale), self.up)
        low = functional.linear(values, self.down)
        return functional.linear(low * (self.factor * scale), self.up)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A loaded adapter, fitted to one model's layers. identity: equal for the same file with the same content.
    layers: by component, the denoiser or a text encoder."""

    identity: Hashable
    layers: Mapping[str, Sequence[Layer]]

    @property
    def size_bytes(self) -> int:
        return sum(layer.down.nbytes + layer.up.nbytes for layers in self.layers.values() for layer in layers)


@dataclass(slots=True)
class _Addition:
    """A forward hook: the output, and what each adapter adds to it."""

    parts: list[tuple[Layer, float]] = field(default_factory=list)

    def __call__(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for layer, scale in self.parts:
            output = output + layer.added(inputs[0], scale)
        return output


class AdapterSet:
    """Adapters that act together, each with its scale. Those with a scale of 0 have no part in it."""

    def __init__(self, chosen: Sequence[tuple[Adapter, float]] = ()) -> None:
        self._chosen = tuple((adapter, scale) for adapter, scale in chosen if scale != 0)
        self._additions: dict[str, dict[torch.nn.Module, _Addition]] = {}
        for adapter, scale in self._chosen:
            for component, layers in adapter.layers.items():
                additions = self._additions.setdefault(component, {})
                for layer in layers:
                    additions.setdefault(layer.base, _Addition()).parts.append((layer, scale))

    def key(self, *components: str) -> Hashable:
        """Equal for sets that act alike on these components; () where nothing acts."""
        return tuple(
            (adapter.identity, scale)
            for adapter, scale in self._chosen
            if any(adapter.layers.get(component) for component in components)
        )

    @contextmanager
    def applied(self, *components: str) -> Iterator[None]:
        """Let the adapters act on these components, on this thread, until the block ends, however it ends."""
        handles = []
        try:
            for component in components:
                for base, addition in self._additions.get(component, {}).items():
                    handles.append(base.register_forward_hook(addition))
            yield
        finally:
            for handle in handles:
                handle.remove()


NO_ADAPTERS = AdapterSet()
