"""The one table of metrics: name, kind, labels and meaning of everything that /metrics shows.

Knows constants only. `docs/metrics.md` is this table as a page: `python -m server.metrics.table > docs/metrics.md`.
Invariant: no label takes its value from a caller. Values are models, backends and workers of the operator, error codes,
route templates and words of ours. Keys are no label: who used how much is the ledger's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.figures import SECONDS_BOUNDS

Kind = Literal["counter", "gauge", "histogram"]
# From a refusal in milliseconds to the longest answer that a plain client waits for.
REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
# Waiting is what callers feel: finer below a second, and up to what nobody waits for.
QUEUE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# A commit on an idle disk takes some milliseconds; a call ends after 10 seconds whatever happens.
LEDGER_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A header is read in milliseconds, a large picture decoded in a second or two.
DECODER_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
# A loop that is 5 ms late is felt by nobody; one that is a second late stands still.
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric. name: as it is queried, a counter's with its `_total`, a histogram's without its suffixes. buckets:
    upper bounds, of a histogram."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


def _counter(name: str, labels: str, meaning: str) -> MetricRow:
    return MetricRow(f"safelight_{name}_total", "counter", tuple(labels.split()), meaning)


def _gauge(name: str, labels: str, meaning: str) -> MetricRow:
    return MetricRow(f"safelight_{name}", "gauge", tuple(labels.split()), meaning)


def _histogram(name: str, labels: str, meaning: str, buckets: tuple[float, ...]) -> MetricRow:
    return MetricRow(f"safelight_{name}", "histogram", tuple(labels.split()), meaning, buckets)


# Requests.
HTTP_REQUESTS = _counter(
    "http_requests", "route method status", "answered HTTP requests; route `unknown`: none of ours"
)
HTTP_SECONDS = _histogram(
    "http_request_seconds", "route", "from the head of a request to the end of its answer", REQUEST_SECONDS
)
HTTP_OPEN = _gauge("http_requests_open", "", "HTTP requests that have no answer yet")
ERRORS = _counter("errors", "code", "requests that were answered with an error, in a stream too; `docs/errors.md`")
# Pictures.
IMAGES = _counter("images", "backend model operation outcome", "pictures: succeeded, failed or cancelled (client gone)")
DRAWING_SECONDS = _histogram(
    "drawing_seconds", "backend model", "from a request's entry in the books to its last picture", REQUEST_SECONDS
)
WORK_UNITS = _counter("work_units", "model", "rows x pixels x steps of the pictures that our own devices drew")
COST_USD = _counter("cost_usd", "backend model", "US dollars that attempts cost, also those that did not serve")
POLICY = _counter("policy_decisions", "check decision", "what the content checks decided: allow or refuse")
# The queue.
QUEUE = _histogram(
    "queue_seconds", "model", "from a picture's submission to the beginning of its work on a device", QUEUE_SECONDS
)
JOBS = _gauge("jobs", "model state", "pictures on their way on our own devices: waiting or working")
JOBS_LIMIT = _gauge("jobs_limit", "", "so many may be on their way before callers get 503 (MAX_WAITING_IMAGES)")
OLDEST = _gauge("queue_oldest_seconds", "", "how long the picture waits that waits longest; 0: none waits")
REDRAWN = _counter("jobs_redrawn", "", "pictures begun anew, as their worker had died")
# The engine, as the workers count it.
STEP_SECONDS = _histogram(
    "step_seconds",
    "worker model rows",
    "one denoise step; rows: of its forward, up to the number given, `more` beyond 64",
    SECONDS_BOUNDS,
)
STEP_ROWS = _histogram("step_rows", "worker model", "rows of one denoise step: how well jobs share forwards", ROWS)
PREPARE_SECONDS = _histogram("prepare_seconds", "worker model", "encoding the prompts of one batch", SECONDS_BOUNDS)
DECODE_SECONDS = _histogram("decode_seconds", "worker model", "decoding the pictures of one batch", SECONDS_BOUNDS)
BUSY_SECONDS = _counter("worker_busy_seconds", "worker", "seconds in which the worker prepared, stepped or decoded")
OUT_OF_MEMORY = _counter("out_of_memory", "worker model", "work items that the device's memory did not suffice for")
# Models and caches.
LOADS = _counter("model_loads", "worker model", "how often the model came to the device")
LOAD_SECONDS = _counter("model_load_seconds", "worker model", "seconds that these comings took")
EVICTIONS = _counter("model_evictions", "worker model", "how often the model had to leave the device")
MODEL_STATE = _gauge("model_state", "worker model state", "1 for the state that the model is in, 0 for the others")
MODEL_BYTES = _gauge("model_device_bytes", "worker model", "what of the model is on the device, shared parts too")
CACHE_BYTES = _gauge("cache_bytes", "worker model cache", "what is kept of encoded `prompts` and of `adapters`")
PROMPT_LOOKUPS = _counter("prompt_cache_lookups", "worker model result", "texts that were found encoded: hit or miss")
# Devices and their workers.
DEVICE_BYTES = _gauge("device_memory_bytes", "worker", "the device's memory; of a CPU the host's")
DEVICE_USED_BYTES = _gauge("device_memory_used_bytes", "worker", "what of it is taken, by whomever")
WORKER_UP = _gauge("worker_up", "worker", "1 if the worker takes jobs, else 0")
WORKER_INFO = _gauge("worker_info", "worker device", "1; which device the worker is for")
RESTARTS = _counter("worker_restarts", "worker", "worker processes that were replaced")
# Providers and the choice among them.
ATTEMPTS = _counter("attempts", "backend model cause", "who was asked; cause: `ok`, or why it did not serve")
ATTEMPT_SECONDS = _histogram("attempt_seconds", "backend model", "one attempt, whatever became of it", REQUEST_SECONDS)
PASSED_OVER = _counter("passed_over", "backend model cause", "whose turn it was and who was not asked, and why")
ROUTES = _counter(
    "routes",
    "backend model reason",
    "who served and why: only, in_order, faster, cheaper, preferred, or fallback, as whoever came before did not serve",
)
BACKEND_STATE = _gauge(
    "backend_state", "backend model state", "1 for the state that the target is in, 0 for the others"
)
DAILY_LIMIT = _gauge("daily_limit_usd", "backend", "what may be spent in a day; backend `all`: by all together")
# Books, files, other processes.
LEDGER = _histogram(
    "ledger_seconds", "operation", "one operation on the books, its wait for a commit too", LEDGER_SECONDS
)
LEDGER_PROBLEMS = _counter("ledger_problems", "operation", "operations that the ledger's database could not do")
COMMITS = _counter("ledger_commits", "", "groups of writes that were committed")
FILES_BYTES = _gauge("result_files_bytes", "", "what the result files take")
FILES_LIMIT = _gauge("result_files_limit_bytes", "", "what they may take (FILES_QUOTA_BYTES)")
DECODER = _histogram("decoder_seconds", "work", "one picture in a decoder process", DECODER_SECONDS)
DECODER_LOST = _counter("decoder_lost", "work", "decoder processes that died of a picture, or took too long")
# Health.
READY = _gauge("ready", "", "1 if a worker takes jobs, a model can be served and the server does not stop, else 0")
LAG = _histogram("event_loop_lag_seconds", "", "how late the event loop came to what was due", LAG_SECONDS)
INFO = _gauge("info", "version", "1; the server's version")
SPANS = _counter("spans", "outcome", "hops of traced requests: exported, or lost on the way to the collector")
PROCESS_CPU = _counter("process_cpu_seconds", "process", "CPU time; process: server, decoder, or worker-N")
PROCESS_RSS = _gauge("process_resident_memory_bytes", "process", "memory in RAM")
PROCESS_VIRTUAL = _gauge("process_virtual_memory_bytes", "process", "address space")
PROCESS_START = _gauge("process_start_time_seconds", "process", "when it was started, Unix time")
PROCESS_FILES = _gauge("process_open_fds", "process", "open file descriptors")
PROCESS_MAX_FILES = _gauge("process_max_fds", "process", "how many it may open")
PROCESS_THREADS = _gauge("process_threads", "process", "threads")

TABLE = tuple(row for row in globals().values() if isinstance(row, MetricRow))


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` shows these, to Prometheus as text or, where it asks for it, as OpenMetrics. Sums of workers",
        "go on over their restarts; those of the server begin with it. A metric appears with its first value. A",
        "histogram is queried by its `_bucket`, `_sum` and `_count`.",
        "",
        "This page is printed by `python -m server.metrics.table`.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, TABLE), "", *_bounds()]) + "\n"


def _line(row: MetricRow) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    return f"| `{row.name}` | {row.kind} | {labels} | {row.meaning} |"


def _bounds() -> list[str]:
    """The buckets, once for all histograms that share them."""
    sharing: dict[tuple[float, ...], list[str]] = {}
    for row in TABLE:
        if row.buckets:
            sharing.setdefault(row.buckets, []).append(f"`{row.name}`")
    return [
        "Buckets:",
        "",
        *(f"* {', '.join(map('{:g}'.format, one))}: {', '.join(of)}" for one, of in sharing.items()),
    ]


if __name__ == "__main__":
    print(page(), end="")
