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
    """The names of a safetensors file's tensors. Raises CheckpointProblem as tensor_shapes does."""
    return frozenset(tensor_shapes(path))


def element_count(path: Path, prefix: str) -> int:
    """How many numbers the tensors below a prefix hold. Raises CheckpointProblem as tensor_shapes does."""
    return sum(prod(shape) for name, shape in tensor_shapes(path).items() if name.startswith(prefix))


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors, after a check that the file is as long as its header says.

    Format: 8 bytes little-endian header length, JSON header, data (https://huggingface.co/docs/safetensors).

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
    shapes, data_bytes = _shapes_and_data_bytes(path, header)
    expected_bytes = LENGTH.size + header_bytes + data_bytes
    if size_bytes != expected_bytes:
        raise CheckpointProblem(f"{path} has {size_bytes} bytes, its header says {expected_bytes}: copy it again")
    return shapes


def _shapes_and_data_bytes(path: Path, header: bytes) -> tuple[dict[str, tuple[int, ...]], int]:
    """What the header says of its tensors, and where the last one ends."""
    try:
        tensors = {name: entry for name, entry in json.loads(header.decode("utf-8")).items() if name != "__metadata__"}
        shapes = {name: tuple(map(operator.index, entry["shape"])) for name, entry in tensors.items()}
        return shapes, max(_end_of(entry["data_offsets"]) for entry in tensors.values())
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointProblem(f"{path} has a damaged header") from error


def _end_of(offsets: object) -> int:
    """Raises ValueError when the offsets are not two integers that a file can have."""
    match offsets:
        case [int(begin), int(end)] if bool not in (type(begin), type(end)) and 0 <= begin <= end < MAX_FILE_BYTES:
            return end
    raise ValueError("no two offsets")
