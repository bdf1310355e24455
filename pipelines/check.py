"""A short process that says which models could be served: specs come in as JSON lines, reports go out.

Knows the folder checks; imports no torch, so that it answers in a fraction of a second.
Invariant: one report per spec, in the order of the specs.
"""

from __future__ import annotations

import sys

import msgspec

from pipelines.messages import ModelReport, ModelSpec
from pipelines.weights.layout import source_of
from pipelines.weights.verify import find_problem


def main() -> None:
    for line in sys.stdin.buffer:
        spec = msgspec.json.decode(line, type=ModelSpec)
        report = ModelReport(spec.id, find_problem(source_of(spec), spec.family))
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
