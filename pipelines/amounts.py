"""Amounts of memory as people write them: bytes, units of 1,000 or 1,024, or a share of what there is.

Knows text and numbers. Imports nothing but the standard library, as both processes read it.
"""

from __future__ import annotations

import re

UNITS = {
    "": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
WHOLE_PERCENT = 100
# Of a device for weights: the rest is for pictures in work. Of the host's memory for those that left a CUDA device.
DEFAULT_WEIGHTS, DEFAULT_HOST = "70%", "50%"
AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(%|[kmgt]i?b)?", re.ASCII | re.IGNORECASE)
PATTERN = r"^(?i:[0-9]{1,15}(\.[0-9]{1,6})?\s*(%|[kmgt]i?b)?)$"


def amount_in(text: str, whole_bytes: int) -> int:
    """Bytes. text: such as "20GiB", "24000000000" or "70%", which is of whole_bytes.

    Raises ValueError when it is none of these, or above 100 %.
    """
    match = AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no amount: write bytes, such as 20GiB, or a share, such as 70%")
    number, unit = float(match[1]), (match[2] or "").lower()
    if unit != "%":
        return int(number * UNITS[unit])
    if number > WHOLE_PERCENT:
        raise ValueError(f"{text!r} is more than there is")
    return int(whole_bytes * number / WHOLE_PERCENT)


def amount_text(size_bytes: float) -> str:
    """For people: three digits and a unit of 1,024."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < UNITS["kb"]:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} GiB"
