"""Asks the operator's own moderator, over HTTP: one call, one answer, within one deadline.

Knows the wire and both forms of an answer; knows no other check and no books.
Invariant: whatever is at the other end, the answer is yes, no or Undecided, within the deadline, of at most
MAX_ANSWER_BYTES; nothing of the environment leads the call elsewhere, and no redirect.
Source: OpenAI's API reference, moderations, for the shapes `input` and `results`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

import httpx2
import msgspec

from server.images.fetch import trusted_authorities
from server.images.networks import is_near
from server.policy.question import Question, Undecided

logging.getLogger("httpx2").setLevel(logging.WARNING)
MAX_ANSWER_BYTES = 64 * 1024
# Calls at one time; others wait, within their own deadlines.
MOST_AT_ONCE = 32


class _Answer(msgspec.Struct):
    """Ours: allow, and a reason that nobody is told."""

    allow: bool
    reason: str | None = None


class _Result(msgspec.Struct):
    flagged: bool


class _Moderation(msgspec.Struct):
    """OpenAI's, one result for each text or picture."""

    results: list[_Result]


class Hook:
    """url: the moderator's. key: sent as a bearer token; None sends none. Call `close` at the end."""

    def __init__(self, url: str, key: str | None, deadline_seconds: float) -> None:
        self._url, self._deadline_seconds, self._is_near = url, deadline_seconds, is_near(url)
        headers = {"User-Agent": "safelight", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._headers = headers
        self._http: httpx2.AsyncClient | None = None

    async def allows(self, question: Question) -> bool:
        """Raises Undecided."""
        if question.subject.is_local_only and not self._is_near:
            raise Undecided("refused_away")
        content = await asyncio.to_thread(_body, question)
        try:
            async with asyncio.timeout(self._deadline_seconds):
                answer = await self._answer(content)
        except TimeoutError:
            raise Undecided("timeout") from None
        except httpx2.TransportError:
            raise Undecided("unreachable") from None
        except httpx2.HTTPError:
            raise Undecided("bad_answer") from None
        return verdict_of(answer)

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _answer(self, content: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        client = await self._client()
        async with client.stream("POST", self._url, content=content, headers=headers) as response:
            if response.status_code != httpx2.codes.OK:
                raise Undecided("status")
            if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise Undecided("bad_answer")
            received = bytearray()
            async for part in response.aiter_raw():
                received += part
                if len(received) > MAX_ANSWER_BYTES:
                    raise Undecided("bad_answer")
            return bytes(received)

    async def _client(self) -> httpx2.AsyncClient:
        """Made at the first call; to read the trusted authorities would hold the loop."""
        if self._http is None:
            authorities = await asyncio.to_thread(trusted_authorities)
            self._http = self._http or httpx2.AsyncClient(
                headers=self._headers,
                follow_redirects=False,
                trust_env=False,
                timeout=None,  # the deadline is over all of it
                verify=authorities,
                limits=httpx2.Limits(max_connections=MOST_AT_ONCE),
            )
        return self._http


def verdict_of(answer: bytes) -> bool:
    """Whether it allows: {"allow": true}, or OpenAI's `results`, none of them flagged. Raises Undecided for any other
    answer, and for one that is both."""
    found = [_decoded(answer, form) for form in (_Answer, _Moderation)]
    match found:
        case [_Answer(allow=allow), None]:
            return allow
        case [None, _Moderation(results=[_, *_] as results)]:
            return not any(result.flagged for result in results)
    raise Undecided("bad_answer")


def _decoded(answer: bytes, form: Any) -> Any:
    try:
        return msgspec.json.decode(answer, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _body(question: Question) -> bytes:
    """In a thread: a picture in base64 is megabytes."""
    subject = question.subject
    told = {
        "input": _input(question),
        "model": subject.model,
        "key_id": subject.caller.key_id,
        "request_id": subject.request_id,
        "stage": question.stage,
        "level": subject.level,
    }
    return msgspec.json.encode(told)


def _input(question: Question) -> Any:
    """A text as such, several as an array; a picture as an array of one object."""
    if question.picture is None:
        return question.texts[0] if len(question.texts) == 1 else question.texts
    data = base64.b64encode(question.picture).decode("ascii")
    return [{"type": "image_url", "image_url": {"url": f"data:image/{question.picture_format};base64,{data}"}}]
