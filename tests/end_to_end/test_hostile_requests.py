"""Every bad request gets OpenAI's envelope with the right status, code and parameter; the worker never hears of it."""

from __future__ import annotations

import http.client
import json
from contextlib import closing

import httpx
import pytest

from tests.end_to_end.server_process import ServerProcess

JSON = {"content-type": "application/json"}


def assert_envelope(reply: httpx.Response, status: int, code: str | None, param: str | None) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)


def post(server: ServerProcess, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/images/generations", content=content, headers=JSON if headers is None else headers
    )


HUGE_INTEGER = "1" + "0" * 4999
PARAMETERS = [
    *[
        ("n", value)
        for value in ("0", "-1", "11", "1000000000", '"1"', "true", "1.0", "1e9", HUGE_INTEGER, "NaN", "[1]")
    ],
    *[
        ("size", json.dumps(value))
        for value in (
            "99999x99999",
            "0x0",
            "512x",
            "512X512",
            "\uff15\uff11\uff12x\uff15\uff11\uff12",
            "513x512",
            "2560x256",
            "x",
            "",
            " 512x512",
            512,
        )
    ],
    *[("prompt", json.dumps(value)) for value in ("", "   ", "a\0b", ["a"], 1, "x" * 1_000_000)],
    ("prompt", r'"\ud800"'),
    *[("seed", value) for value in ("-1", str(2**64), "1.5", "NaN", '"42"', "true", HUGE_INTEGER)],
    *[("steps", value) for value in ("0", "101", '"5"', "2.5", "Infinity")],
    *[("guidance_scale", value) for value in ("-1", "NaN", "Infinity", "1e999", "21", '"3"', "true")],
    *[("negative_prompt", value) for value in ("1", r'"\udc00"')],
    *[("response_format", value) for value in ('"b64"', '"URL"', "1")],
    *[("user", value) for value in ("1", "[]")],
    ("stream", '"true"'),
    ("output_format", '"gif"'),
    ("background", '"transparent"'),
    ("provider", '"bedrock"'),
    ("partial_images", "4"),
    ("image", '["a", "b"]'),
    ("image", '"http://127.0.0.1/x.png"'),
    ("model", "5"),
]


@pytest.mark.parametrize(("param", "value"), PARAMETERS, ids=lambda part: part[:24])
def test_a_value_out_of_range_or_of_the_wrong_type_names_its_parameter(
    server: ServerProcess, param: str, value: str
) -> None:
    others = "" if param == "prompt" else '"prompt": "a red circle", '
    reply = post(server, f'{{{others}"{param}": {value}}}'.encode())
    assert_envelope(reply, 400, "invalid_parameter", param)


@pytest.mark.parametrize("model", ["no-such-model", "../../etc/passwd", "x" * 10_000, "", "demo-sdxl/../demo-sdxl"])
def test_an_unknown_model_is_not_found(server: ServerProcess, model: str) -> None:
    reply = post(server, json.dumps({"prompt": "a red circle", "model": model}).encode())
    assert_envelope(reply, 404, "model_not_found", "model")


BODIES = {
    "truncated": b'{"prompt": "a',
    "trailing": b'{"prompt": "a"} x',
    "doubled key": b'{"prompt": "a", "n": 1, "n": 2}',
    "deep": b'{"prompt": ' + b"[" * 33 + b"]" * 33 + b"}",
    "very deep": b"[" * 200_000,
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "invalid UTF-8": b'{"prompt": "\xff"}',
    "empty": b"",
    "list": b"[]",
    "text": b'"prompt"',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_json_object_is_refused(server: ServerProcess, body: bytes) -> None:
    assert_envelope(post(server, body), 400, "invalid_json", None)


def test_a_missing_prompt_and_an_unknown_key_are_named(server: ServerProcess) -> None:
    assert_envelope(post(server, b"{}"), 400, "missing_required_parameter", "prompt")
    reply = post(server, b'{"prompt": "a", "guidence_scale": 1}')
    assert_envelope(reply, 400, "unknown_parameter", "guidence_scale")
    assert "Did you mean 'guidance_scale'?" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "multipart/form-data"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_another_content_type_is_refused(server: ServerProcess, headers: dict[str, str]) -> None:
    assert_envelope(post(server, b'{"prompt": "a"}', headers), 415, "unsupported_media_type", None)


def test_an_oversized_body_is_refused_by_its_declared_length_before_it_is_read(server: ServerProcess) -> None:
    assert b" 413 " in server.answer_to_unfinished_body(53477376)


def test_an_oversized_body_without_a_length_is_refused_at_the_cap(server: ServerProcess) -> None:
    chunks = (b" " * (1 << 20) for _ in range(60))
    try:
        reply = httpx.post(f"{server.url}/v1/images/generations", content=chunks, headers=JSON, timeout=60)
    except httpx.WriteError:
        return  # the server had answered and closed before all was sent, which is the point
    assert_envelope(reply, 413, "request_too_large", None)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("POST", "/v1/images/generations/", 404, "unknown_url"),
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/no-such-model", 404, "model_not_found"),
        ("GET", "/files/AAAAAAAAAAAAAAAAAAAAAA.png", 404, "file_not_found"),
        ("GET", "/files/..%2f..%2fetc%2fpasswd", 404, None),
        ("PUT", "/files/AAAAAAAAAAAAAAAAAAAAAA.png", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_methods_models_and_files_answer_in_the_envelope(
    server: ServerProcess, method: str, path: str, status: int, code: str | None
) -> None:
    reply = httpx.request(method, server.url + path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert code in (None, reply.json()["error"]["code"])


@pytest.mark.parametrize(
    "content", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"X" * 100_000]
)
def test_bytes_that_are_no_http_are_answered_in_the_envelope(server: ServerProcess, content: bytes) -> None:
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)) as connection:
        connection.connect()
        connection.sock.sendall(content)
        reply = http.client.HTTPResponse(connection.sock)
        reply.begin()
        assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
        assert json.loads(reply.read())["error"]["code"] == "invalid_http"


def test_after_all_that_the_same_worker_draws_the_next_picture(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/health/ready").json()["restarts"] == 0
    assert server.generate(prompt="a red circle").status_code == 200
