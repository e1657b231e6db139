"""What the user may give as TARGET, as an address and perhaps a peer id.

Rules: a multiaddr with or without `/p2p/ID`, or `host:port`; whatever else looks like something known is refused with
the form that is needed. Nothing is looked up here. Node records are read elsewhere (records.py): they need an extra.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiaddr import Multiaddr

from pyp2p.cli.failure import UsageError
from pyp2p.errors import InvalidMultiaddr, InvalidPeerId, printable
from pyp2p.peer.address import from_host_port, is_unspecified, parse_multiaddr, split_peer, text, with_peer
from pyp2p.peer.id import PeerId

MAX_TEXT = 2048
FORMS = (
    "TARGET is a multiaddr (/ip4/1.2.3.4/tcp/4001, also with /p2p/ID), /dnsaddr/NAME, HOST:PORT, or a node record "
    "(enr:...)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect; `peer` is None when the id is to be learnt. `others` are more addresses of a known peer."""

    address: Multiaddr
    peer: PeerId | None
    others: tuple[Multiaddr, ...] = ()

    @property
    def multiaddr(self) -> Multiaddr:
        """Both in one."""
        return self.address if self.peer is None else with_peer(self.address, self.peer)

    def __str__(self) -> str:
        return text(self.multiaddr)


def parse_target(given: str | Target) -> Target:
    """The target that `given` names, or is; raises `UsageError` (with the position where there is one)."""
    if isinstance(given, Target):
        return given
    if len(given) > MAX_TEXT:
        raise UsageError(f"a target of {len(given)} characters: at most {MAX_TEXT} are read", FORMS)
    try:
        target = _parse(given.strip())
    except InvalidMultiaddr as error:
        failure = UsageError(f"not an address: '{printable(given)}': {error.reason}", FORMS)
        if error.position is not None and given.startswith("/"):
            failure.reason += f" (at position {error.position})"
            failure.facts = {"position": error.position}
        raise failure from None
    if not target.address.to_bytes():
        raise _only_an_id(str(target.peer))
    if is_unspecified(target.address):
        raise UsageError(
            f"{text(target.address)} stands for every address of a machine and cannot be dialled",
            "Use /ip4/127.0.0.1 or /ip6/::1 for this machine.",
        )
    return target


def _parse(given: str) -> Target:
    if given.startswith("/"):
        address, peer = split_peer(parse_multiaddr(given))
        if peer is not None:
            again, same = split_peer(address)
            if same == peer:  # ID appended to an address that had it
                address = again
        return Target(address, peer)
    if not given:
        raise UsageError("the target is empty", FORMS)
    if "://" in given:
        raise UsageError(f"'{printable(given)}' is a URL", FORMS)
    if given.startswith("enr:"):
        raise UsageError("a node record (enr:) is no address", "`pyp2p enr read` tells what is in it.")
    if _is_peer_id(given):
        raise _only_an_id(given)
    return Target(_host_port(given), None)


def _host_port(given: str) -> Multiaddr:
    host, colon, digits = given.rpartition(":")
    if given.startswith("["):
        inner, bracket, rest = given[1:].partition("]")
        if not bracket or not inner or (rest and rest[0] != ":"):
            raise UsageError(f"'{printable(given)}' is no [IPV6]:PORT", FORMS)
        host, colon, digits = inner, rest[:1], rest[1:]
    elif ":" in host:
        raise UsageError(
            f"'{printable(given)}' has several colons", "Write an IPv6 address with its port as [::1]:4001."
        )
    if not colon:
        raise UsageError(f"'{printable(given)}' has no port", f"Write it as {printable(given[:60])}:4001. {FORMS}.")
    if not host:
        raise UsageError(f"'{printable(given)}' has no host", FORMS)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or not 1 <= int(digits) <= 65535:
        raise UsageError(f"port {printable(digits, 20) or 'nothing'} is outside 1..65535", FORMS)
    return from_host_port(host, int(digits))


def _is_peer_id(given: str) -> bool:
    try:
        PeerId.parse(given)
    except InvalidPeerId:
        return False
    return True


def _only_an_id(given: str) -> UsageError:
    return UsageError(
        f"a peer id alone says who, not where: {printable(given)}",
        f"Give an address too, like /ip4/1.2.3.4/tcp/4001/p2p/{printable(given)}.",
    )
