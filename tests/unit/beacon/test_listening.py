"""Where a node listens, and what its record names."""

import logging
from ipaddress import ip_address

import pytest

from pyp2p.beacon import listening
from pyp2p.beacon.config import Advertised, BeaconConfig
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.listening import chosen_transports, listen_addresses, record_ports
from pyp2p.beacon.own import record_entries
from pyp2p.discv5.enr import Enr
from pyp2p.peer.address import parse_multiaddr
from pyp2p.quic.transport import Quic
from pyp2p.switch import defaults
from pyp2p.transports.tcp import Tcp
from tests.beacon.support import identity

CHAIN = dev_chain(0)
BOTH = (("192.0.2.1", 9000), ("2001:db8::1", 9100))
BOUND = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/2/quic-v1", "/ip6/2001:db8::1/tcp/3"]
ON_QUIC6 = "/ip6/2001:db8::1/udp/4/quic-v1"


def config(**fields) -> BeaconConfig:
    return BeaconConfig(CHAIN, **{"listen": BOTH, **fields})


def addresses(of: BeaconConfig, *transports) -> list[str]:
    return list(map(str, listen_addresses(of, transports)))


def ports(of: BeaconConfig, *bound: str) -> dict[str, object]:
    return dict(record_ports(of, map(parse_multiaddr, bound)))


def test_tcp_and_quic_on_every_address_quic_one_port_further() -> None:
    assert addresses(config(), Tcp(), Quic()) == [
        *("/ip4/192.0.2.1/tcp/9000", "/ip4/192.0.2.1/udp/9001/quic-v1"),
        *("/ip6/2001:db8::1/tcp/9100", "/ip6/2001:db8::1/udp/9101/quic-v1"),
    ]
    assert addresses(config(listen=(("127.0.0.1", 0),)), Tcp(), Quic())[1] == "/ip4/127.0.0.1/udp/0/quic-v1"
    assert addresses(config(quic_port=13000), Tcp(), Quic())[3] == "/ip6/2001:db8::1/udp/13000/quic-v1"


def test_tcp_alone_where_nothing_speaks_quic() -> None:
    assert addresses(config(), Tcp()) == ["/ip4/192.0.2.1/tcp/9000", "/ip6/2001:db8::1/tcp/9100"]


def test_the_record_names_what_is_bound() -> None:
    assert ports(config(), *BOUND) == {"tcp": 1, "quic": 2, "tcp6": 3}
    assert ports(config(), *BOUND, ON_QUIC6) == {"tcp": 1, "quic": 2, "tcp6": 3, "quic6": 4}
    assert ports(config(), BOUND[0], "/ip4/192.0.2.2/tcp/1") == {"tcp": 1}


def test_what_is_advertised_goes_before_what_is_bound() -> None:
    four, six = Advertised("203.0.113.1", 30, 31), Advertised("2001:db8::7", 40, 41, 42)
    assert ports(config(advertise=(four,)), *BOUND) == {"tcp": 30, "quic": 2}
    assert ports(config(advertise=(six,)), *BOUND, ON_QUIC6) == {"tcp6": 40, "quic6": 42}
    assert ports(config(advertise=(Advertised("2001:db8::7", 40, 41),)), *BOUND) == {"tcp6": 40}
    assert ports(config(advertise=(six,)), BOUND[0]) == {"tcp6": 40}  # QUIC is not listened on
    both = config(advertise=(Advertised("203.0.113.1", 30, 31, 32), six))
    assert ports(both, *BOUND) == {"tcp": 30, "quic": 32, "tcp6": 40}  # on IPv4 alone
    assert ports(both, BOUND[0], *BOUND[2:], ON_QUIC6) == {"tcp": 30, "tcp6": 40, "quic6": 42}
    assert ports(both, *BOUND, ON_QUIC6) == {"tcp": 30, "quic": 32, "tcp6": 40, "quic6": 42}


def test_a_record_of_everything_has_room() -> None:
    at = {"ip": ip_address("192.0.2.1"), "ip6": ip_address("2001:db8::1"), "udp": 9000, "udp6": 9000}
    said = ports(config(), *BOUND, ON_QUIC6) | at | dict.fromkeys(("tcp", "quic", "tcp6", "quic6"), 65535)
    all_of_it = record_entries(CHAIN, 0, frozenset(range(64)), frozenset(range(4)), 128) | said
    record = Enr.sign(identity("full"), 2**48, all_of_it)
    assert [str(each) for each in record.multiaddrs()] == [
        *("/ip4/192.0.2.1/tcp/65535", "/ip4/192.0.2.1/udp/65535/quic-v1"),
        *("/ip6/2001:db8::1/tcp/65535", "/ip6/2001:db8::1/udp/65535/quic-v1"),
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quic": False, "quic_port": 1}, "quic_port is 1, and quic is off"),
        ({"quic": False, "advertise": (Advertised("192.0.2.1", 1, 2, 3),)}, "advertise: a port of QUIC is named, and"),
        ({"quic_port": 65536}, "quic_port is 0 to 65535, not 65536"),
        ({"quic_port": 9000}, "quic_port: UDP port 9000 is that of discovery"),
        ({"listen": (("192.0.2.1", 65535),)}, "listen: no port for QUIC comes after 65535"),
    ],
)
def test_ports_that_make_no_sense_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**fields)


def test_quic_is_used_where_it_is_installed_and_not_off(caplog: pytest.LogCaptureFixture) -> None:
    assert "quic" in [each.name for each in chosen_transports(config(), None)]
    assert "quic" not in [each.name for each in chosen_transports(config(quic=False), None)]
    assert [each.name for each in chosen_transports(config(quic=False), [Tcp(), Quic()])] == ["tcp"]
    assert not caplog.records


def test_that_quic_is_missing_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for module in (defaults, listening):
        monkeypatch.setattr(module, "Quic", None)
    with caplog.at_level(logging.WARNING, "pyp2p.beacon"):
        found = chosen_transports(config(), None)
    assert "quic" not in [each.name for each in found]
    (said,) = caplog.messages
    assert said.startswith("QUIC is not installed")
    caplog.clear()
    chosen_transports(config(quic=False), None)  # nobody asked for it
    assert not caplog.records
