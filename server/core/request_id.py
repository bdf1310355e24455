"""The id that every reply carries in `x-request-id`, and that the log line of its request carries too."""

from __future__ import annotations

import secrets

# Where a request's own stands in its ASGI scope.
REQUEST_ID = "safelight.request_id"


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"
