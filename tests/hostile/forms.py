"""Hostile forms: boundaries, headers and names of parts that readers take in several ways, and forms that lose data."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import EDITS, GENERATIONS, INVALID, VARIATIONS, Case, head, message, shown
from tests.hostile.pictures import SMALL

KIND = "multipart/form-data; boundary=b"
END = b"--b--\r\n"


def part(name: str | bytes, content: bytes, *, file: str | bytes | None = None, more: bytes = b"") -> bytes:
    named = name if isinstance(name, bytes) else name.encode()
    disposition = b'Content-Disposition: form-data; name="%b"' % named
    if file is not None:
        disposition += b'; filename="%b"' % (file if isinstance(file, bytes) else file.encode())
    return b"--b\r\n" + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


IMAGE, PROMPT, SMALLEST = part("image", SMALL, file="x.png"), part("prompt", b"a"), part("strength", b"1")
GOOD = IMAGE + PROMPT + SMALLEST
BOUNDARIES = (
    *(
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; b",
    ),
    *(
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=\xe9",
    ),
    *(
        'multipart/form-data; boundary="b',
        "multipart/form-data; boundary=b ;x",
        "multipart/form-data; boundary=a b",
    ),
)
NO_FORM = {
    "empty": b"",
    "another boundary": GOOD.replace(b"--b\r\n", b"--c\r\n") + b"--c--\r\n",
    "no closing boundary": GOOD,
    "half a closing boundary": GOOD + b"--b-",
    "a closing boundary alone": b"--b\r\n--b--\r\n",
    "text before it": b"hello\r\n" + GOOD + END,
    "text behind it": GOOD + END + b"hello",
    "a second form behind it": GOOD + END + GOOD + END,
    "blanks behind a boundary": GOOD.replace(b"--b\r\n", b"--b  \r\n", 1) + END,
    "LF alone": GOOD.replace(b"\r\n", b"\n") + END,
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n" + END,
    "an empty name": part("", b"a") + END,
    "a name of 65 characters": part("x" * 65, b"a") + END,
    "a name in quotes": part('a\\"b', b"a") + END,
    "a name beyond ASCII": part("\u00e9", b"a") + END,
    "NUL in a name": part("a\0b", b"a") + END,
    "no disposition": b"--b\r\nContent-Type: text/plain\r\n\r\na\r\n" + END,
    "no headers": b"--b\r\n\r\na\r\n" + END,
    "another disposition": b'--b\r\nContent-Disposition: attachment; name="a"\r\n\r\na\r\n' + END,
    "two dispositions": part("prompt", b"a", more=b'Content-Disposition: form-data; name="n"\r\n') + END,
    "two names": b'--b\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\na\r\n' + END,
    "a name in RFC 5987": b"--b\r\nContent-Disposition: form-data; name*=utf-8''a\r\n\r\na\r\n" + END,
    "a file's name in RFC 5987": b"--b\r\n"
    b"Content-Disposition: form-data; name=\"image\"; filename*=utf-8''a\r\n\r\na\r\n" + END,
    "base64": part("prompt", b"YQ==", more=b"Content-Transfer-Encoding: base64\r\n") + END,
    "quoted-printable": part("prompt", b"=61", more=b"Content-Transfer-Encoding: quoted-printable\r\n") + END,
    "another charset": part("prompt", b"\xe9", more=b"Content-Type: text/plain; charset=latin-1\r\n") + END,
    "a folded header": b'--b\r\nContent-Disposition: form-data;\r\n name="a"\r\n\r\na\r\n' + END,
    "a header of 2,000 bytes": part("prompt", b"a", more=b"A: " + b"y" * 2000 + b"\r\n") + END,
    "nine headers": part("prompt", b"a", more=b"".join(b"A%d: y\r\n" % number for number in range(8))) + END,
    "a header without a colon": part("prompt", b"a", more=b"no header\r\n") + END,
    "65 parts": b"".join(part(f"x{number}", b"a") for number in range(65)) + END,
    "1,001 parts": b"".join(part(f"x{number}", b"a") for number in range(1001)) + END,
    "a form within": part("prompt", b"a", more=b"Content-Type: multipart/mixed; boundary=c\r\nContent-Type: x\r\n")
    + END,
    "JSON": b'{"prompt": "a"}',
    "a hundred thousand dashes": b"-" * 100_000,
}
NUMBERS = {
    "n": ("1.0", "+1", " 1", "1 ", "\u0661", "1e0", "", "True", "0", "11", "9" * 5000),
    "stream": ("True", "1", "yes", ""),
    "strength": ("NaN", "inf", "1,0", "0x1", "", "1_0", "\uff11"),
    "seed": ("-1", "1.5", str(2**64)),
}


def cases() -> Iterator[Case]:
    for kind in BOUNDARIES:
        yield Case("forms", f"'{shown(kind, 60)}'", message(GOOD + END, EDITS, media_type=kind), 400, "invalid_form")
    for name, body in NO_FORM.items():
        yield Case("forms", name, form(body), 400, "invalid_form")
    for param, values in NUMBERS.items():
        for value in values:
            sent = form(IMAGE + PROMPT + part(param, value.encode()) + END)
            yield Case("forms", f"{param} as '{shown(value)}'", sent, 400, INVALID, param)
    yield from _of_names()
    yield from _of_files()
    yield from _others()


def form(body: bytes, path: str = EDITS) -> bytes:
    return message(body, path, media_type=KIND)


def _of_names() -> Iterator[Case]:
    both = IMAGE + part("image[]", SMALL, file="y.png") + PROMPT + END
    yield Case("forms", "both image and image[]", form(both), 400, INVALID, "image")
    yield Case("forms", "two images", form(IMAGE + IMAGE + PROMPT + END), 400, INVALID, "image")
    yield Case("forms", "sixty images", form(IMAGE * 60 + PROMPT + END), 400, INVALID, "image")
    yield Case("forms", "two prompts", form(IMAGE + PROMPT + PROMPT + END), 400, INVALID, "prompt")
    yield Case(
        "forms", "an unknown part", form(GOOD + part("colour", b"red") + END), 400, "unknown_parameter", "colour"
    )
    yield Case("forms", "n[]", form(GOOD + part("n[]", b"1") + END), 400, "unknown_parameter", "n[]")
    yield Case(
        "forms", "objects in one another", form(GOOD + part("a[b][c]", b"1") + END), 400, "unknown_parameter", "a"
    )
    yield Case(
        "forms",
        "an object and a text",
        form(GOOD + part("svg[a]", b"1") + part("svg", b"1") + END),
        400,
        INVALID,
        "svg",
    )
    yield Case(
        "forms", "__proto__", form(GOOD + part("__proto__[a]", b"1") + END), 400, "unknown_parameter", "__proto__"
    )


def _of_files() -> Iterator[Case]:
    yield Case(
        "forms", "a prompt as a file", form(IMAGE + part("prompt", b"a", file="p.txt") + END), 400, INVALID, "prompt"
    )
    yield Case("forms", "an image as text", form(part("image", SMALL) + PROMPT + END), 400, INVALID, "image")
    yield Case("forms", "an empty file", form(part("image", b"", file="x.png") + PROMPT + END), 400, INVALID, "image")
    yield Case(
        "forms",
        "no file chosen",
        form(part("image", b"", file="") + PROMPT + END),
        400,
        "missing_required_parameter",
        "image",
    )
    yield Case(
        "forms", "a prompt that is not UTF-8", form(IMAGE + part("prompt", b"\xff") + END), 400, INVALID, "prompt"
    )
    yield Case("forms", "a prompt with NUL", form(IMAGE + part("prompt", b"a\0b") + END), 400, INVALID, "prompt")
    yield Case(
        "forms", "two megabytes of text", form(IMAGE + part("prompt", b"x" * 2_000_000) + END), 400, INVALID, "prompt"
    )
    for name in (
        "../../etc/passwd",
        "..\\..\\x.png",
        "/etc/cron.d/x",
        "a\u0301.png",
        "x.php",
        "con",
        "x" * 200,
        "a; rm -rf",
    ):
        sent = form(part("image", SMALL, file=name) + PROMPT + SMALLEST + END)
        yield Case("forms", f"a file named '{shown(name)}'", sent, 200, pictures=1)
    yield Case("forms", "loras that are no JSON", form(GOOD + part("loras", b"[") + END), 400, INVALID, "loras")
    yield Case(
        "forms",
        "a reference to a file",
        form(part("image", b"file:///etc/passwd") + PROMPT + END),
        400,
        INVALID,
        "image",
    )


def _others() -> Iterator[Case]:
    yield Case("forms", "for generations", form(GOOD + END, GENERATIONS), 415, "unsupported_media_type")
    yield Case("forms", "no prompt", form(IMAGE + END), 400, "missing_required_parameter", "prompt")
    yield Case("forms", "no image", form(PROMPT + END), 400, "missing_required_parameter", "image")
    yield Case(
        "forms",
        "a variation without its image",
        form(part("n", b"1") + END, VARIATIONS),
        400,
        "missing_required_parameter",
        "image",
    )
    charset = message(GOOD + END, EDITS, media_type=f"{KIND}; charset=utf-16")
    yield Case("forms", "a charset of its own", charset, 415, "unsupported_media_type")
    squeezed = message(GOOD + END, EDITS, media_type=KIND, Content_Encoding="gzip")
    yield Case("forms", "a compressed one", squeezed, 415, "unsupported_media_type")
    headers = {"Content-Type": KIND, "Transfer-Encoding": "chunked"}
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD + END) + b"0\r\n\r\n"
    yield Case("forms", "in chunks of one byte", head("POST", EDITS, headers) + chunks, 200, pictures=1)
    quoted = message(GOOD + END, EDITS, media_type='multipart/form-data; boundary="b"')
    yield Case("forms", "a boundary in quotes", quoted, 200, pictures=1)
