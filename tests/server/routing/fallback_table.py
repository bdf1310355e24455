"""Prints what every failure of the first backend leads to: `python -m tests.server.routing.fallback_table`.

Each row is a request through a real router, whose first backend fails so and whose second one would draw.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.backends.trouble import Facts, Trouble
from server.core import errors
from server.core.errors import SafelightError
from tests.server.routing.stage import BEDROCK, OPENAI, OURS, Scripted, Stage

OUR_FAILURES: dict[str, SafelightError] = {
    "more pictures wait than may": errors.overloaded(200),
    "the queue is longer than the caller's patience": errors.queue_too_long(300, 280),
    "the picture takes longer than the caller's patience": errors.too_slow_for_a_plain_answer(300, 280),
    "no worker starts": errors.worker_unavailable(),
    "two workers died of it": errors.worker_lost(),
    "out of memory, alone too": errors.insufficient_memory("It does not fit."),
    "the model's files are damaged": errors.model_unavailable("sdxl"),
    "an adapter's file is damaged": errors.adapter_unavailable("The adapter is damaged."),
    "the picture could not be drawn": errors.generation_failed("It failed."),
    "the server stops": errors.shutting_down(),
    "a parameter is wrong": errors.invalid_parameter("mask", "It leaves nothing to change."),
}
TROUBLES: dict[str, Trouble] = {
    "no connection": Trouble("unreachable"),
    "no answer in time": Trouble("timeout", Facts(is_charged=True)),
    "an answer that is none": Trouble("broken", Facts(200, is_charged=True)),
    "a picture that is none": Trouble("bad_picture"),
    "it failed (409, 5xx)": Trouble("failed", Facts(500)),
    "it has no room (503)": Trouble("overloaded", Facts(503)),
    "its rate limit (429)": Trouble("throttled", Facts(429, retry_after_seconds=7)),
    "its quota is used up": Trouble("no_quota", Facts(429)),
    "it does not know our key (401, 403)": Trouble("unauthorised", Facts(401)),
    "it does not have the model": Trouble("unknown_model", Facts(404)),
    "the model is retired": Trouble("retired", Facts(404)),
    "it takes the request to be wrong (400)": Trouble("refused", Facts(400)),
    "it will not draw this": Trouble("policy", Facts(400)),
    "this server's policy keeps its picture here": Trouble("own_policy"),
    "its picture cannot be checked": Trouble("unjudged"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one request, with a second backend and without."""

    cause: str
    with_another: str
    alone: str


def lines() -> list[Line]:
    ours = [_line(f"our own device: {cause}", failure, is_ours=True) for cause, failure in OUR_FAILURES.items()]
    return ours + [_line(f"a provider: {cause}", trouble, is_ours=False) for cause, trouble in TROUBLES.items()]


def _line(cause: str, failure: Exception, *, is_ours: bool) -> Line:
    first, second = (OURS, OPENAI) if is_ours else (OPENAI, BEDROCK)
    both, alone = (_outcome(failure, targets) for targets in ((first, second), (first,)))
    return Line(cause, both, alone)


def _outcome(failure: Exception, targets: tuple[object, ...]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        backends = {"local": Scripted(), "openai": Scripted(), "bedrock": Scripted()}
        stage = Stage(Path(folder), backends, targets)  # type: ignore[arg-type]
        backends[stage.targets[0].backend].script = [failure]
        try:
            served = stage.draw()
        except SafelightError as error:
            advice = "".join(f", {name}: {value}" for name, value in sorted(error.headers().items()) if "retry" in name)
            return f"{error.status} `{error.code}`{advice}; asked: {_asked(error.headers()['x-safelight-attempts'])}"
        return f"200; asked: {_asked(served.course.headers()['x-safelight-attempts'])}"


def _asked(attempts: str) -> str:
    return f"`{attempts}`"


def page() -> str:
    head = [
        "# What each failure leads to",
        "",
        "A request whose first backend fails, with a second one in its route that would draw, and alone. Printed by",
        "`python -m tests.server.routing.fallback_table`, which sends each through a real router and compares nothing:",
        "`tests/server/routing/test_router.py` does.",
        "",
        "| failure | with another backend | alone |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *(f"| {line.cause} | {line.with_another} | {line.alone} |" for line in lines())]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
