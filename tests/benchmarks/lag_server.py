"""A real server, or an idle event loop, that writes down how late its loop is: for `tests.benchmarks.lag`.

python -m tests.benchmarks.lag_server FILE [FOLDER]: each line is the time (monotonic) and the lag, in seconds. FOLDER:
where the server keeps its books; without one there is no server, only a loop with nothing to do.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from server.api.services import Services
from server.core.catalogue_file import load_catalogue
from server.core.loop_lag import LoopLag
from server.core.settings import load_settings
from server.listener import bind, serve


def say_where(address: str, _: Services) -> None:
    print(address, flush=True)


def main() -> None:
    with Path(sys.argv[1]).open("w", buffering=1) as file:

        def write(lag_seconds: float) -> None:
            file.write(f"{time.monotonic()} {lag_seconds}\n")

        if len(sys.argv) == 2:
            asyncio.run(LoopLag(write).run())
            return
        settings = load_settings({"port": 0, "ledger": f"sqlite:///{sys.argv[2]}/ledger.sqlite"})
        with bind(settings.host, settings.port) as listener:
            asyncio.run(serve(settings, load_catalogue(settings.models), listener, say_where, write))


if __name__ == "__main__":
    main()
