"""Encodes prompts once: what a text became is kept as long as it fits under a cap.

Knows texts and tensors; knows no encoders and no jobs.
Invariant: the cache never holds more bytes than its cap, and lets go first of what was not asked for longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from pipelines.denoise.adapters import TEXT_ENCODERS, AdapterSet
from pipelines.denoise.rows import grouped


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: token states (1, T, D), and the pooled (1, P) where the family has one."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def size_bytes(self) -> int:
        return self.states.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(slots=True)
class CacheUse:
    """How many texts were found encoded, and how many were not."""

    hits: int = 0
    misses: int = 0


def separated(states: torch.Tensor, pooled: torch.Tensor | None = None) -> list[Encoded]:
    """The rows of one encoder's forward, (B, T, D) and (B, P), each as a text of its own."""
    rows = range(len(states))
    return [Encoded(states[row : row + 1], None if pooled is None else pooled[row : row + 1]) for row in rows]


class PromptCache:
    """encode: encodes several texts in one forward. one_by_one: one text a forward, so that what a text becomes depends
    on no other. use: counts what was found."""

    def __init__(
        self,
        encode: Callable[[Sequence[str]], list[Encoded]],
        cap_bytes: int,
        one_by_one: bool = False,
        use: CacheUse | None = None,
    ) -> None:
        self._encode, self._cap_bytes, self._one_by_one = encode, cap_bytes, one_by_one
        self._use = use or CacheUse()
        self._kept: OrderedDict[tuple[str, Hashable], Encoded] = OrderedDict()
        self.size_bytes = 0

    def encoded(self, texts: Iterable[str], adapters: Hashable = ()) -> dict[str, Encoded]:
        """What each text became; those not kept are encoded together. adapters: which ones the encoders have on now."""
        asked = list(dict.fromkeys(texts))
        found = {text: self._kept[text, adapters] for text in asked if (text, adapters) in self._kept}
        missing = [text for text in asked if text not in found]
        self._use.hits += len(found)
        self._use.misses += len(missing)
        for group in grouped(missing, self._one_by_one):
            found.update(zip(group, self._encode(group), strict=True))
        for text in asked:
            self._keep((text, adapters), found[text])
        return found

    def encoded_under(self, sets: Sequence[AdapterSet], texts: Sequence[Sequence[str]]) -> list[dict[str, Encoded]]:
        """What each job's texts became under its own adapters. Jobs whose adapters do the same to the encoders, which
        most leave alone, are encoded together."""
        keys = [adapters.key(*TEXT_ENCODERS) for adapters in sets]
        encoded: dict[Hashable, dict[str, Encoded]] = {}
        for key, adapters in dict(zip(keys, sets, strict=True)).items():
            asked = [text for own, job in zip(keys, texts, strict=True) if own == key for text in job]
            with adapters.applied(*TEXT_ENCODERS):
                encoded[key] = self.encoded(asked, key)
        return [encoded[key] for key in keys]

    def _keep(self, key: tuple[str, Hashable], encoded: Encoded) -> None:
        if key not in self._kept:
            self.size_bytes += encoded.size_bytes
        self._kept[key] = encoded
        self._kept.move_to_end(key)
        while self.size_bytes > self._cap_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.size_bytes -= dropped.size_bytes


def token_ids(tokenizer: object, texts: Sequence[str], length: int, device: torch.device) -> torch.Tensor:
    """(B, length) token ids; what does not fit is cut off, as the text window demands."""
    encoded = tokenizer(  # type: ignore[operator]  # transformers' tokenizers are untyped callables
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids.to(device)
