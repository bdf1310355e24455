"""What the OpenAPI description says of keys, on a server that asks for them.

Knows the description's form and the routes' needs; checks nobody.
Source: OpenAPI 3.1, Security Scheme Object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.api.gate import Need

# By the path as the description writes it.
Needs = Mapping[str, Need]
SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Authorization: Bearer KEY, as OpenAI's clients send.",
    },
    "api_key": {"type": "apiKey", "in": "header", "name": "api-key", "description": "As Azure's clients send."},
}


def asking_for_keys(made: dict[str, Any], needs: Needs, refusals: Callable[..., dict[str, Any]]) -> None:
    """Add to a finished description what a caller needs for each operation. refusals: describes statuses."""
    locked = [path for path, need in needs.items() if need != "nobody" and path in made["paths"]]
    for path in locked:
        for operation in made["paths"][path].values():
            # Either of them will do.
            operation["security"] = [{name: []} for name in SCHEMES]
            operation["responses"].update(refusals(401, 403))
    if locked:
        made["components"]["securitySchemes"] = dict(SCHEMES)
