"""What a log line may tell of a prompt: its length and a mark that equal prompts share, or the prompt itself.

Knows texts; knows no logger.
Invariant: without the operator's consent nothing leaves here that a prompt could be guessed from by trying: the mark is
keyed, and its key dies with the server.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hashlib import blake2b

MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class PromptLog:
    """is_open: the operator wants to read prompts (SAFELIGHT_LOG_PROMPTS)."""

    is_open: bool = False
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def fields(self, prompt: str) -> dict[str, str | int]:
        if self.is_open:
            return {"prompt": prompt}
        mark = blake2b(prompt.encode(errors="surrogatepass"), key=self._key, digest_size=MARK_BYTES).hexdigest()
        return {"prompt_characters": len(prompt), "prompt_mark": mark}
