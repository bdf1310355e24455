"""Asks the server beside it whether it can draw: exit status 0 when it can, else 1 and a reason. For HEALTHCHECK.

Knows SAFELIGHT_HOST and SAFELIGHT_PORT; a port given as a flag it does not see.
Invariant: the standard library alone, and no proxy that the environment names is asked.
"""

from __future__ import annotations

import http.client
import os
import sys

# Below the timeout of HEALTHCHECK, so that the reason is ours to print.
TIMEOUT_SECONDS = 4.0


def reason_not_ready(host: str, port: int) -> str | None:
    """Why GET /health/ready does not answer 200, or None."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        reply = connection.getresponse()
        body = reply.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error!r}"
    finally:
        connection.close()
    return None if reply.status == http.client.OK else body


def main() -> int:
    host = os.environ.get("SAFELIGHT_HOST", "127.0.0.1")
    reason = reason_not_ready(host, int(os.environ.get("SAFELIGHT_PORT", "8000")))
    if reason is None:
        return 0
    print(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
