"""What it costs that bytes do not depend on company: the same pictures with and without exact rows, in turn.

python -m tests.benchmarks.exact --size 512x512 --rows 4 8
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Mapping

import httpx

from tests.benchmarks.batching import round_seconds
from tests.benchmarks.report import show
from tests.end_to_end.server_process import ServerProcess

CALLERS = 8


def exact_server(rows: int) -> ServerProcess:
    """rows: 0 for none."""
    return ServerProcess(environment={"SAFELIGHT_BATCH_EXACT_ROWS": str(rows)} if rows else {})


def measure(clients: Mapping[int, httpx.Client], size: str, rounds: int) -> dict[int, tuple[float, float]]:
    """Seconds for CALLERS pictures one by one, and all at once, by exact rows. Only one server works at a time."""
    seconds: dict[int, tuple[list[float], list[float]]] = {rows: ([], []) for rows in clients}
    for client in clients.values():
        round_seconds(client, size, CALLERS, at_once=True)  # learns what rows of this size cost
    for _ in range(rounds):
        for rows, client in clients.items():
            apart, together = seconds[rows]
            apart.append(round_seconds(client, size, CALLERS, at_once=False))
            together.append(round_seconds(client, size, CALLERS, at_once=True))
    return {
        rows: (statistics.median(apart), statistics.median(together)) for rows, (apart, together) in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        clients = {}
        for rows in (0, *arguments.rows):
            server = exact_server(rows)
            stack.callback(server.stop)
            server.wait_until_ready()
            clients[rows] = stack.enter_context(httpx.Client(base_url=server.url, timeout=600))
        figures = measure(clients, arguments.size, arguments.rounds)
    base = figures[0]
    table = [
        (rows or "off", f"{apart:.2f}", f"{apart / base[0]:.2f}", f"{together:.2f}", f"{together / base[1]:.2f}")
        for rows, (apart, together) in figures.items()
    ]
    header = ("exact rows", "one by one s", "of off", "together s", "of off")
    show("exact", header, table, {"size": arguments.size, "pictures": CALLERS, "seconds": figures})


if __name__ == "__main__":
    main()
