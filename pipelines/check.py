"""A short process that says which models could be served: specs come in as JSON lines, findings go out. A line that
is a text is the folder of a safety checker.

Knows the folder checks; imports no torch, so that it answers in a fraction of a second.
Invariant: one finding per line, in the order of the lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from pipelines.messages import Finding, ModelSpec
from pipelines.weights.adapter_file import find_adapter_problem
from pipelines.weights.control_file import verify_controls
from pipelines.weights.files import CheckpointProblem, element_count
from pipelines.weights.layout import source_of
from pipelines.weights.safety_file import NAME, find_safety_problem
from pipelines.weights.verify import verify


def finding(spec: ModelSpec) -> Finding:
    found = {name: find_adapter_problem(Path(path), spec.family) for name, path in spec.loras.items()}
    loras = {name: problem for name, problem in found.items() if problem is not None}
    source = source_of(spec)
    try:
        layout = verify(source, spec.family)
        sound, broken = verify_controls(source, layout)
    except CheckpointProblem as problem:
        return Finding(spec.id, str(problem), loras=loras)
    parts = (*layout.weights.values(), *sound.values())
    weights = {part.name: sum(element_count(file, part.prefix) for file in part.files) for part in parts}
    return Finding(spec.id, None, weights, loras, {kind: str(problem) for kind, problem in broken.items()})


def main() -> None:
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line, type=ModelSpec | str)
        found = Finding(NAME, find_safety_problem(Path(asked))) if isinstance(asked, str) else finding(asked)
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
