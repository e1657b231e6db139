"""Distances, endpoints and who may tell of which address."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5.node import (
    Endpoint,
    Refusal,
    Scope,
    canonical,
    endpoints,
    log_distance,
    lookup_distances,
    refuse_record,
    scope,
    subnet,
)
from tests.unit.discv5.support import FakeRecord, id_at
from tests.vectors import load

ID = b"\x01" * 32


@pytest.mark.parametrize("distance", [1, 2, 8, 9, 255, 256])
def test_log_distance(distance):
    assert log_distance(bytes(32), id_at(distance, 0, bytes(32))) == distance
    assert log_distance(id_at(distance), id_at(distance)) == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", Scope.GLOBAL),
        ("::ffff:8.8.8.8", Scope.GLOBAL),
        ("2a00::1", Scope.GLOBAL),
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.255.1.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("10.0.0.1", Scope.PRIVATE),
        ("172.16.0.1", Scope.PRIVATE),
        ("192.168.0.1", Scope.PRIVATE),
        ("169.254.1.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("192.0.2.1", Scope.PRIVATE),
        ("fe80::1", Scope.PRIVATE),
        ("fe80::1%eth0", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("::ffff:10.0.0.1", Scope.PRIVATE),
        ("0.0.0.0", Scope.NOWHERE),
        ("::", Scope.NOWHERE),
        ("224.0.0.1", Scope.NOWHERE),
        ("ff02::1", Scope.NOWHERE),
        ("240.0.0.1", Scope.NOWHERE),
        ("255.255.255.255", Scope.NOWHERE),
        ("::ffff:224.0.0.1", Scope.NOWHERE),
    ],
)
def test_scope(address, expected):
    assert scope(canonical(address)) is expected


def test_an_endpoint_has_one_spelling():
    assert Endpoint.of("::ffff:8.8.8.8", 9) == Endpoint.of(ip_address("8.8.8.8"), 9) == Endpoint("8.8.8.8", 9)
    assert Endpoint.of("2A00:0::0001", 9) == Endpoint("2a00::1", 9)
    with pytest.raises(ValueError):
        Endpoint.of("example.org", 9)


def test_a_subnet_is_a_24_or_a_64():
    assert subnet(canonical("8.8.8.1")) == subnet(canonical("8.8.8.255")) != subnet(canonical("8.8.9.1"))
    assert subnet(canonical("2a00:1:2:3::1")) == subnet(canonical("2a00:1:2:3:ffff::")) != subnet(canonical("2a00::"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"ip": "8.8.8.8"}, []),
        ({"udp": 9}, []),
        ({"ip": "8.8.8.8", "udp": 9}, [("8.8.8.8", 9)]),
        ({"ip": "8.8.8.8", "udp6": 9}, []),
        ({"ip6": "2a00::1", "udp": 9}, [("2a00::1", 9)]),
        ({"ip6": "2a00::1", "udp": 9, "udp6": 8}, [("2a00::1", 8)]),
        ({"ip": "8.8.8.8", "ip6": "2a00::1", "udp": 9, "udp6": 8}, [("8.8.8.8", 9), ("2a00::1", 8)]),
        ({"ip": "8.8.8.8", "ip6": "2a00::1", "udp": 9}, [("8.8.8.8", 9), ("2a00::1", 9)]),
        ({"ip": "8.8.8.8", "ip6": "2a00::1", "udp6": 9}, [("2a00::1", 9)]),
    ],
)
def test_endpoints_of_a_record(fields, expected):
    fields = {name: ip_address(value) if name.startswith("ip") else value for name, value in fields.items()}
    assert [(each.ip, each.port) for each in endpoints(FakeRecord(ID, **fields))] == expected


PUBLIC, LAN, HERE = "9.9.9.9", "192.168.0.9", "127.0.0.1"


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("source", "address", "port", "refusal"),
    [
        (PUBLIC, "8.8.8.8", 9, None),
        (PUBLIC, None, None, None),
        (PUBLIC, "8.8.8.8", None, None),
        (PUBLIC, "8.8.8.8", 0, Refusal.PORT_ZERO),
        (PUBLIC, "0.0.0.0", 9, Refusal.UNSPECIFIED),
        (PUBLIC, "::", 9, Refusal.UNSPECIFIED),
        (PUBLIC, "224.0.0.1", 9, Refusal.MULTICAST),
        (PUBLIC, "ff02::1", 9, Refusal.MULTICAST),
        (PUBLIC, "255.255.255.255", 9, Refusal.RESERVED),
        (PUBLIC, "10.0.0.1", 9, Refusal.PRIVATE),
        (PUBLIC, "::ffff:10.0.0.1", 9, Refusal.PRIVATE),
        (PUBLIC, "fd00::1", 9, Refusal.PRIVATE),
        (PUBLIC, "127.0.0.1", 9, Refusal.PRIVATE),
        (PUBLIC, "::1", 9, Refusal.PRIVATE),
        (LAN, "8.8.8.8", 9, None),
        (LAN, "10.0.0.1", 9, None),
        (LAN, "127.0.0.1", 9, Refusal.PRIVATE),
        (LAN, "224.0.0.1", 9, Refusal.MULTICAST),
        (LAN, "10.0.0.1", 0, Refusal.PORT_ZERO),
        (HERE, "8.8.8.8", 9, None),
        (HERE, "10.0.0.1", 9, None),
        (HERE, "127.0.0.1", 9, None),
        (HERE, "::1", 9, None),
        (HERE, "0.0.0.0", 9, Refusal.UNSPECIFIED),
    ],
)
def test_hostile_088_who_may_tell_of_what(source, address, port, refusal):
    assert refuse_record(FakeRecord(ID).at(address, port), Endpoint(source, 1)) is refusal


@pytest.mark.hostile
def test_hostile_088_both_families_of_a_record_are_judged():
    told = FakeRecord(ID, 1, ip_address("8.8.8.8"), 9, ip_address("fd00::1"))
    assert refuse_record(told, Endpoint(PUBLIC, 1)) is Refusal.PRIVATE


# --- distances

VECTORS = load("discv5_messages")
DISTANCES = VECTORS["log_distance"]


def test_log_distances_of_the_vectors() -> None:
    for case in DISTANCES["cases"]:
        a, b = bytes.fromhex(case["a"]), bytes.fromhex(case["b"])
        assert log_distance(a, b) == log_distance(b, a) == case["log_distance"]
    target = bytes.fromhex(DISTANCES["target"]["node_id"])
    for case in DISTANCES["to_target_by_key"]:
        assert log_distance(bytes.fromhex(case["node_id"]), target) == case["log_distance"]
    for case in DISTANCES["to_target_by_id"]:
        assert log_distance(bytes.fromhex(case["id"]), target) == case["log_distance"]


def test_lookup_distances_of_the_vectors() -> None:
    for case in VECTORS["lookup_distances"]["cases"]:
        assert lookup_distances(case["log_distance"], len(case["ask"])) == case["ask"]
        assert lookup_distances(case["log_distance"]) == case["ask"]


@given(st.integers(0, 256), st.integers(1, 300))
def test_lookup_distances_are_the_nearest(distance: int, count: int) -> None:
    asked = lookup_distances(distance, count)
    there = {*range(1, 257), distance}
    assert len(asked) == len(set(asked)) == min(count, len(there)) and set(asked) <= there
    steps = [abs(one - distance) for one in asked]
    assert steps == sorted(steps) == sorted(abs(one - distance) for one in there)[:count]
