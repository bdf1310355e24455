"""The settings of one server: from flags, the environment (SAFELIGHT_*), and defaults, in that order.

Knows names and ranges; knows nothing of what they are used for.
Invariant: one frozen object, complete and checked before anything starts.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.amounts import PATTERN as AMOUNT_PATTERN
from pipelines.messages import Policy
from server.core.errors import did_you_mean
from server.core.request import ResponseFormat

PREFIX = "SAFELIGHT_"
# Read by the scripts, by `safelight draw` and, in tests, by the worker and the root of the server; no settings.
FOREIGN_VARIABLES = {f"{PREFIX}{name}" for name in ("VENV", "PYTHON", "FAULTS", "LEAKS", "SERVER", "KEY")}
# What libraries ask before they ask a hub. In the environment of every process that an offline server starts.
OFFLINE_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
}
DEFAULT_CATALOGUE = Path(__file__).resolve().parents[2] / "models.yaml"


class SettingsProblem(Exception):
    """The settings cannot be used; `problems` are complete sentences."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """All settings. Every field can be set as SAFELIGHT_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="The address to listen on; without keys loopback only.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    keys: Path | None = Field(
        default=None, description="The file of keys, which `safelight keys` writes; nobody is asked for one if unset."
    )
    models: Path = Field(default=DEFAULT_CATALOGUE, description="The catalogue, models.yaml.")
    models_folder: Path | None = Field(
        default=None, description="Where `safelight models pull` puts models; models/ beside the catalogue if unset."
    )
    ledger: str | None = Field(
        default=None,
        pattern=r"^(sqlite:///|postgresql\+psycopg://).+$",
        description="The database of the books, sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME; kept until the "
        "server stops if unset.",
    )
    ledger_keep_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="For how many days (UTC) before today the books are kept; for ever if unset.",
    )
    local_only: bool = Field(default=False, description="No request leaves this server for a provider.")
    daily_usd: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="What all providers together may cost in a day (UTC)."
    )
    device_usd_per_hour: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="What a device's time costs, for `usage.cost`."
    )
    route_seconds_per_usd: float = Field(
        default=100.0, ge=0, allow_inf_nan=False, description="What a dollar weighs where several could serve."
    )
    route_seconds_per_place: float = Field(
        default=30.0, ge=0, allow_inf_nan=False, description="What each later place in a route weighs."
    )
    fallback_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of requests that may be asked again, beyond ten.",
    )
    offline: bool = Field(
        default=False,
        description="Nothing that could go out is built: pictures are not fetched by URL, models are not pulled.",
    )
    files_folder: Path | None = Field(
        default=None,
        description="Where result files live for their hour; a temporary folder of the server's own if unset.",
    )
    public_base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="What result URLs start with, where other machines are to fetch them, such as https://HOST; "
        "http://HOST:PORT if unset, and 127.0.0.1 for 0.0.0.0.",
    )
    files_quota_bytes: int = Field(
        default=2 * 1024**3, ge=1024**2, description="What all result files together may take."
    )
    idempotency_folder: Path | None = Field(
        default=None,
        description="Where answers to requests with an Idempotency-Key are kept for a day, over restarts; a temporary "
        "folder of the server's own if unset.",
    )
    idempotency_quota_bytes: int = Field(
        default=1024**3, ge=0, description="What these answers together may take; 0 keeps none."
    )
    file_lifetime_seconds: int = Field(default=3600, ge=1, description="How long a result URL works.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|(cpu|cuda(:[0-9]{1,2})?)(,(cpu|cuda(:[0-9]{1,2})?))*)$",
        description="auto, cpu, cuda or cuda:N, or several with commas, a worker on each; auto: the first CUDA device.",
    )
    threads: int = Field(
        default_factory=lambda: max(1, len(os.sched_getaffinity(0))),
        ge=1,
        le=1024,
        description="CPU threads of all workers together; all that this process may use if unset.",
    )
    scheduling_policy: Policy = Field(
        default="fair",
        description="Who draws next: fair shares the device between callers, short work first; fifo takes requests in "
        "order of arrival.",
    )
    batch_max_rows: int = Field(
        default=16,
        ge=1,
        le=256,
        description="The most rows that one forward may hold; how many pay is measured while serving.",
    )
    batch_exact_rows: int | None = Field(
        default=None,
        ge=2,
        le=64,
        description="Pad every forward to so many rows, so that no picture depends on others, at the price of the "
        "time of unused rows; off if unset.",
    )
    job_memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="What pictures in work may hold together beyond the weights; if unset, what weights leave of a "
        "CUDA device, and no limit on a CPU.",
    )
    weights_memory: str | None = Field(
        default=None,
        pattern=AMOUNT_PATTERN,
        description="What models may take of each device, such as 20GiB or 80%; 70% if unset.",
    )
    host_memory: str | None = Field(
        default=None,
        pattern=AMOUNT_PATTERN,
        description="What models that left a CUDA device may take of the host's memory, from where they come back "
        "fast; 50% if unset.",
    )
    compile_cache_folder: Path | None = Field(
        default=None, description="Keeps compiled models for the next start; nothing is kept if unset."
    )
    prompt_cache_bytes: int = Field(
        default=256 * 1024 * 1024, ge=0, description="How much the encoded prompts of one model may take."
    )
    default_response_format: ResponseFormat = Field(
        default="url", description="What names of our own models answer with where a request does not say."
    )
    embed_facts: bool = Field(
        default=True, description="Write into every picture how it was drawn, so that it can be drawn again."
    )
    plain_answer_seconds: float = Field(
        default=280.0, gt=0, description="A plain request that would take longer is refused; streams have no limit."
    )
    image_urls: Literal["off", "listed", "open"] = Field(
        default="off",
        description="Whether pictures are fetched by URL: off, listed (from SAFELIGHT_IMAGE_URL_HOSTS) or open "
        "(from any public address).",
    )
    image_url_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts that pictures are fetched from, as a JSON list; *.example.org for all below it. An exact "
        "name may be an intranet's.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description='Web origins whose pages may call this server, as a JSON list; ["*"] for all, which '
        "lets no public page into a private network, whatever else is listed.",
    )
    max_body_bytes: int = Field(default=50 * 1024 * 1024, ge=1024, description="The largest request body.")
    receive_timeout_seconds: float = Field(
        default=30.0, gt=0, description="How long a request body may take to arrive."
    )
    max_waiting_images: int = Field(default=200, ge=1, description="Pictures that may wait before callers get 503.")
    limits_storage: str = Field(
        default="memory://",
        pattern=r"^(memory://|(redis|rediss|redis\+unix)://.+)$",
        description="Where minutes and slots are counted: memory:// or, for several servers together, redis://HOST, "
        "rediss://HOST or redis+unix://PATH.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Requests for pictures that the whole server takes in a minute."
    )
    images_per_minute: int | None = Field(
        default=None, ge=1, description="Pictures that the whole server takes on in a minute."
    )
    concurrent_images: int | None = Field(
        default=None,
        ge=1,
        description="Pictures of the whole server that may be on their way at one time, waiting ones too.",
    )
    work_units_per_day: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Rows x pixels x steps that the devices draw in a day (UTC); docs/keys.md has examples.",
    )
    worker_silence_seconds: float = Field(
        default=10.0, ge=2, description="A worker without a sign of life for so long is replaced."
    )
    step_timeout_seconds: float = Field(
        default=30.0,
        ge=1,
        allow_inf_nan=False,
        description="No step counts as hung that takes less; one of known work may take 10 times its slowest.",
    )
    drain_seconds: int = Field(
        default=10, ge=0, description="How long begun pictures may finish after SIGTERM, here and at providers."
    )
    log_prompts: bool = Field(
        default=False,
        description="Write prompts into the log; else only their length and a mark that equal ones share.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="An OpenTelemetry collector's URL, OTLP over HTTP: every request's trace is sent there, offline "
        "only to a private address; none if unset.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged, one JSON object a line on standard error."
    )

    @property
    def devices(self) -> tuple[str, ...]:
        """One worker is kept on each."""
        return tuple(self.device.split(","))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """Flags win over the environment; a flag that is None was not given. Raises SettingsProblem."""
    problems = [*_unknown_variables(os.environ), *_unreadable_variables(os.environ)]
    if problems:
        raise SettingsProblem(problems)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsProblem([_sentence(entry, flags) for entry in error.errors()]) from error


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | FOREIGN_VARIABLES
    strangers = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    return [f"{name}: unknown setting.{did_you_mean(name, known)}" for name in strangers]


