"""Reads the two kinds of file that a model is made of, JSON and safetensors headers, and trusts neither.

Knows single files; knows no folders, families or tensors, and imports no torch.
Invariant: whatever the bytes are, the answer is their content or a CheckpointProblem that names the file.
"""

from __future__ import annotations

import json
import operator
import struct
from math import prod
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_FILE_BYTES = 2**63
# Where a safetensors header keeps text of its own among the tensors.
METADATA = "__metadata__"


class CheckpointProblem(Exception):
    """A model that cannot be served; the message says which file and why, and can always be encoded."""

    def __init__(self, message: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointProblem(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointProblem(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointProblem(f"{path} is not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointProblem(f"{path} does not hold a JSON object")
    if "auto_map" in value:
        raise CheckpointProblem(f"{path} names code of its own (auto_map), which is never run")
    return value


def tensor_names(path: Path) -> frozenset[str]:
    """The names of a safetensors file's tensors. Raises CheckpointProblem as `read_header` does."""
    return frozenset(read_header(path)) - {METADATA}


def element_count(path: Path, prefix: str) -> int:
    """How many numbers the tensors below a prefix hold. Raises CheckpointProblem as `read_header` does."""
    shapes = {name: entry["shape"] for name, entry in read_header(path).items() if name != METADATA}
    return sum(prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


def read_header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of each tensor, after a check that the file is as long as its header says.

    Beside the tensors there may be METADATA. Format: 8 bytes little-endian header length, JSON header, data
    (https://huggingface.co/docs/safetensors).

    Raises:
        CheckpointProblem: the file is missing, cut short, too long, or no safetensors file.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(LENGTH.size)
            header_bytes = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
            if not len(b"{}") <= header_bytes <= min(MAX_HEADER_BYTES, size_bytes - LENGTH.size):
                raise CheckpointProblem(f"{path} is not a safetensors file, or was cut short")
            header = file.read(header_bytes)
    except FileNotFoundError:
        raise CheckpointProblem(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointProblem(f"{path} cannot be read: {error.strerror}") from error
    entries, data_bytes = _entries_and_data_bytes(path, header)
    expected_bytes = LENGTH.size + header_bytes + data_bytes
    if size_bytes != expected_bytes:
        raise CheckpointProblem(f"{path} has {size_bytes} bytes, its header says {expected_bytes}: copy it again")
    return entries


def _entries_and_data_bytes(path: Path, header: bytes) -> tuple[dict[str, Any], int]:
    """What the header says, and where the last tensor ends."""
    try:
        entries: dict[str, Any] = json.loads(header.decode("utf-8"))
        tensors = [entry for name, entry in entries.items() if name != METADATA]
        for entry in tensors:
            entry["shape"] = [operator.index(side) for side in entry["shape"]]
        return entries, max(_end_of(entry["data_offsets"]) for entry in tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointProblem(f"{path} has a damaged header") from error


def _end_of(offsets: object) -> int:
    """Raises ValueError when the offsets are not two integers that a file can have."""
    match offsets:
        case [int(begin), int(end)] if bool not in (type(begin), type(end)) and 0 <= begin <= end < MAX_FILE_BYTES:
            return end
    raise ValueError("no two offsets")
