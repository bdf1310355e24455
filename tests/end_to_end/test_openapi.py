"""The OpenAPI description is true: schemathesis makes requests out of it, and a real server answers all as described.

What the description forbids is refused. What it allows succeeds; or it is refused for something that no schema can say,
and succeeds as soon as that alone is mended. Every failure, described or not, is a row of the table of errors.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
import schemathesis
from PIL import Image
from schemathesis import CheckContext, CheckFunction, GenerationMode, Response
from schemathesis.core.control import SkipTest
from schemathesis.core.result import Err
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from pipelines.messages import SAMPLERS_BY_FAMILY
from server.core.error_table import TABLE
from tests.end_to_end.server_process import SMALL, ServerProcess

Case = schemathesis.Case[Any]
Body = dict[str, Any]
LONG = (pytest.mark.whole, pytest.mark.timeout(1800))
MAX_STEPS, MAX_GUIDANCE_SCALE = 100, 20
MODELS = ("demo-sdxl", "dall-e-3", "gpt-image-1")
SAMPLERS = SAMPLERS_BY_FAMILY["sdxl"]
# Each of their parameters has its own ways to be wrong, and all four read them alike: /v1/organization/costs is left.
MANY_QUERIES = ("/v1/usage", "/v1/usage/summary", "/v1/organization/usage/images")
PATHS_THAT_NEED_A_PICTURE = ("/v1/images/edits", "/v1/images/variations")
ERRORS = [
    (
        row.status,
        {"type": row.kind, "code": row.code},
        None if row.retry_after_seconds is None else [str(row.retry_after_seconds)],
        None if row.should_retry is None else [str(row.should_retry).lower()],
    )
    for row in TABLE
]


def test_the_description_is_openapi_and_names_every_operation_and_path_parameter_once(server: ServerProcess) -> None:
    description = httpx.get(f"{server.url}/openapi.json").json()
    schemathesis.openapi.from_dict(description).validate()
    operations = [(path, one) for path, methods in description["paths"].items() for one in methods.values()]
    assert len({one["operationId"] for _, one in operations}) == len(operations) > 0
    for path, one in operations:
        in_path = [parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "path"]
        assert in_path == re.findall(r"{(\w+)}", path)


@pytest.mark.parametrize(("examples", "left_out"), [(4, MANY_QUERIES), pytest.param(300, (), marks=LONG)])
def test_what_the_description_forbids_is_refused_as_described(
    server: ServerProcess, subtests: pytest.Subtests, examples: int, left_out: tuple[str, ...]
) -> None:
    schema = described(server, GenerationMode.NEGATIVE, ["coverage", "fuzzing"], examples)
    check_every_operation(schema.exclude(path=list(left_out)), assert_refused, subtests)


@pytest.mark.parametrize(
    ("phases", "examples"), [(["examples", "fuzzing"], 4), pytest.param(["coverage", "fuzzing"], 60, marks=LONG)]
)
def test_what_the_description_allows_is_answered_as_described(
    server: ServerProcess, subtests: pytest.Subtests, phases: list[str], examples: int
) -> None:
    schema = described(server, GenerationMode.POSITIVE, phases, examples)
    check_every_operation(schema, assert_answered, subtests)


def described(server: ServerProcess, mode: GenerationMode, phases: list[str], examples: int) -> BaseSchema:
    server.wait_until_ready()
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    # Which 503 it may be, the table of errors says.
    schema.config.checks.not_a_server_error.expected_statuses = ["2xx", "4xx", "503"]
    schema.config.update(request_timeout=120)
    schema.config.phases.update(phases=phases)
    schema.config.generation.update(modes=[mode], max_examples=examples, deterministic=True)
    return schema


def check_every_operation(schema: BaseSchema, check: Callable[[Case], None], subtests: pytest.Subtests) -> None:
    # What schemathesis.pytest.from_fixture does; that one fails in pytest 9.2, as it sets a private attribute.
    for result in get_all_tests(schema=schema, test_func=check, settings=None, given_kwargs=None):
        if isinstance(result, Err):
            raise result.err()
        operation, test = result.ok()
        # Raised after the cases that are not random, where no others exist: a path may name anything.
        idle = () if operation.body else (SkipTest,)
        with subtests.test(operation.label), contextlib.suppress(*idle):
            test()


def assert_refused(case: Case) -> None:
    case.call_and_validate(additional_checks=OUR_CHECKS)


def assert_answered(case: Case) -> None:
    """A request is answered as it is; and if that is a refusal, then with success once it is mended."""
    if isinstance(case.body, dict):
        case.body = with_less_work(case.body)
    if answer_to(case).status_code != 200:
        if isinstance(case.body, dict):
            case.body = mended(case.body, case.path, is_form=case.media_type == "multipart/form-data")
        case.path_parameters = {name: existing_name(case) for name in case.path_parameters}
        case.query = {name: value for name, value in case.query.items() if name not in MISPLACED_IN_QUERIES}
        answer = answer_to(case)
        assert answer.status_code == 200, answer.text


def answer_to(case: Case) -> Response:
    # Whether a case that was changed is still an allowed one, schemathesis cannot tell: that is judged here.
    excluded: list[CheckFunction] = [positive_data_acceptance, negative_data_rejection]
    return case.call_and_validate(additional_checks=OUR_CHECKS, excluded_checks=excluded)


# What may be refused although each is allowed alone: an end before the start, more buckets than their width allows, a
# cursor that nobody gave out, and what has no place beside a CSV file.
MISPLACED_IN_QUERIES = {"end_time", "limit", "page", "format"}


def existing_name(case: Case) -> str:
    """Of a model, or of a file. A model that was pinned by the case before may be unloaded again."""
    server = str(case.operation.base_url).rstrip("/")
    if case.path.endswith("/unload"):
        httpx.post(f"{server}/admin/models/{MODELS[0]}/unpin", timeout=120)
    return MODELS[0] if "/models/" in case.path else name_of_a_file(server)


@functools.cache
def name_of_a_file(url: str) -> str:
    drawn = httpx.post(f"{url}/v1/images/generations", json={**SMALL, "prompt": "a red circle"}, timeout=120)
    return str(drawn.json()["data"][0]["url"]).rpartition("/")[2]


def failures_are_rows_of_the_table(_: CheckContext, answer: Response, case: Case) -> None:
    is_report = case.path == "/health/ready" and answer.status_code == 503
    if answer.status_code < 400 or is_report or case.method.upper() == "HEAD":
        return
    assert answer.headers["content-type"] == ["application/json"]
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    kind = {name: error[name] for name in ("type", "code")}
    advice = (answer.headers.get("retry-after"), answer.headers.get("x-should-retry"))
    assert (answer.status_code, kind, *advice) in ERRORS


def other_methods_are_not_allowed(_: CheckContext, answer: Response, case: Case) -> None:
    methods = {method.upper() for method in case.operation.schema[case.path]}
    if case.method.upper() not in methods:
        assert answer.status_code == 405
        assert set(answer.headers["allow"][0].split(", ")) == methods


def streams_hold_named_events_and_end_with_a_picture(_: CheckContext, answer: Response, __: Case) -> None:
    """The description says only that it is a stream: OpenAPI 3.1 has no words for its events."""
    if answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        events = [event.split("\n") for event in answer.text.split("\n\n") if event and not event.startswith(":")]
        kinds = [json.loads(data.removeprefix("data: "))["type"] for _, data in events]
        assert [name for name, _ in events] == [f"event: {kind}" for kind in kinds]
        assert "error" not in kinds
        assert kinds[-1].endswith(".completed")


# Schemathesis has checks that return whether they were passed over; these never are.
OUR_CHECKS: list[Any] = [
    failures_are_rows_of_the_table,
    other_methods_are_not_allowed,
    streams_hold_named_events_and_end_with_a_picture,
]


def with_less_work(body: Body) -> Body:
    """At most two small pictures of two steps, where more would be drawn; whatever would be refused stays.

    Ten pictures of 1024x1792 pixels in a hundred steps are allowed too, and take this model ten minutes.
    """
    less = {**body, "size": SMALL["size"] if body.get("size") in (None, "auto") else body["size"]}
    for name, most in (("n", 10), ("steps", MAX_STEPS), ("num_inference_steps", MAX_STEPS)):
        if type(less.get(name)) is int and less[name] <= most:
            less[name] = min(less[name], 2)
    return less if less.get("num_inference_steps") else {**less, "steps": less.get("steps") or SMALL["steps"]}


def mended(body: Body, path: str, *, is_form: bool) -> Body:
    """The same, with nothing changed but what may be refused although the description allows it."""
    mended = {name: value if value is None else MENDS.get(name, whole)(value) for name, value in body.items()}
    if is_form:
        mended = as_parts(mended)
    if path in PATHS_THAT_NEED_A_PICTURE and not given_in(mended) & {"image", "images"}:
        # null is allowed as a name's value, but a picture is needed.
        mended.update({name: picture(empty) for name, empty in (("image", ""), ("images", [])) if name in mended})
    unfit = misplaced(given_in(mended)) | HINTS
    return {name: value for name, value in mended.items() if name not in unfit}


# The embedded models were made for none.
HINTS = {"control", "control_image", "control_scale", "control_start", "control_end"}


def given_in(body: Body) -> set[str]:
    return {name for name, value in body.items() if value is not None}


def misplaced(given: set[str]) -> set[str]:
    """Which of the names must not stand beside the others."""
    doubled = {b for a, b in (("steps", "num_inference_steps"), ("image", "images")) if {a, b} <= given}
    return doubled if given & {"image", "images"} else {*doubled, "mask", "strength", "input_fidelity"}


def as_parts(body: Body) -> Body:
    """Pictures as files; and an object in the style that the description names, which schemathesis does not know."""
    files: Body = {name: PICTURE for name in ("image", "mask") if name in body}
    objects: Body = {"svg[a]": "1"} if body.get("svg") else {}
    return {**{name: value for name, value in body.items() if name != "svg"}, **files, **objects}


def white_picture() -> bytes:
    """As an image, anything will do; as a mask, it lets all change."""
    file = io.BytesIO()
    Image.new("RGB", (256, 256), "white").save(file, "PNG")
    return file.getvalue()


PICTURE = white_picture()
PICTURE_AS_TEXT = base64.b64encode(PICTURE).decode()


def picture(reference: Any) -> Any:
    """A real one, in the form in which something else was given."""
    match reference:
        case dict():
            return {"image_url": f"data:image/png;base64,{PICTURE_AS_TEXT}"}
        case list():
            return [picture(one) for one in reference[:1]] or [PICTURE_AS_TEXT]
        case _:
            return PICTURE_AS_TEXT


def whole(value: Any) -> Any:
    """1.0 is an integer to JSON Schema, and none to this server."""
    return int(value) if isinstance(value, float) else value


def text(value: str) -> str:
    """Without NUL and halves of surrogate pairs, and not of spaces alone."""
    kept = re.sub("[\0\ud800-\udfff]", "", value)
    return kept if kept.strip() else "a red circle"


MENDS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("prompt", "negative_prompt", "user", "safety_identifier"), text),
    **dict.fromkeys(("image", "images", "mask"), picture),
    **dict.fromkeys(("n", "steps", "num_inference_steps"), lambda _: 2),
    "model": lambda name: MODELS[len(name) % len(MODELS)],
    "sampler": lambda name: SAMPLERS[len(name) % len(SAMPLERS)],
    "size": lambda _: SMALL["size"],
    "provider": lambda _: "local",
    "background": lambda _: "opaque",
    "guidance_scale": lambda scale: min(scale, MAX_GUIDANCE_SCALE),
    # Of two steps, less would leave none.
    "strength": lambda strength: max(strength, 0.5),
    # Which adapters there are is each server's own; the demo has none. A form holds the array as text.
    "loras": lambda loras: "[]" if isinstance(loras, str) else [],
}
