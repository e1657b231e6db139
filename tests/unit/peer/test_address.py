"""The strict way in for addresses, and what is read from them."""

import copy
import ipaddress
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from pyp2p.errors import InvalidMultiaddr, LocalProtocolError
from pyp2p.peer import address as address_module
from pyp2p.peer.address import (
    AddressKind,
    canonical,
    components,
    from_host_port,
    host_port,
    ip_of,
    is_dialable,
    is_loopback,
    is_private,
    is_public,
    is_unspecified,
    parse_multiaddr,
    split_peer,
    text,
    with_peer,
)
from pyp2p.peer.id import PeerId
from tests.vectors import load

VECTORS = load("multiaddr")
DIFFERS = VECTORS["py_multiaddr_0_2_0_differs"]
A = PeerId.parse("12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq")
B = PeerId.parse("16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY")


def ma(given_text: str) -> Multiaddr:
    return parse_multiaddr(given_text)


# Vectors.


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["text"][:60])
def test_valid(case):
    raw = bytes.fromhex(case["bytes"])
    address = parse_multiaddr(case["text"])
    assert address.to_bytes() == raw
    assert text(address) == case["canonical"]
    assert parse_multiaddr(raw) == parse_multiaddr(Multiaddr(raw)) == parse_multiaddr(case["canonical"]) == address
    assert str(address) == case["canonical"] and case["canonical"] in repr(address)  # logs are safe


@pytest.mark.parametrize("case", VECTORS["valid_bytes"], ids=lambda case: case["bytes"])
def test_valid_bytes(case):
    assert text(parse_multiaddr(bytes.fromhex(case["bytes"]))) == case["text"]


@pytest.mark.parametrize("case", VECTORS["invalid_texts"], ids=lambda case: case["text"][:60] or "empty")
def test_invalid_texts(case):
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr(case["text"])
    assert caught.value.position is not None and 0 <= caught.value.position <= len(case["text"])


@pytest.mark.parametrize("case", VECTORS["invalid_bytes"], ids=lambda case: case["bytes"] or "empty")
def test_invalid_bytes(case):
    raw = bytes.fromhex(case["bytes"])
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr(raw)
    assert caught.value.position is not None and 0 <= caught.value.position <= len(raw)
    with pytest.raises(InvalidMultiaddr):
        parse_multiaddr(Multiaddr(raw))


@pytest.mark.parametrize("given_text", DIFFERS["accepts_invalid_text"], ids=range(len(DIFFERS["accepts_invalid_text"])))
def test_what_the_library_accepts_wrongly(given_text):
    with pytest.raises(InvalidMultiaddr):
        parse_multiaddr(given_text)


def test_what_the_library_encodes_wrongly_is_right_here():
    right = {case["text"]: case["bytes"] for case in VECTORS["valid"]}
    for case in DIFFERS["valid_text_other_result"]:
        assert parse_multiaddr(case["text"]).to_bytes().hex() == right[case["text"]] != case["py"]


@pytest.mark.parametrize("protocol", VECTORS["protocols"], ids=lambda protocol: protocol["name"])
def test_the_table_has_every_protocol(protocol):
    code = bytes.fromhex(protocol["code_varint"])
    if protocol["size_bits"] == 0:
        (part,) = components(parse_multiaddr(code))
        assert (part.name, part.code, part.value, part.raw) == (protocol["name"], protocol["code"], "", b"")
        assert repr(parse_multiaddr(code)) == f"<Multiaddr /{protocol['name']}>"
    else:
        with pytest.raises(InvalidMultiaddr):  # its value is missing, at the place where it should be
            parse_multiaddr("/" + protocol["name"])
        with pytest.raises(InvalidMultiaddr) as caught:
            parse_multiaddr(code)
        assert caught.value.position == len(code)


def test_a_checked_address_is_a_multiaddr_like_any_other():
    address = parse_multiaddr("/ip4/1.2.3.4/tcp/9")
    assert isinstance(address, Multiaddr)
    assert address == Multiaddr("/ip4/1.2.3.4/tcp/9") and hash(address) == hash(Multiaddr("/ip4/1.2.3.4/tcp/9"))
    assert str(address.encapsulate(Multiaddr("/ws"))) == "/ip4/1.2.3.4/tcp/9/ws"
    assert str(copy.copy(address)) == str(pickle.loads(pickle.dumps(address))) == str(address)


# Where it goes wrong.


