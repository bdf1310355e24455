"""A URL is fetched from the host that every other reader of URLs and the C library find in it, or it is not fetched."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.images.fetch import UnfetchableUrl, parse_url
from server.images.networks import is_public
from tests.fuzz.budget import budget

NUMBERS = st.one_of(
    *(
        st.integers(0, 2**33).map(str),
        st.integers(0, 2**33).map(hex),
        st.integers(0, 2**33).map(lambda value: f"0{value:o}"),
    ),
)
HOSTS = st.one_of(
    st.lists(NUMBERS, min_size=1, max_size=5).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.ip_addresses(v=4).map(lambda address: f"[::ffff:{address}]"),
    st.sampled_from(
        ["localhost", "a.example", "a.example.", "\uff11\uff12\uff17.0.0.1", "\u2460", "xn--a", "%31", "a%00b"]
    ),
    st.text(max_size=12),
)
BEFORE = st.sampled_from(
    ["http://", "https://", "HTTP://", "http:", "http:/", "http:\\\\", "http:///", "http://a@", "http://a:b@"]
)
AFTER = st.one_of(
    st.sampled_from(
        ["", "/", "/x", ":80/", ":443", ":8080/", ":+80/", "#@b/", "\\@b/", "?@b", "/../", ";@b", "\t", "\r\n"]
    ),
    st.text(max_size=8),
)


@budget()
@given(BEFORE, HOSTS, AFTER)
@example("http://", "127.1", "/")
@example("http://", "0x7f000001", "/")
@example("http://", "8.8.8.8", "#@127.0.0.1/")
@example("http://", "8.8.8.8", "\\@127.0.0.1/")
@example("http://", "[::ffff:127.0.0.1]", "/")
@example("http://", "017700000001", "/")
def test_every_reader_finds_the_same_host_in_a_url_that_is_accepted(before: str, host: str, after: str) -> None:
    text = before + host + after
    try:
        parsed = parse_url(text)
    except UnfetchableUrl as refusal:
        assert refusal.reason.isascii()  # noqa: PT017
        return
    written = str(parsed)
    assert {urlsplit(written).hostname, httpx.URL(written).raw_host.decode()} == {parsed.host}
    assert {urlsplit(written).port or parsed.port, httpx.URL(written).port or parsed.port} == {parsed.port}
    if text.isascii() and ":" not in parsed.host:
        assert urlsplit(text).hostname == parsed.host
    as_libc_reads_it(parsed.host)


def as_libc_reads_it(host: str) -> None:
    """What the C library takes for an IPv4 address must be written as one, or it would mean another host to it."""
    try:
        read = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return
    assert read == host


@budget()
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@example(ip_address("64:ff9b::a9fe:a9fe"))
@example(ip_address("2002:7f00:1::"))
@example(ip_address("::127.0.0.1"))
@example(ip_address("168.63.129.16"))
def test_what_is_called_public_is_so_to_the_standard_library_too_with_every_address_inside(address: object) -> None:
    judged = ip_address(str(address))
    if not is_public(judged):
        return
    inside = getattr(judged, "ipv4_mapped", None)
    flaws = ("is_multicast", "is_private", "is_loopback", "is_link_local", "is_reserved", "is_unspecified")
    assert (inside or judged).is_global
    assert not [flaw for flaw in flaws if getattr(inside or judged, flaw)]
    if isinstance(judged, IPv6Address):
        hidden = [judged.sixtofour, *(judged.teredo or ())]
        assert all(one is None or is_public(one) for one in hidden)


@pytest.mark.parametrize("text", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1."])
def test_the_c_library_does_read_such_hosts(text: str) -> None:
    """Or the property above would ask nothing."""
    assert socket.inet_aton(text.rstrip("."))
    with pytest.raises(UnfetchableUrl):
        parse_url(f"http://{text.rstrip('.')}/" if not text.endswith(".") else "http://127.1/")
