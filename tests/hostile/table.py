"""The hostile list as a page: `python -m tests.hostile.table > docs/hostile.md`.

Knows all cases; sends none.
Invariant: no two cases have the same name, so that a line of the page is one test.
"""

from __future__ import annotations

from itertools import groupby

from tests.hostile import (
    bodies,
    forms,
    key_bearers,
    operators,
    parameters,
    pictures,
    references,
    request_headers,
    routes,
    texts,
    transport,
    usage_texts,
)
from tests.hostile.case import Case

PAGE_HEAD = """\
# The hostile list

What attacks this kind of server, and what it is answered: status, `code` and `param` of every case. Each is sent over a
socket of its own, byte for byte, those of keys to a server that asks for them. After each the server's promises are
checked (`tests/invariants.py`): it is live and ready, no worker was restarted, no process, descriptor, thread or file
is left, the books have no open entry and as many pictures as were delivered, and the next good request is drawn.
`scripts/test tests/hostile` sends a fair share of each class, `scripts/test --all tests/hostile` all of them.

This page is printed by `python -m tests.hostile.table`.
"""


def all_cases() -> tuple[Case, ...]:
    asking = (transport, bodies, request_headers, parameters, texts, references, pictures, forms)
    modules = (*asking, routes, usage_texts, operators, key_bearers)
    return tuple(case for module in modules for case in module.cases())


def page() -> str:
    """Markdown: a table for each class."""
    cases = sorted(all_cases(), key=lambda case: case.group.lower())
    groups = {group: list(members) for group, members in groupby(cases, key=lambda case: case.group)}
    lines = [PAGE_HEAD, f"{len(cases)} cases in {len(groups)} classes."]
    for group, members in groups.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", "| case | status | code | param |", "|---|---|---|---|"]
        lines += [_line(case) for case in members]
    return "\n".join(lines) + "\n"


def _line(case: Case) -> str:
    status = "closed" if case.status is None else str(case.status)
    code, param = (f"`{word}`" if word else "" for word in (case.code, case.param))
    return f"| {case.name} | {status} | {code} | {param} |"


if __name__ == "__main__":
    print(page(), end="")
