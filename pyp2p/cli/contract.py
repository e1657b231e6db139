"""What the public libp2p test suites say to the program under test in its environment, and what it answers.

This is the transport test of https://github.com/libp2p/unified-testing (docs/write-a-transport-test-app.md); where that
text is loose (how redis is used, how long to wait), the programs in its images are the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pyp2p.cli.failure import UsageError
from pyp2p.errors import printable

DEFAULT_SECONDS: Final = 180  # of TEST_TIMEOUT_SECS
MAX_SECONDS: Final = 86_400
# Of each transport: our name for it, how its addresses go on after the IP address, and whether it is standalone, that
# is, secures and multiplexes by itself.
_TRANSPORTS: Final = {
    "tcp": ("tcp", "tcp/0", False),
    "ws": ("ws", "tcp/0/ws", False),
    "wss": ("ws", "tcp/0/wss", False),
    "quic-v1": ("quic", "udp/0/quic-v1", True),
}
_SECURE_CHANNELS: Final = ("noise", "tls")
_MUXERS: Final = ("yamux", "mplex")
_KEY_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Contract:
    """One test's part for us; `transport`, `security` and `muxer` by their names on our command line.

    `security` and `muxer` are None for a standalone transport, `listen` (a multiaddr) is None for the dialer.
    """

    transport: str
    security: str | None
    muxer: str | None
    listen: str | None
    redis: tuple[str, int]  # host and port
    key: str  # of the list in redis that holds the listener's address
    seconds: float  # for the whole test
    debug: bool


def read_contract(environ: Mapping[str, str]) -> Contract:
    """The contract of these variables. Raises `UsageError`, which names the variable that is missing or wrong."""
    transport, rest, standalone = _TRANSPORTS[_one_of(environ, "TRANSPORT", tuple(_TRANSPORTS))]
    dialer = _one_of(environ, "IS_DIALER", ("true", "false")) == "true"
    return Contract(
        transport,
        security=None if standalone else _one_of(environ, "SECURE_CHANNEL", _SECURE_CHANNELS),
        muxer=None if standalone else _one_of(environ, "MUXER", _MUXERS),
        listen=None if dialer else f"{_listener_ip(environ)}/{rest}",
        redis=_redis(environ),
        key=f"{_test_key(environ)}_listener_multiaddr",
        seconds=_seconds(environ),
        debug=bool(environ.get("DEBUG")) and _one_of(environ, "DEBUG", ("true", "false")) == "true",
    )


def latency_lines(handshake_plus_one_rtt: float, ping_rtt: float) -> list[str]:
    """The dialer's answer as YAML, from seconds: each at its own line, as the suite picks them out of logs by lines."""
    return [
        "latency:",
        f"  handshake_plus_one_rtt: {handshake_plus_one_rtt * 1000:.3f}",
        f"  ping_rtt: {ping_rtt * 1000:.3f}",
        "  unit: ms",
    ]


def _given(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise UsageError(f"{name} is not set", "The test suite says by variables what to do: see docs/interop.md.")
    return value


def _one_of(environ: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = _given(environ, name)
    if value not in values:
        raise UsageError(f"{name}: '{printable(value, 60)}' is none of {', '.join(values)}")
    return value


def _listener_ip(environ: Mapping[str, str]) -> str:
    """As the beginning of a multiaddr."""
    value = _given(environ, "LISTENER_IP")
    try:
        ip: IPv4Address | IPv6Address = ip_address(value)
    except ValueError:
        raise UsageError(f"LISTENER_IP: '{printable(value, 60)}' is no IP address") from None
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        raise UsageError(f"LISTENER_IP: '{printable(value, 60)}' has a zone, which means nothing to a dialer")
    return f"/ip{ip.version}/{ip}"


def _redis(environ: Mapping[str, str]) -> tuple[str, int]:
    value = _given(environ, "REDIS_ADDR")
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not host or not digits or not 1 <= int(port) <= 65_535:
        raise UsageError(f"REDIS_ADDR: '{printable(value, 60)}' is no HOST:PORT, like 127.0.0.1:6379 or [::1]:6379")
    return host, int(port)


def _test_key(environ: Mapping[str, str]) -> str:
    value = _given(environ, "TEST_KEY")
    if len(value) > _KEY_LENGTH or not (value.isascii() and value.isprintable()):
        raise UsageError(f"TEST_KEY: '{printable(value, 60)}' is not of at most {_KEY_LENGTH} printable characters")
    return value


def _seconds(environ: Mapping[str, str]) -> float:
    value = environ.get("TEST_TIMEOUT_SECS") or str(DEFAULT_SECONDS)
    digits = value.isascii() and value.isdigit() and len(value) <= 6
    if not digits or not 1 <= int(value) <= MAX_SECONDS:
        raise UsageError(f"TEST_TIMEOUT_SECS: '{printable(value, 60)}' is no whole number from 1 to {MAX_SECONDS}")
    return float(value)
