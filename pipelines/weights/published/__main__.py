"""Prints the table of the published models: tensors that the loader expects, and what was found of them.

Run: python -m pipelines.weights.published. Nothing is downloaded and no weight takes memory.
"""

from __future__ import annotations

import sys

from pipelines.weights.published.table import Row, rows

HEADINGS = ("model", "component", "form", "parameters", "expected", "found", "missing", "unexpected", "misshapen")
LINE = "{:<13} {:<15} {:<32} {:>14} {:>8} {:>6} {:>7} {:>10} {:>9}"


def line(row: Row) -> str:
    compared = row.comparison
    shortfalls = (len(compared.missing), len(compared.unexpected), len(compared.misshapen))
    numbers = (f"{row.parameters:,}", compared.expected, compared.found, *shortfalls)
    return LINE.format(row.model, row.component, row.form, *numbers) + ("" if row.is_good else "  differs")


def main() -> int:
    """0 when every row is as published."""
    sys.stdout.write(LINE.format(*HEADINGS) + "\n")
    are_good = True
    for row in rows():
        sys.stdout.write(line(row) + "\n")
        are_good = are_good and row.is_good
    return 0 if are_good else 1


if __name__ == "__main__":
    sys.exit(main())