@pytest.mark.parametrize(
    ("given_text", "position"),
    [
        ("/ip4/127.0.0.1/tcp/1x", 19),
        ("/ip4/127.0.0.1/tcpp/1", 15),
        ("/ip4/127.0.0.1//tcp/1", 15),
        ("/ip4/127.0.0.300/tcp/1", 5),
        ("/ip4/127.0.0.1/tcp", 18),
        ("/dns4/a..b/tcp/1", 6),
        ("/ip4/1.2.3.4/tcp/1/p2p/Qm", 23),
        ("/onion/timaq4ygg2iegci7:0/http", 7),
        ("/ip4/1.2.3.4\x1b[0m", 12),
        ("/dns4/b\u00fccher.example/tcp/1", 7),
        ("ip4/1.2.3.4", 0),
        ("/p2p-circuit" * 25, 288),
    ],
)
def test_the_position_in_a_text(given_text, position):
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr(given_text)
    assert caught.value.position == position
    assert str(caught.value).isprintable() and str(caught.value).isascii()


@pytest.mark.parametrize(
    ("raw", "position"),
    [
        ("047f0000010604d204", 9),
        ("047f0000010604d2ff01", 8),
        ("047f0000010604d2ffff", 8),
        ("047f000001a5030300", 8),
        ("047f000001a503ff00", 7),
        ("047f000001a50302aa01", 8),
    ],
)
def test_the_position_in_bytes(raw, position):
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr(bytes.fromhex(raw))
    assert caught.value.position == position


# Hostile.

LONG = {
    "port_5000_digits": "/ip4/1.2.3.4/tcp/" + "1" * 5000,
    "port_2000_digits": "/ip4/1.2.3.4/tcp/" + "1" * 2000,
    "memory_21_digits": "/memory/" + "0" * 20 + "1",
    "circuit_10000": "/p2p-circuit" * 10_000,
    "circuit_25": "/p2p-circuit" * 25,
    "one_mib": "/ip4/" + "1" * (1 << 20),
    "slashes": "/" * (1 << 20),
    "slashes_after_a_good_one": "/ip4/1.2.3.4" + "/" * 2048,
    "p2p_20000": "/p2p/" + "1" * 20_000,
    "p2p_2000": "/p2p/" + "1" * 2_000,
    "certhash_2000": "/certhash/z" + "1" * 2_000,
    "certhash_base36": "/certhash/k" + "1" * 2_000,
    "dns_2000": "/dns4/" + "a" * 2_000,
    "label_64": "/dns4/" + "a" * 64,
    "name_255": "/dns4/" + ".".join(["a" * 50] * 5) + ".a",
    "unix_1025": "/unix/" + "a" * 1025,
}
STRANGE = [
    *("/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/\u0661", "/ip4/1.2.3.4/tcp/1_0"),
    *("/ip6zone//ip6/::1", "/ip6zone/x/y", "/unix/", "/unix", "/unix//", "/dns4/", "/dns4//tcp/1", "/dns4/b\u00fccher"),
    *("/dns4/a b", "/dns4/.a", "/dns4/a..b", "/dns4/a%00", "/ip4/\u0661.2.3.4", "/ip4/1.2.3.4\n", "/ip4/1.2.3.4\0"),
    *("/ip6/::1%lo", "/ip6/1.2.3.4", "/http-path/%", "/http-path/%zz", "/http-path/%ff", "/http-path/", "/sni/a/b"),
    *("/certhash/u", "/certhash/uAQ", "/certhash/uEgA", "/certhash/!", "/garlic32/77", "/onion/timaq4ygg2iegci7:00"),
]


