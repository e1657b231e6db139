"""What may be given as TARGET, and what is said about the rest."""

import pytest

from pyp2p.cli.failure import USAGE, UsageError
from pyp2p.cli.target import parse_target

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
OTHER = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize(
    ("given", "address", "peer"),
    [
        ("/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/tcp/4001", None),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{ID}", "/ip4/1.2.3.4/tcp/4001", ID),
        (f"/ip4/1.2.3.4/tcp/4001/ipfs/{OTHER}", "/ip4/1.2.3.4/tcp/4001", OTHER),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{ID}/p2p/{ID}", "/ip4/1.2.3.4/tcp/4001", ID),
        (f"/dnsaddr/example.com/p2p/{ID}", "/dnsaddr/example.com", ID),
        ("1.2.3.4:4001", "/ip4/1.2.3.4/tcp/4001", None),
        (" 1.2.3.4:4001\n", "/ip4/1.2.3.4/tcp/4001", None),
        ("example.com:4001", "/dns/example.com/tcp/4001", None),
        ("localhost:65535", "/dns/localhost/tcp/65535", None),
        ("[::1]:4001", "/ip6/::1/tcp/4001", None),
        ("[fe80::1%eth0]:1", "/ip6zone/eth0/ip6/fe80::1/tcp/1", None),
    ],
)
def test_targets(given: str, address: str, peer: str | None) -> None:
    target = parse_target(given)
    assert str(target.address) == address
    assert target.peer is None if peer is None else str(target.peer) == peer
    assert str(target) == (address if peer is None else f"{address}/p2p/{peer}")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  ",
        "host",
        "host:",
        ":4001",
        "host:0",
        "host:65536",
        "host:4001x",
        "host:٣",
        "::1:4001",
        "::1",
        "[::1]",
        "[::1",
        "[]:1",
        "[::1]4001",
        "[nonsense]:x",
        "http://host:80",
        "a b:1",
        "a/b:1",
        "\x1b[2J:1",
        "enr:-Ku4Q",
        ID,
        OTHER,
        f"/p2p/{ID}",
        f"/p2p/{ID}/p2p/{ID}",
        "0.0.0.0:4001",
        "/ip6/::/tcp/4001",
        "/",
        "/ip4/1.2.3.4/tcp",
        "/nonsense/1",
        "x" * 1_000_000,
        "/" * 1_000_000,
    ],
)
def test_no_targets_say_why_in_printable_words(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(given)
    failure = caught.value
    assert failure.code == USAGE
    for words in (failure.reason, failure.advice):
        assert len(words) < 700
        assert all(" " <= character <= "~" for character in words)
    assert failure.reason


def test_a_multiaddr_says_where_it_goes_wrong() -> None:
    with pytest.raises(UsageError) as caught:
        parse_target("/ip4/1.2.3.4/tcp/65536")
    assert caught.value.as_json()["position"] == 17


def test_a_peer_id_alone_is_told_what_is_missing() -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(ID)
    assert f"/p2p/{ID}" in caught.value.advice
