"""The operator's moderator may be slow, broken or hostile: the answer is yes, no or none, in time and in bounds."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from server.core.caller import ANYBODY, Caller
from server.policy.hook import MAX_ANSWER_BYTES, Hook
from server.policy.question import Question, Subject, Undecided
from tests.upstreams.scripted import Asked, Reply, ScriptedUpstream

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policy.md"
CALLER = Caller("key_1", "alice", frozenset(["generate"]))
TEXT = Question(Subject("req_1", CALLER, "dall-e-3", "low"), "prompt", ("a red circle",))
PICTURE = Question(Subject("req_1", ANYBODY, "tiny"), "result", picture=b"\x89PNG", index=2)
REFUSED = Question(Subject("req_1", CALLER, "dall-e-3", "low"), "prompt", ("a ring", "a purple ring"))
DEADLINE_SECONDS = 1.0


def reply(answer: Any, **more: Any) -> Reply:
    return Reply(body=answer if isinstance(answer, bytes) else json.dumps(answer).encode(), **more)


def ask(url: str, question: Question = TEXT, key: str | None = None) -> bool:
    async def once() -> bool:
        hook = Hook(url, key, DEADLINE_SECONDS)
        try:
            return await hook.allows(question)
        finally:
            await hook.close()

    return asyncio.run(once())


def asked_of(question: Question, key: str | None = None) -> Asked:
    with ScriptedUpstream(reply({"allow": True})) as moderator:
        assert ask(f"{moderator.url}/judge", question, key)
        return moderator.asked[0]


@pytest.mark.parametrize(
    ("answer", "is_allowed"),
    [
        ({"allow": True}, True),
        ({"allow": False, "reason": "no"}, False),
        ({"allow": False, "reason": None, "more": [1]}, False),
        ({"id": "modr-1", "model": "omni", "results": [{"flagged": False, "categories": {}}]}, True),
        ({"results": [{"flagged": False}, {"flagged": True}]}, False),
    ],
)
def test_both_forms_of_an_answer_are_understood(answer: Any, is_allowed: bool) -> None:
    with ScriptedUpstream(reply(answer)) as moderator:
        assert ask(moderator.url) is is_allowed


def test_a_moderator_is_told_the_text_whose_it_is_and_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    asked = asked_of(TEXT, key="secret")
    assert (asked.method, asked.path) == ("POST", "/judge")
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.json == {
        "input": "a red circle",
        "model": "dall-e-3",
        "key_id": "key_1",
        "request_id": "req_1",
        "stage": "prompt",
        "level": "low",
    }


def test_a_picture_is_sent_in_openais_form() -> None:
    asked = asked_of(PICTURE)
    (part,) = asked.json["input"]
    assert part["type"] == "image_url"
    assert part["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert (asked.json["stage"], asked.json["key_id"]) == ("result", None)
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b'{"allow": "true"}',
        b'{"allow": 1}',
        b'{"results": []}',
        b'{"results": [{}]}',
        b'{"results": [{"flagged": null}]}',
        b'{"allow": true, "results": [{"flagged": true}]}',
        b'{"allow": true}{"allow": false}',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"allow": true, "reason": "' + b"x" * MAX_ANSWER_BYTES + b'"}',
    ],
    ids=lambda answer: answer[:40].decode("latin-1"),
)
def test_an_answer_that_is_none_decides_nothing(answer: bytes) -> None:
    with ScriptedUpstream(reply(answer)) as moderator, pytest.raises(Undecided) as caught:
        ask(moderator.url)
    assert caught.value.problem == "bad_answer"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Reply(301, headers={"Location": "/other"}), "status"),
        (Reply(500, b'{"allow": true}'), "status"),
        (Reply(204), "status"),
        (Reply(None), "unreachable"),
        (reply({"allow": True}, headers={"Content-Encoding": "gzip"}), "bad_answer"),
        (reply({"allow": True}, declared_bytes=400, close_at=10), "unreachable"),
        (reply({"allow": True}, wait_seconds=30.0), "timeout"),
        (reply({"allow": True}, stall_at=5), "timeout"),
        (reply({"allow": True}, drip_seconds=0.5), "timeout"),
        (Reply(body=b"x" * 1000, endless=True), "bad_answer"),
    ],
    ids=["redirect", "500", "204", "closed", "gzip", "cut", "hangs", "stalls", "drips", "endless"],
)
def test_whatever_a_moderator_does_the_caller_hears_in_time_that_it_decided_nothing(
    answer: Reply, problem: str
) -> None:
    began = time.monotonic()
    with ScriptedUpstream(answer, reply({"allow": True})) as moderator:
        with pytest.raises(Undecided) as caught:
            ask(moderator.url)
        assert time.monotonic() - began < DEADLINE_SECONDS + 10
        assert caught.value.problem == problem
        assert len(moderator.asked) == 1


def test_a_moderator_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Undecided) as caught:
        ask(url)
    assert caught.value.problem == "unreachable"


def test_what_may_not_leave_is_sent_to_no_other_machine() -> None:
    subject = Subject("req_1", CALLER, "tiny", is_local_only=True)
    with pytest.raises(Undecided) as caught:
        ask("http://moderator.example.org", Question(subject, "prompt", ("x",)))
    assert caught.value.problem == "refused_away"
    with ScriptedUpstream(reply({"allow": True})) as moderator:
        assert ask(moderator.url, Question(subject, "prompt", ("x",)))


def test_the_moderator_of_the_page_lets_pass_and_refuses() -> None:
    (program,) = re.findall(r"```python\n(# moderator.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", program.replace("9000", str(port))], stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port}/judge"
        assert [ask(url, question) for question in (TEXT, REFUSED, PICTURE)] == [True, False, True]
    finally:
        process.kill()
        process.wait()
