"""The id that every reply carries in `x-request-id`, and that the log line of its request carries too."""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"
