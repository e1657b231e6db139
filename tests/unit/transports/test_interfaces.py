"""Wildcards to real addresses, from made-up interface lists."""

import ipaddress

import pytest

from pyp2p.peer.address import parse_multiaddr
from pyp2p.transports.interfaces import MAX_ADDRESSES, expand_wildcard, interface_addresses

HOST = ["127.0.0.1", "192.0.2.1", "10.0.0.5", "::1", "fe80::1", "2001:db8::1", "fd00::1"]

ROWS = [
    ("/ip4/0.0.0.0/tcp/4001", HOST, ["/ip4/192.0.2.1/tcp/4001", "/ip4/10.0.0.5/tcp/4001"]),
    ("/ip6/::/tcp/4001", HOST, ["/ip6/2001:db8::1/tcp/4001", "/ip6/fd00::1/tcp/4001"]),
    ("/ip4/0.0.0.0/tcp/1/ws", HOST, ["/ip4/192.0.2.1/tcp/1/ws", "/ip4/10.0.0.5/tcp/1/ws"]),
    ("/ip4/127.0.0.1/tcp/1", HOST, ["/ip4/127.0.0.1/tcp/1"]),
    ("/ip4/0.0.0.0/tcp/1", ["127.0.0.1"], ["/ip4/127.0.0.1/tcp/1"]),
    ("/ip6/::/tcp/1", ["::1", "fe80::1"], ["/ip6/::1/tcp/1"]),
    ("/ip6/::/tcp/1", ["127.0.0.1"], []),
    ("/memory/1", HOST, ["/memory/1"]),
]


@pytest.mark.parametrize(("address", "interfaces", "expected"), ROWS)
def test_expand(address: str, interfaces: list[str], expected: list[str]) -> None:
    found = expand_wildcard(parse_multiaddr(address), [ipaddress.ip_address(ip) for ip in interfaces])
    assert [str(each) for each in found] == expected


def test_bound() -> None:
    many = [ipaddress.ip_address(0x0A000000 + i) for i in range(1000)]
    assert len(expand_wildcard(parse_multiaddr("/ip4/0.0.0.0/tcp/1"), many)) == MAX_ADDRESSES


def test_this_machine_has_loopback() -> None:
    assert ipaddress.ip_address("127.0.0.1") in interface_addresses()
