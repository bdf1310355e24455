"""Hostile references: URLs that mean this machine or its neighbours, however written, and texts that are no base64.

The server under test fetches from the open internet; so whatever is not refused by its address would be dialled.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from tests.hostile.case import GENERATIONS, INVALID, VARIATIONS, Case, asking, shown
from tests.server.picture_files import RED, file_of, plain, text_of

SMALL = file_of(plain("RGB", (64, 64), RED))
GOOD = text_of(SMALL)
URLS = (
    *("http://127.0.0.1/x.png", "http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0x7f000001/"),
    *("http://0x7f.1/", "http://0177.0.0.1/", "http://017700000001/", "http://127.0.0.1./", "http://127.000.000.001/"),
    *(
        "http://0/",
        "http://0.0.0.0/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "https://localhost/",
    ),
    *(
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::127.0.0.1]/",
    ),
    *(
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:7f00:1::]/",
    ),
    *(
        "http://[2001:0:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25lo]/",
        "http://[fe80::1%lo]/",
        "http://[fc00::1]/",
    ),
    *("http://[fd00:ec2::254]/", "http://[ff02::1]/", "http://[2001:db8::1]/", "http://[::ffff:0:127.0.0.1]/"),
    *("http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/", "http://2852039166/", "http://0xa9fea9fe/"),
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://100.64.0.1/"),
    *("http://192.0.2.1/", "http://198.18.0.1/", "http://198.51.100.1/", "http://203.0.113.1/", "http://224.0.0.1/"),
    *(
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://168.63.129.16/",
        "http://192.88.99.1/",
        "http://127.255.255.254/",
    ),
    *("http://\u2460\u2461\u2466.0.0.1/", "http://127\u30020\u30020\u30021/", "http://\uff11\uff12\uff17.0.0.1/"),
    *("http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.1.1.256/", "http://08.8.8.8/", "http://4294967296/"),
    *("http://user@127.0.0.1/", "http://user:pw@8.8.8.8/", "http://8.8.8.8@127.0.0.1/", "http://127.0.0.1\\@8.8.8.8/"),
    *("http://8.8.8.8:22/", "http://8.8.8.8:0/", "http://8.8.8.8:65536/", "http://8.8.8.8:-1/", "http://8.8.8.8:8080/"),
    *(
        "http://8.8.8.8:80:80/",
        "http://8.8.8.8: 80/",
        "http://8.8.8.8:\u0668\u0660/",
        "http://8.8.8.8:+80/",
        "https://8.8.8.8:6379/",
    ),
    *(
        "http://",
        "http:///x.png",
        "http://./",
        "http://../",
        "http://a..b/",
        "http://-a-/",
        "http://a_b/\0",
        "http://a b/",
    ),
    *(
        "http://a\tb/",
        "http://a\nb/",
        "http://a\r\nHost: b/",
        "http://8.8.8.8/\r\nX: y",
        "http:\\\\8.8.8.8\\",
        "http:/8.8.8.8/",
    ),
    *(
        "http:8.8.8.8",
        "http://[8.8.8.8]/",
        "http://[::1/",
        "http://::1]/",
        "http://[]/",
        "http://[v1.x]/",
        "http://%31%32%37.1/",
    ),
    *(
        "http://8.8.8.8#@127.0.0.1/\\",
        "http://xn--\x80/",
        "http://" + "a" * 300 + ".org/",
        "http://" + "a." * 200 + "org/",
    ),
    *("http://a/" + "x" * 100_000, " http://127.0.0.1/", "\thttp://127.0.0.1/", "HTTP://127.0.0.1/", "hTTps://[::1]/"),
)
OTHER_SCHEMES = (
    *(
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
        "file://localhost/etc/passwd",
        "ftp://8.8.8.8/x.png",
    ),
    *(
        "gopher://127.0.0.1:6379/_x",
        "dict://127.0.0.1:11211/",
        "ldap://127.0.0.1/",
        "jar:http://127.0.0.1!/",
        "s3://a/b",
    ),
    *(
        "blob:http://a/b",
        "javascript:alert(1)",
        "view-source:http://127.0.0.1",
        "unix:///var/run/docker.sock",
        "httpx://a/",
    ),
    *("about:blank", "mailto:a@b", "https+unix://a/", "phar://x", "data:,", "netdoc:///etc/passwd"),
)
NO_BASE64 = {
    "one letter": "A",
    "two letters without padding": "AA",
    "too much padding": GOOD.rstrip("=") + "====",
    "padding in the middle": GOOD[:8] + "=" + GOOD[8:],
    "a dollar": GOOD[:-4] + "$" + GOOD[-3:],
    "the URL-safe alphabet": base64.urlsafe_b64encode(b"\xff\xfe\xfd" * 30).decode(),
    "line ends": GOOD[:60] + "\n" + GOOD[60:],
    "a blank": " " + GOOD,
    "a quote": f'"{GOOD}"',
    "letters beyond ASCII": "\uff21" * 8,
    "NUL": GOOD + "\0\0\0\0",
    "base32": base64.b32encode(SMALL).decode(),
    "hexadecimal, one digit short": SMALL.hex()[:-1],
    "a path": "/etc/passwd",
    "a path up": "../../../etc/passwd",
    "padding alone": "====",
}
NO_DATA_URL = {
    "nothing behind it": "data:",
    "no comma": "data:image/png;base64",
    "no base64": f"data:image/png,{GOOD}",
    "another kind": f"data:image/svg+xml;base64,{GOOD}",
    "a page": "data:text/html;base64,PGI+",
    "a parameter": f"data:image/png;charset=utf-8;base64,{GOOD}",
    "two of them": f"data:image/png;base64,data:image/png;base64,{GOOD}",
    "escapes": "data:image/png;base64,%69VBORw0KGgo=",
    "a blank in front": f" data:image/png;base64,{GOOD}",
    "GIF": f"data:image/gif;base64,{GOOD}",
}
EMPTY = {"empty": "", "a data URL with nothing": "data:image/png;base64,"}


def cases() -> Iterator[Case]:
    for url in URLS:
        yield _refused("URLs", shown(url), url)
    for url in OTHER_SCHEMES:
        yield _refused("URLs", shown(url), url)
    for name, text in {**NO_BASE64, **EMPTY}.items():
        yield _refused("base64", name, text)
    for name, text in NO_DATA_URL.items():
        yield _refused("data URLs", name, text)
    yield from _of_other_params()
    yield from _shapes()


def _refused(group: str, name: str, image: Any) -> Case:
    return Case(group, name, asking(image=image), 400, INVALID, "image")


def _of_other_params() -> Iterator[Case]:
    """The same judge stands before every parameter and every form of a reference."""
    local = "http://169.254.169.254/x.png"
    yield Case("URLs", "in an object", asking(image={"image_url": local}), 400, INVALID, "image")
    yield Case("URLs", "in an array", asking(image=[local]), 400, INVALID, "image")
    yield Case("URLs", "for a variation", asking(VARIATIONS, image=local), 400, INVALID, "image")
    yield Case("URLs", "as a mask", asking(image=GOOD, mask=local), 400, INVALID, "mask")
    yield Case("base64", "as a mask", asking(image=GOOD, mask="$$$$"), 400, INVALID, "mask")
    yield Case("URLs", "in a stream", asking(image=local, stream=True), 400, INVALID, "image")


def _shapes() -> Iterator[Case]:
    shapes: dict[str, Any] = {
        "two pictures": [GOOD, GOOD],
        "a thousand pictures": [GOOD] * 1000,
        "an array of an array": [[GOOD]],
        "an object without a URL": {},
        "an object with more": {"image_url": GOOD, "detail": "high"},
        "an object of an object": {"image_url": {"url": GOOD}},
        "an object with null": {"image_url": None},
        "a file id": {"file_id": "file-1"},
        "null in an array": [None],
        "numbers": [137, 80, 78, 71],
    }
    for name, value in shapes.items():
        yield _refused("references", name, value)
    yield Case("references", "an empty array", asking(image=[]), 400, "missing_required_parameter", "image")
    yield Case("references", "no picture to vary", asking(VARIATIONS), 400, "missing_required_parameter", "image")
    right = {
        "base64": GOOD,
        "a data URL": f"data:image/png;base64,{GOOD}",
        "its kind in capitals": f"DATA:IMAGE/PNG;BASE64,{GOOD}",
    }
    for name, image in right.items():
        sent = asking(GENERATIONS, image=image, strength=1.0, response_format="b64_json")
        yield Case("odd and right", f"a picture as {name}", sent, 200, pictures=1)
