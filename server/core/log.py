"""One JSON object a line on standard error, for people with `jq` and for machines.

Invariant: no prompts, no keys, no picture bytes: what is logged is listed by the caller as fields. A line that is
written for a request carries its id. Of libraries only warnings are heard: they log what they send and receive.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from server.core.current import CURRENT

# uvicorn says when it starts and stops.
OURS = ("safelight", "uvicorn")
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """Escapes everything, so that one event is always one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        current = CURRENT.get()
        fields |= {} if current is None else current.fields()
        fields |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=max(logging.WARNING, logging.getLevelName(level.upper())), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    # Pillow warns of odd files; on its own that would be lines of plain text.
    logging.captureWarnings(True)
