"""A short process that says which models could be served: specs come in as JSON lines, reports go out.

Knows the folder checks; imports no torch, so that it answers in a fraction of a second.
Invariant: one report per spec, in the order of the specs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from pipelines.messages import ModelReport, ModelSpec
from pipelines.weights.adapter_file import find_adapter_problem
from pipelines.weights.layout import source_of
from pipelines.weights.verify import find_problem


def main() -> None:
    for line in sys.stdin.buffer:
        spec = msgspec.json.decode(line, type=ModelSpec)
        found = {name: find_adapter_problem(Path(path), spec.family) for name, path in spec.loras.items()}
        loras = {name: problem for name, problem in found.items() if problem is not None}
        report = ModelReport(spec.id, find_problem(source_of(spec), spec.family), loras)
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
