"""Hostile headers that say how a request is to be treated: its deadline, and the key that it is known by again.

Knows both headers as the README states them.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import EDITS, GENERATIONS, INVALID, JSON, VARIATIONS, Case, get, head, shown

GOOD = b'{"prompt": "a red circle", "response_format": "b64_json"}'
TIMEOUT, REPEAT = "x-safelight-timeout", "Idempotency-Key"
NO_TIMEOUTS = (
    *("", "0", "0.999", "-1", "+5", "86400.1", "86401", "9" * 20, "9" * 21, "9" * 5000, "1e3", "1E1", "0x10", "1_0"),
    *("5s", "5 s", "PT5S", "00:05", "NaN", "inf", "Infinity", "-inf", "null", "None", "true", "never", "5,6", "5, 5"),
    *("5;q=1", '"5"', ".", "..", "1.2.3", "1,5", "5%", "\xb2", "\uff15".encode().decode("latin-1"), "\xff\xfe", "5\t6"),
    *("0.0", ".5", "1/2", "${x}", "{0}", "' OR 1=1--"),
)
TIMEOUTS = ("86400", "000060", "60.", "60.000", " 60 ", "0000000000000000060.")
# What OpenAI's clients tell of themselves is passed over where it makes no sense.
TOLD = ("NaN", "-1", "0", "", "x" * 5000, "1e9", "\xff", "None", "not-given")
NO_KEYS = (
    *("", " ", "a b", "a\tb", "x" * 256, "x" * 10_000, "\xe9", "\xff\xfe", "\u00e4".encode().decode("latin-1"), "\x7f"),
    *("\U0001f600".encode().decode("latin-1"), "a\xa0b", "a\x80", "\xad"),
)
NO_HTTP = ("a\0b", "\0", "a\rb")
KEYS = (
    *("x" * 255, '"quoted"', "../../etc/passwd", "..", ".", "%00", "*", "a,b", "{0.__class__}", "~", "'", "$(reboot)"),
    *("' OR 1=1--".replace(" ", "+"), "\\\\host\\share", "con", "NUL", "<script>", "a;b", "=", "0"),
)


def cases() -> Iterator[Case]:
    yield from _of_deadlines()
    yield from _of_repeats()


def asking_with(*headers: tuple[str, str], path: str = GENERATIONS, body: bytes = GOOD) -> bytes:
    """A good request with these headers, several of one name too."""
    usual = head("POST", path, {"Content-Type": JSON, "Content-Length": str(len(body))})
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)
    return usual.removesuffix(b"\r\n") + lines + b"\r\n" + body


def _of_deadlines() -> Iterator[Case]:
    for text in NO_TIMEOUTS:
        yield Case("deadlines", f"'{shown(text)}'", asking_with((TIMEOUT, text)), 400, INVALID, TIMEOUT)
    for path in (EDITS, VARIATIONS):
        sent = asking_with((TIMEOUT, "soon"), path=path, body=b"{")
        yield Case("deadlines", f"soon, before the body of {path} is read", sent, 400, INVALID, TIMEOUT)
    for name, texts in {"two that differ": ("60", "soon"), "two that agree": ("60", "60")}.items():
        sent = asking_with(*((TIMEOUT, text) for text in texts))
        yield Case("deadlines", name, sent, 400, INVALID, TIMEOUT)
    for text in TIMEOUTS:
        yield Case("deadlines", f"'{shown(text)}' is one", asking_with((TIMEOUT, text)), 200, pictures=1)
    for text in TOLD:
        sent = asking_with(("x-stainless-read-timeout", text), ("x-stainless-timeout", text))
        yield Case("deadlines", f"a client that tells '{shown(text)}' of its own", sent, 200, pictures=1)
    yield Case("deadlines", "for a route that draws nothing", get("/health/live", X_Safelight_Timeout="soon"), 200)


def _of_repeats() -> Iterator[Case]:
    for key in NO_KEYS:
        yield Case("repeats", f"'{shown(key)}'", asking_with((REPEAT, key)), 400, INVALID, REPEAT)
    for key in NO_HTTP:
        yield Case("repeats", f"'{shown(key)}'", asking_with((REPEAT, key)), 400, "invalid_http")
    for name, keys in {"two that differ": ("a", "b"), "two that agree": ("a", "a"), "one and none": ("a", "")}.items():
        sent = asking_with(*((REPEAT, key) for key in keys))
        yield Case("repeats", name, sent, 400, INVALID, REPEAT)
    for key in KEYS:
        yield Case("repeats", f"'{shown(key)}' is one", asking_with((REPEAT, key)), 200, pictures=1)
    for path, param in ((GENERATIONS, "prompt"), (EDITS, "prompt"), (VARIATIONS, "image")):
        sent = asking_with((REPEAT, "again"), path=path, body=b"{}")
        code = "missing_required_parameter"
        yield Case("repeats", f"a good one, and a bad request for {path}", sent, 400, code, param)
    sent = asking_with((REPEAT, "again"), body=b"{")
    yield Case("repeats", "a good one, and no JSON", sent, 400, "invalid_json")
    yield Case("repeats", "for a route that draws nothing", get("/health/live", Idempotency_Key="\xff"), 200)
