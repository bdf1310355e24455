"""A denoiser that is compiled beside its work: it computes as it is until the compiled one is ready, and with adapters.

Knows one module and a thread to compile on; knows no families, jobs or files.
Invariant: whoever calls never waits for a compiler's first run; what cannot be compiled goes on as it is, and says so.
Source: torch.compile with dynamic shapes; `blocks` is diffusers' regional compilation, which compiles one block of each
kind in place of the whole, in a fraction of the time.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from pipelines.denoise.adapters import DENOISER, AdapterSet
from pipelines.messages import Compile


@dataclass(frozen=True, slots=True)
class Compiling:
    """mode: blocks or full. threads: where it is done. What torch compiles again, for shapes of a kind that it has not
    seen, is waited for."""

    mode: Compile
    threads: Executor


class Denoiser:
    """Call it as the module, and with the adapters that are to act."""

    def __init__(self, module: Any, compiling: Compiling | None = None) -> None:
        self._module, self._compiling = module, compiling
        self._compiled: Callable[..., Any] | None = None

    @property
    def is_compiled(self) -> bool:
        return self._compiled is not None

    def __call__(self, adapters: AdapterSet, *arguments: Any, **named: Any) -> Any:
        # A compiled module does not see hooks that come and go, which is what adapters are.
        if adapters.key(DENOISER):
            with adapters.applied(DENOISER):
                return self._module(*arguments, **named)
        if self._compiled is not None:
            return self._compiled(*arguments, **named)
        if self._compiling is not None:
            compiling, self._compiling = self._compiling, None
            example = tree_map(_like, (arguments, named))
            compiling.threads.submit(self._compile, compiling.mode, *example)
        return self._module(*arguments, **named)

    def _compile(self, mode: Compile, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Runs beside the work, on a twin of the module that has the same weights."""
        try:
            twin = _twin(self._module)
            if mode == "blocks":
                twin.compile_repeated_blocks(dynamic=True)
            else:
                twin.compile(dynamic=True)
            with torch.inference_mode():
                for given in ((arguments, named), _with_more_rows((arguments, named))):
                    twin(*given[0], **given[1])
            self._compiled = twin
        except Exception as error:
            name = type(self._module).__name__
            reason = f"{type(error).__name__}: {str(error)[:500]}"
            print(f"worker: {name} cannot be compiled, and goes on as it is: {reason}", file=sys.stderr, flush=True)


def _twin(module: Any) -> Any:
    """A module of its own with the same tensors, so that the first can go on working while this one is compiled."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _like(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else value


def _with_more_rows(example: Any) -> Any:
    """The same with twice the rows: torch treats one row as a case of its own. The first tensor says how many there
    are; positions, which have no rows, are never as many."""
    rows = next(leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)).shape[0]

    def doubled(value: Any) -> Any:
        has_rows = isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == rows
        return torch.cat([value, value]) if has_rows else value

    return tree_map(doubled, example)