@pytest.mark.hostile
@pytest.mark.parametrize("given_text", [*LONG.values(), *STRANGE], ids=[*LONG, *range(len(STRANGE))])
def test_hostile_058_texts(given_text):
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_multiaddr(given_text)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.hostile
@pytest.mark.parametrize(
    "raw",
    {
        "length_past_the_end": "3505616263",
        "length_of_2_63": "35" + "ff" * 8 + "7f",
        "varint_of_10_bytes": "ff" * 10,
        "length_of_10_bytes": "35" + "ff" * 10,
        "zero_length_name": "3500",
        "zero_length_peer": "a50300",
        "zero_length_http_path": "e10300",
        "zero_length_garlic64": "be0300",
        "zero_length_garlic32": "bf0300",
        "garlic32_of_33": "bf0321" + "00" * 33,
        "zero_length_certhash": "d20300",
        "certhash_no_digest": "d203021200",
        "certhash_cut": "d203031220aa",
        "certhash_trailing": "d20304" + "1201aabb",
        "certhash_bad_varint": "d2030b" + "ff" * 11,
        "unknown_code": "7f",
        "unknown_code_big": "ffffffff0f",
        "trailing": "047f00000100",
        "name_with_control": "3503611b62",
        "name_not_ascii": "3502c3a9",
        "zone_with_slash": "2a03612f62",
        "zone_not_ascii": "2a02c3a9",
        "path_with_newline": "9003032f610a",
        "path_not_ascii": "9003032fc3a9",
        "http_path_not_utf8": "e10301ff",
        "components_25": "a202" * 25,
        "bytes_1280": ("35fd01" + "61" * 63 + ("2e" + "61" * 63) * 2 + "2e" + "61" * 61) * 5,
        "one_mib": "04" * (1 << 20),
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_057_bytes(raw):
    data = bytes.fromhex(raw[1])
    with pytest.raises(InvalidMultiaddr):
        parse_multiaddr(data)
    with pytest.raises(InvalidMultiaddr):
        parse_multiaddr(Multiaddr(data))
    with pytest.raises(InvalidMultiaddr):
        text(Multiaddr(data))


@given(st.binary(max_size=80))
def test_bytes_raise_nothing_else(raw):
    try:
        address = parse_multiaddr(raw)
    except InvalidMultiaddr:
        return
    assert parse_multiaddr(text(address)).to_bytes() == raw
    assert str(address) == text(address)


WORDS = st.one_of(
    st.sampled_from([protocol["name"] for protocol in VECTORS["protocols"]]),
    st.sampled_from(["1.2.3.4", "::1", "80", "0", "", "a.b", str(A), B.to_cid(), "x", "uEgEA", "%20", "1.2.3.4:5"]),
    st.text(max_size=8),
)


@given(st.lists(WORDS, max_size=8).map(lambda words: "/" + "/".join(words)))
def test_texts_raise_nothing_else(given_text):
    try:
        address = parse_multiaddr(given_text)
    except InvalidMultiaddr as error:
        position = error.position
    else:
        assert parse_multiaddr(text(address)) == address
        assert str(address) == text(address)
        position = 0
    assert position is not None and 0 <= position <= len(given_text)


@given(st.lists(st.sampled_from([case["bytes"] for case in VECTORS["valid"]]), min_size=1, max_size=3), st.data())
def test_changed_addresses_raise_nothing_else(parts, data):
    raw = bytearray.fromhex("".join(parts))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        address = parse_multiaddr(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    except InvalidMultiaddr:
        return
    assert parse_multiaddr(text(address)) == address and str(address) == text(address)


def test_the_caches_are_bounded():
    for port in range(1, 5000):
        parse_multiaddr(f"/ip4/192.0.2.1/tcp/{port}")
    for cache in (address_module._decoded, address_module._from_text):
        assert cache.cache_info().currsize <= 2048
    assert parse_multiaddr("/ip4/192.0.2.1/tcp/1") is parse_multiaddr(b"\x04\xc0\x00\x02\x01\x06\x00\x01")


# Reading addresses.


def test_components():
    parts = components(ma(f"/ip4/1.2.3.4/udp/9/quic-v1/p2p/{A}"))
    assert [(part.name, part.value) for part in parts] == [
        ("ip4", "1.2.3.4"),
        ("udp", "9"),
        ("quic-v1", ""),
        ("p2p", str(A)),
    ]
    assert [part.code for part in parts] == [4, 273, 461, 421]
    assert [part.raw for part in parts] == [b"\1\2\3\4", b"\0\x09", b"", A.raw]
    (path,) = components(ma("/unix/tmp/socket"))
    assert path.value == "tmp/socket"  # so that /name/value is always the text


def test_the_peer_at_the_end():
    bare, full = ma("/ip4/1.2.3.4/tcp/9"), ma(f"/ip4/1.2.3.4/tcp/9/p2p/{A}")
    assert split_peer(bare) == (bare, None)
    assert split_peer(full) == (bare, A)
    assert with_peer(bare, A) == full == with_peer(full, A)
    with pytest.raises(LocalProtocolError):
        with_peer(full, B)
    relayed = ma(f"/ip4/1.2.3.4/tcp/9/p2p/{A}/p2p-circuit")
    assert split_peer(relayed) == (relayed, None)
    assert split_peer(with_peer(relayed, B)) == (relayed, B)


def test_a_peer_alone_leaves_an_empty_address():
    rest, peer = split_peer(ma(f"/p2p/{A}"))
    assert peer == A and components(rest) == () and text(rest) == "/"
    assert split_peer(rest) == (rest, None)
    assert with_peer(rest, A) == ma(f"/p2p/{A}")
    with pytest.raises(InvalidMultiaddr):
        parse_multiaddr(rest)


@pytest.mark.parametrize(
    ("given_text", "ip"),
    [
        ("/ip4/1.2.3.4/tcp/9", "1.2.3.4"),
        ("/ip6/2001:db8::1/tcp/9", "2001:db8::1"),
        ("/ip6/::ffff:10.0.0.1/tcp/9", "10.0.0.1"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/9", "fe80::1"),
        ("/dns4/example.com/tcp/9", None),
        ("/ip6zone/eth0", None),
        ("/memory/1", None),
        ("/dns4/a/ip4/1.2.3.4", None),
    ],
)
def test_the_ip_address(given_text, ip):
    assert ip_of(ma(given_text)) == (None if ip is None else ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("/ip6/::ffff:10.0.0.1/tcp/9/ws", "/ip4/10.0.0.1/tcp/9/ws"),
        ("/ip6zone/eth0/ip6/::ffff:10.0.0.1/tcp/9", "/ip4/10.0.0.1/tcp/9"),
        ("/ip6/::1/tcp/9", "/ip6/::1/tcp/9"),
        ("/ip4/10.0.0.1/tcp/9", "/ip4/10.0.0.1/tcp/9"),
        ("/dns/a/tcp/9", "/dns/a/tcp/9"),
    ],
)
def test_hostile_054_mapped_addresses_have_one_form(given_text, expected):
    assert text(canonical(ma(given_text))) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("/ip4/1.2.3.4/tcp/9/ws", ("1.2.3.4", 9)),
        ("/ip6/::1/tcp/9", ("::1", 9)),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/9", ("fe80::1%eth0", 9)),
        ("/dns4/example.com/tcp/9", ("example.com", 9)),
        ("/dnsaddr/example.com/tcp/9", None),
        ("/ip4/1.2.3.4/udp/9", None),
        ("/ip4/1.2.3.4", None),
        ("/memory/1", None),
    ],
)
def test_host_and_port(given_text, expected):
    assert host_port(ma(given_text)) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("1.2.3.4", "/ip4/1.2.3.4/tcp/9"),
        ("::1", "/ip6/::1/tcp/9"),
        ("fe80::1%eth0", "/ip6zone/eth0/ip6/fe80::1/tcp/9"),
        ("example.com", "/dns/example.com/tcp/9"),
    ],
)
def test_from_host_and_port(host, expected):
    assert text(from_host_port(host, 9)) == expected
    assert host_port(from_host_port(host, 9)) == (host, 9)


