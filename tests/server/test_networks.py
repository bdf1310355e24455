"""Guards the judgement of addresses: the first and the last address of every special network, and their neighbours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.networks import is_near, is_private, is_public

NOT_PUBLIC = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("168.63.129.16/32", "192.0.0.192/32", "100.100.100.200/32", "169.254.169.254/32"),
    *("::/128", "::1/128", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23"),
    *("2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48"),
    *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "::ffff:0:0:0/96", "fd00:ec2::/32"),
    *("::/3", "4000::/2", "8000::/1"),
]
# On each side of what stands above, where the side is public.
NEIGHBOURS = [
    *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
    *("168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("191.255.255.255", "192.0.1.0", "192.0.1.255", "192.0.3.0", "192.31.195.255", "192.31.197.0"),
    *("192.52.192.255", "192.52.194.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"),
    *("192.175.47.255", "192.175.49.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0"),
    *("203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
    *("2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::", "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff"),
    *("2620:4f:8001::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
    "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]
PRIVATE_EDGES = [
    *("10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"),
    *("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
NEVER_PRIVATE = [
    *("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "8.8.8.8"),
    *("0.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "224.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fec0::1", "ff02::1", "2606:4700::1111"),
    *("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::", "fd00:ec2::254", "fd20:ce::254", "168.63.129.16"),
]


@pytest.mark.parametrize("block", NOT_PUBLIC)
def test_no_special_network_is_public_from_its_first_address_to_its_last(block: str) -> None:
    network = ip_network(block)
    assert not is_public(network[0])
    assert not is_public(network[-1])
    assert not is_public(network[network.num_addresses // 2])


@pytest.mark.parametrize("address", NEIGHBOURS)
def test_the_address_beside_a_special_network_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1"])
def test_addresses_of_well_known_hosts_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "2001:0:7f00:1::", "::ffff:0:127.0.0.1"]
)
def test_a_private_address_wrapped_in_a_transition_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1111%1", "fd12::1%eth0", "::ffff:8.8.8.8%2"])
def test_an_address_with_a_zone_is_neither_public_nor_private(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not is_private(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE_EDGES)
def test_an_intranets_addresses_are_private(address: str) -> None:
    assert is_private(ip_address(address))


@pytest.mark.parametrize("address", NEVER_PRIVATE)
def test_loopback_link_local_metadata_and_public_addresses_are_not_private(address: str) -> None:
    assert not is_private(ip_address(address))


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:9000/x", True),
        ("http://localhost", True),
        ("http://[::1]:9000", True),
        ("https://10.1.2.3", True),
        ("http://192.168.0.9", True),
        ("http://[fd12::1]", True),
        ("http://moderator", False),
        ("http://169.254.169.254", False),
        ("http://0.0.0.0:9000", False),
        ("http://[fd00:ec2::254]", False),
        ("http://[fd12::1%25eth0]", False),
        ("http://192.0.2.1", False),
        ("https://8.8.8.8", False),
        ("https://api.openai.com/v1/moderations", False),
    ],
)
def test_only_a_url_whose_host_is_written_as_a_near_address_is_near(url: str, near: bool) -> None:
    assert is_near(url) is near


@settings(max_examples=500, deadline=None, database=None)
@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_calls_otherwise(address: IPv4Address | IPv6Address) -> None:
    judged = getattr(address, "ipv4_mapped", None) or address
    if is_public(address):
        assert judged.is_global
        assert not judged.is_multicast


@settings(max_examples=300, deadline=None, database=None)
@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_by_the_address_that_it_carries(address: IPv4Address) -> None:
    assert is_public(IPv6Address(f"::ffff:{address}")) == is_public(address)


@settings(max_examples=300, deadline=None, database=None)
@given(st.ip_addresses(v=4))
def test_no_other_address_that_carries_one_is_public(address: IPv4Address) -> None:
    whole = int(address)
    for carrier in (whole, (0x64FF9B << 96) + whole, (0x2002 << 112) + (whole << 80), (0x20010000 << 96) + whole):
        assert not is_public(IPv6Address(carrier))


@settings(max_examples=500, deadline=None, database=None)
@given(st.ip_addresses())
def test_no_address_is_both_public_and_private(address: IPv4Address | IPv6Address) -> None:
    assert not (is_public(address) and is_private(address))
