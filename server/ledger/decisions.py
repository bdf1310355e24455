"""What the ledger holds of a content check: what was judged, by which check, and what came of it.

Knows values and their ranges; knows no database and no check.
Invariant: the text that was judged is here only where the operator wants it; its length and a keyed digest always are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Decision:
    """One check's, of one text or one picture. request_id and number (1, 2 ...) together are unique.

    index: of which picture; None before anything is drawn. stage: `prompt`, or `result` for what was drawn. decision:
    what came of it; problem: why the check itself could not tell, where it could not. ms: how long it took.
    prompt_digest: equal for equal texts of one run of the server, and of no use to whoever has the books alone.
    """

    request_id: str
    number: int
    index: int | None
    key_id: str | None
    check_name: str
    stage: Literal["prompt", "result"]
    level: Literal["low", "auto"]
    decision: Literal["allow", "refuse"]
    problem: str | None
    ms: int
    prompt_characters: int
    prompt_digest: str
    prompt: str | None
    began_unix_ms: int