@pytest.mark.parametrize(
    "host", ["", "a/b", "1.2.3.4%x", "::1%a/b", "b\u00fccher", "a b", "::1%", "::1%a/tcp/1", "a/tcp/1/ws"]
)
def test_no_host(host):
    with pytest.raises(InvalidMultiaddr):
        from_host_port(host, 9)


def test_no_port():
    with pytest.raises(InvalidMultiaddr):
        from_host_port("1.2.3.4", 65536)
    assert text(from_host_port("1.2.3.4", 9, "udp")) == "/ip4/1.2.3.4/udp/9"


@pytest.mark.parametrize(
    ("given_text", "kind"),
    [
        ("/ip4/127.0.0.1/tcp/1", "loopback"),
        ("/ip6/::1/tcp/1", "loopback"),
        ("/ip6/::ffff:127.0.0.1/tcp/1", "loopback"),
        ("/ip4/0.0.0.0/tcp/1", "unspecified"),
        ("/ip6/::/tcp/1", "unspecified"),
        ("/ip4/10.0.0.1/tcp/1", "private"),
        ("/ip4/192.168.1.1/tcp/1", "private"),
        ("/ip4/169.254.1.1/tcp/1", "private"),
        ("/ip6/::ffff:10.0.0.1/tcp/1", "private"),
        ("/ip6/fd00::1/tcp/1", "private"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", "private"),
        ("/ip4/8.8.8.8/tcp/1", "public"),
        ("/ip6/2606:4700::1111/tcp/1", "public"),
        ("/dns4/example.com/tcp/1", "public"),
        ("/dns4/localhost/tcp/1", "none"),
        ("/dns4/printer.LOCAL./tcp/1", "none"),
        ("/ip4/224.0.0.1/tcp/1", "none"),
        ("/ip6/ff02::1/tcp/1", "none"),
        ("/memory/1", "none"),
    ],
)
def test_hostile_050_where_an_address_means_something(given_text, kind):
    address = ma(given_text)
    found = {
        "loopback": is_loopback(address),
        "unspecified": is_unspecified(address),
        "private": is_private(address),
        "public": is_public(address),
    }
    assert [name for name, holds in found.items() if holds] == ([] if kind == "none" else [kind])


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("/ip4/1.2.3.4/tcp/1", True),
        ("/dns4/a/tcp/1/ws", True),
        ("/memory/0", False),
        ("/ip4/1.2.3.4/tcp/0", False),
        ("/ip4/1.2.3.4/udp/0/quic-v1", False),
        ("/ip6/::/tcp/1", False),
    ],
)
def test_what_can_be_dialled(given_text, expected):
    assert is_dialable(ma(given_text)) is expected


