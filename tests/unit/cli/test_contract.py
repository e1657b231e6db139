"""What the variables of the public test suites ask of us, what is said about wrong ones, and the answer as YAML."""

import pytest
import yaml

from pyp2p.cli.contract import Contract, latency_lines, read_contract
from pyp2p.cli.failure import USAGE, UsageError

DIALER = {
    "TRANSPORT": "tcp",
    "SECURE_CHANNEL": "noise",
    "MUXER": "yamux",
    "IS_DIALER": "true",
    "REDIS_ADDR": "transport-redis:6379",
    "TEST_KEY": "a5b50d5e",
}
LISTENER = DIALER | {"IS_DIALER": "false", "LISTENER_IP": "0.0.0.0"}


def test_a_dialer() -> None:
    expected = Contract(
        transport="tcp",
        security="noise",
        muxer="yamux",
        listen=None,
        redis=("transport-redis", 6379),
        key="a5b50d5e_listener_multiaddr",
        seconds=180,
        debug=False,
    )
    assert read_contract(DIALER) == expected
    assert read_contract(DIALER | {"LISTENER_IP": "whatever"}) == expected


@pytest.mark.parametrize(
    ("transport", "ours", "address"),
    [
        ("tcp", "tcp", "/ip4/0.0.0.0/tcp/0"),
        ("ws", "ws", "/ip4/0.0.0.0/tcp/0/ws"),
        ("wss", "ws", "/ip4/0.0.0.0/tcp/0/wss"),
        ("quic-v1", "quic", "/ip4/0.0.0.0/udp/0/quic-v1"),
    ],
)
def test_a_listener(transport: str, ours: str, address: str) -> None:
    read = read_contract(LISTENER | {"TRANSPORT": transport})
    assert (read.transport, read.listen) == (ours, address)


def test_a_standalone_transport_needs_nothing_else_and_takes_nothing_else() -> None:
    for said in ({}, {"SECURE_CHANNEL": "tls", "MUXER": "yamux"}, {"SECURE_CHANNEL": "", "MUXER": "null"}):
        read = read_contract({**LISTENER, "SECURE_CHANNEL": "", "MUXER": "", "TRANSPORT": "quic-v1", **said})
        assert (read.security, read.muxer) == (None, None)


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ({"SECURE_CHANNEL": "tls"}, "security", "tls"),
        ({"MUXER": "mplex"}, "muxer", "mplex"),
        ({"REDIS_ADDR": "[::1]:1"}, "redis", ("::1", 1)),
        ({"LISTENER_IP": "::1"}, "listen", "/ip6/::1/tcp/0"),
        ({"LISTENER_IP": "::"}, "listen", "/ip6/::/tcp/0"),
        ({"TEST_TIMEOUT_SECS": "7"}, "seconds", 7),
        ({"TEST_TIMEOUT_SECS": ""}, "seconds", 180),
        ({"DEBUG": "true"}, "debug", True),
        ({"DEBUG": "false"}, "debug", False),
        ({"DEBUG": ""}, "debug", False),
    ],
)
def test_what_else_is_heeded(more: dict[str, str], field: str, value: object) -> None:
    assert getattr(read_contract(LISTENER | more), field) == value


@pytest.mark.parametrize("name", LISTENER)
@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_a_missing_variable_is_named(name: str, empty: bool) -> None:
    environ = LISTENER | {name: ""} if empty else {key: value for key, value in LISTENER.items() if key != name}
    with pytest.raises(UsageError) as caught:
        read_contract(environ)
    assert caught.value.code == USAGE
    assert caught.value.reason == f"{name} is not set"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TRANSPORT", "webrtc-direct", "tcp, ws, wss, quic-v1"),
        ("TRANSPORT", "quic", "tcp, ws, wss, quic-v1"),
        ("SECURE_CHANNEL", "plaintext", "noise, tls"),
        ("MUXER", "qmux", "yamux, mplex"),
        ("IS_DIALER", "True", "true, false"),
        ("DEBUG", "1", "true, false"),
        ("LISTENER_IP", "localhost", "no IP address"),
        ("LISTENER_IP", "fe80::1%eth0", "zone"),
        ("REDIS_ADDR", "redis", "HOST:PORT"),
        ("REDIS_ADDR", "redis:", "HOST:PORT"),
        ("REDIS_ADDR", ":6379", "HOST:PORT"),
        ("REDIS_ADDR", "redis:0", "HOST:PORT"),
        ("REDIS_ADDR", "redis:65536", "HOST:PORT"),
        ("REDIS_ADDR", "redis:+1", "HOST:PORT"),
        ("REDIS_ADDR", "::1:6379", "HOST:PORT"),
        ("REDIS_ADDR", "[]:6379", "HOST:PORT"),
        ("TEST_KEY", "a\n", "printable"),
        ("TEST_KEY", "a" * 201, "200"),
        ("TEST_TIMEOUT_SECS", "0", "from 1 to 86400"),
        ("TEST_TIMEOUT_SECS", "86401", "from 1 to 86400"),
        ("TEST_TIMEOUT_SECS", "1.5", "from 1 to 86400"),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_may_be(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_contract(LISTENER | {name: value})
    assert caught.value.code == USAGE
    assert caught.value.reason.startswith(f"{name}: '")
    assert said in caught.value.reason
    assert "\n" not in caught.value.reason


def test_the_answer_is_yaml_in_milliseconds_a_figure_a_line() -> None:
    lines = latency_lines(0.005011, 0.000599)
    assert lines == ["latency:", "  handshake_plus_one_rtt: 5.011", "  ping_rtt: 0.599", "  unit: ms"]
    said = yaml.safe_load("\n".join(lines))
    assert said == {"latency": {"handshake_plus_one_rtt": 5.011, "ping_rtt": 0.599, "unit": "ms"}}