def _unreadable_variables(environment: Mapping[str, str]) -> list[str]:
    """An empty path would be the current folder, and no keys file an open server: what holds nothing is most often
    another variable that was never set."""
    return [
        f"{PREFIX}{name.upper()}: {told}"
        for variable, value in sorted(environment.items())
        if (name := variable.upper().removeprefix(PREFIX).lower()) in Settings.model_fields
        and variable.upper().startswith(PREFIX)
        and (told := _unreadable(name, value)) is not None
    ]


def _unreadable(name: str, value: str) -> str | None:
    if not value.strip():
        return "is empty. Unset it, or give it a value."
    if get_origin(Settings.model_fields[name].annotation) is not tuple:
        return None
    try:
        is_list = isinstance(json.loads(value), list)
    except (ValueError, RecursionError):
        is_list = False
    return None if is_list else 'is no JSON list, such as ["example.org"].'


def _sentence(error: Any, flags: Mapping[str, Any]) -> str:
    """flags: those that the command has, given or not. A value is not repeated: it may hold a password."""
    name = str(error["loc"][0]) if error["loc"] else "settings"
    flag = f" (or --{name.replace('_', '-')})" if name in flags else ""
    told = error["msg"]
    if error["type"] == "string_pattern_mismatch":
        told = f"is not written as it must be. {Settings.model_fields[name].description}"
    return f"{PREFIX}{name.upper()}{flag}: {told}"
