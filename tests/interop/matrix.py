"""What is tried with which peer, as one table; docs/interop.md shows it to people.

What an implementation cannot do is a documented fact and printed as the reason of a skip. It is never mixed up with a
peer that is not built: that is `peers.require`'s business, and a failure where the interop tests are required.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from pyp2p import KeyType, Mplex, Noise, Tcp, Tls, WebSocket, Yamux
from pyp2p.quic.transport import Quic
from tests.interop.peers import EARLY_MUXER, KEY_TYPES, LANGUAGES, PUSHES_ON_DEMAND
from tests.interop.webcert import certificate, secure_websocket

Test = TypeVar("Test", bound=Callable[..., Any])

MUXERS = {"yamux": Yamux, "mplex": Mplex}
SECURITIES = {"noise": Noise, "tls": Tls}
TRANSPORTS = {
    "tcp": (Tcp, "/ip4/127.0.0.1/tcp/0"),
    "ws": (WebSocket, "/ip4/127.0.0.1/tcp/0/ws"),
    "wss": (secure_websocket, "/ip4/127.0.0.1/tcp/0/tls/ws"),
    "quic": (Quic, "/ip4/127.0.0.1/udp/0/quic-v1"),
}
KEYS = {
    "ed25519": KeyType.ED25519,
    "secp256k1": KeyType.SECP256K1,
    "ecdsa": KeyType.ECDSA,
    "rsa": KeyType.RSA,
}
SECURITY = "/noise"
MEGABYTES_64 = 64 * 1024 * 1024

# Open at once with one peer. rust's mplex holds at most 128 streams of a connection and resets what is more.
STREAMS = {(language, muxer): 500 for language in LANGUAGES for muxer in MUXERS} | {("rust", "mplex"): 120}

# Which of a peer's own streams start with payload in the frame that opens them (yamux DATA|SYN).
OPENS_WITH_DATA = {"go": False, "rust": True, "js": False}


@dataclass(frozen=True)
class Stack:
    """A transport, a security and a muxer by their names on the peers' command lines."""

    transport: str
    security: str
    muxer: str

    def __str__(self) -> str:
        return "quic" if self.transport == "quic" else f"{self.transport}-{self.security}-{self.muxer}"

    @property
    def flags(self) -> list[str]:
        """For a peer program."""
        flags = ["--transport", self.transport, "--security", self.security, "--muxer", self.muxer]
        return [*flags, "--web-cert", str(certificate())] if self.transport == "wss" else flags


STACKS = [
    *(Stack(*names) for names in itertools.product(("tcp", "ws", "wss"), SECURITIES, MUXERS)),
    Stack("quic", "tls", "yamux"),  # which has both in itself: the peers heed only the first of their flags
]

CANNOT = {
    ("rust", "ecdsa"): "rust-libp2p is built without ECDSA keys",
    ("rust", "rsa"): "rust-libp2p is built without RSA keys",
    ("js", "ecdsa"): "js-libp2p has no ECDSA peer ids and reads such keys in a form of its own",
    ("rust", "early muxer"): "rust-libp2p sends no early muxer list",
    ("rust", "push"): "the rust peer cannot be told to change its protocols while it runs",
    ("js", "push"): "the js peer cannot be told to change its protocols while it runs",
    ("js", "take push"): "the js peer mounts identify without identify/push",
    ("rust", "signed record"): "the rust peer sends no signed peer record",
    ("rust", "floodsub"): "the rust peer is gossipsub, which speaks floodsub only when told to",
}

# (asking, asked, address) among the discv5 peers.
CANNOT_DISCV5 = {
    ("js-discv5", "go-discv5", "::1"): "go's records name no udp6, without which js sees no IPv6 endpoint",
}


def needs(ability: str) -> Callable[[Test], Test]:
    """The test needs a peer that can do this (a name used in `CANNOT`); a `key` parameter is such a need by itself."""

    def mark(test: Test) -> Test:
        test.__dict__["needs"] = ability
        return test

    return mark


def cannot(request: pytest.FixtureRequest) -> str | None:
    """Why the peer of a test cannot do what the test needs."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is None:
        return None
    asked = tuple(callspec.params.get(name) for name in ("other_discv5", "discv5", "ip"))
    if asked in CANNOT_DISCV5:
        return f"cannot: {CANNOT_DISCV5[asked]}"
    language = callspec.params.get("language")
    for ability in (getattr(request.function, "needs", None), callspec.params.get("key")):
        if (language, ability) in CANNOT:
            return f"cannot: {CANNOT[language, ability]}"
    return None


def muxers() -> pytest.MarkDecorator:
    """Run the test over each muxer."""
    return pytest.mark.parametrize("muxer", list(MUXERS))


def stacks() -> pytest.MarkDecorator:
    """Run the test over each stack."""
    return pytest.mark.parametrize("stack", STACKS, ids=str)


def keys() -> pytest.MarkDecorator:
    """Run the test with each type of key."""
    return pytest.mark.parametrize("key", list(KEYS))


def contradictions() -> Iterator[str]:
    """Where this table and what `peers.py` says of the programs differ: must be empty."""
    for language in LANGUAGES:
        for key in KEYS:
            if (key in KEY_TYPES[language]) == ((language, key) in CANNOT):
                yield f"{language} {key}"
        if EARLY_MUXER[language] == ((language, "early muxer") in CANNOT):
            yield f"{language} early muxer"
        if PUSHES_ON_DEMAND[language] == ((language, "push") in CANNOT):
            yield f"{language} push"