def test_an_empty_address_reads_as_nothing():
    empty = split_peer(ma(f"/p2p/{A}"))[0]
    assert ip_of(empty) is None and host_port(empty) is None and canonical(empty) == empty
    assert not is_dialable(empty) and not is_public(empty)


# What a connection leaves in the book.

REMOTE = "/ip4/192.0.2.7/tcp/4001"
EPHEMERAL = "/ip4/192.0.2.7/tcp/50123"
CLAIMS = ["/ip4/203.0.113.5/tcp/4001", "/ip4/0.0.0.0/tcp/4002", "/dns/example.com/tcp/443/wss", REMOTE]


@pytest.mark.parametrize(
    ("kind", "remote", "observed", "claimed", "alternates"),
    [
        (
            AddressKind.OUTBOUND_DIRECT,
            REMOTE,
            [REMOTE],
            [CLAIMS[0], "/ip4/192.0.2.7/tcp/4002", CLAIMS[2]],
            [],
        ),
        (
            AddressKind.INBOUND_DIRECT,
            EPHEMERAL,
            [],
            [CLAIMS[0], CLAIMS[2], REMOTE],
            ["/ip4/192.0.2.7/tcp/4002"],
        ),
        (AddressKind.OUTBOUND_PROXY, "/ip4/198.51.100.1/tcp/1080", [], [CLAIMS[0], CLAIMS[2], REMOTE], []),
        (AddressKind.INBOUND_PROXY, "/ip4/198.51.100.1/tcp/1080", [], [CLAIMS[0], CLAIMS[2], REMOTE], []),
        (AddressKind.ISOLATED, REMOTE, [], [], []),
        (AddressKind.OUTBOUND_DIRECT, None, [], [CLAIMS[0], CLAIMS[2], REMOTE], []),
    ],
)
def test_what_enters_the_book(kind, remote, observed, claimed, alternates):
    found = kind.book_addresses(None if remote is None else ma(remote), [ma(claim) for claim in CLAIMS])
    assert [text(address) for address in found.observed] == observed
    assert [text(address) for address in found.claimed] == claimed
    assert [text(address) for address in found.alternates] == alternates


@pytest.mark.parametrize(
    ("claim", "remote", "filled"),
    [
        ("/ip4/0.0.0.0/tcp/0", REMOTE, []),  # the remote address itself
        ("/ip4/0.0.0.0/tcp/0/ws", REMOTE, [REMOTE + "/ws"]),
        ("/ip4/203.0.113.5/tcp/0", REMOTE, ["/ip4/203.0.113.5/tcp/4001"]),
        ("/ip6/::/tcp/5", REMOTE, ["/ip4/192.0.2.7/tcp/5"]),
        ("/ip4/0.0.0.0/udp/5/quic-v1", REMOTE, ["/ip4/192.0.2.7/udp/5/quic-v1"]),
        ("/ip4/0.0.0.0/udp/0/quic-v1", REMOTE, []),  # a TCP port says nothing about UDP
        ("/ip4/0.0.0.0/tcp/5", "/memory/1", []),
        ("/memory/7", REMOTE, ["/memory/7"]),
    ],
)
def test_unspecified_parts_are_filled_in(claim, remote, filled):
    found = AddressKind.OUTBOUND_DIRECT.book_addresses(ma(remote), [ma(claim)])
    assert [text(address) for address in found.claimed] == filled


def test_a_remote_with_its_peer_and_one_that_cannot_be_dialled():
    kind = AddressKind.OUTBOUND_DIRECT
    assert kind.book_addresses(ma(f"{REMOTE}/p2p/{A}"), []).observed == (ma(REMOTE),)
    assert kind.book_addresses(ma("/ip4/0.0.0.0/tcp/1"), []).observed == ()


def test_an_inbound_peer_with_claims_of_another_shape_has_no_alternates():
    claims = [ma("/dns/a/tcp/1"), ma("/memory/3")]
    assert AddressKind.INBOUND_DIRECT.book_addresses(ma(EPHEMERAL), claims).alternates == ()
    assert AddressKind.INBOUND_DIRECT.book_addresses(ma("/memory/1"), [ma(REMOTE)]).alternates == ()
