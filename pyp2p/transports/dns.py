"""From `/dns`, `/dns4`, `/dns6` and `/dnsaddr` addresses to addresses that can be dialled.

Rules: who answers DNS questions may be anyone, so an answer is bounded, parsed strictly and escaped in errors; a
`/dnsaddr` answer counts only where it ends in what was asked for (a `/p2p` id above all). Only a name at the front of
an address is resolved: behind a relay it is the relay's matter. What asks the network is behind `Resolver`; deadlines
are the caller's.
Spec: libp2p addressing, "dnsaddr Links".
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.rdtypes.ANY.TXT
import dns.resolver
import trio
from multiaddr import Multiaddr

from pyp2p.errors import InvalidMultiaddr, ResolveError, printable
from pyp2p.peer.address import Component, components, parse_multiaddr, split_peer
from pyp2p.peer.id import PeerId


class Question(enum.Enum):
    """What is asked of a name."""

    IP = "ip"
    IP4 = "ip4"
    IP6 = "ip6"
    TXT = "txt"


class Resolver(Protocol):
    """Who asks the network about names."""

    async def resolve(self, name: str, question: Question) -> list[str]:
        """IP addresses or TXT records of `name`, possibly none. Raises `ResolveError` (no such name, no answer)."""
        ...


@dataclass(frozen=True, slots=True)
class ResolveLimits:
    """What one address may cost to resolve; the answers come from whoever owns the name."""

    depth: int = 32  # a chain of names that refer to each other
    queries: int = 100  # a tree of them
    concurrent: int = 8  # questions on their way at once
    addresses: int = 100  # results
    records: int = 1000  # TXT records of one answer that are looked at
    record_length: int = 1024  # characters of one record
    reasons: int = 4  # failures that an error repeats
    patience: float = 2.0  # seconds from the start that further answers are waited for when an address is known


_QUESTIONS = {"dns": Question.IP, "dns4": Question.IP4, "dns6": Question.IP6, "dnsaddr": Question.TXT}
_TXT_PREFIX = "dnsaddr="
_LIMITS = ResolveLimits()


def needs_resolving(address: Multiaddr) -> bool:
    """True when the address begins with a name."""
    parts = components(address)
    return bool(parts) and parts[0].name in _QUESTIONS


async def resolve_all(
    address: Multiaddr, resolver: Resolver, expect: PeerId | None = None, limits: ResolveLimits = _LIMITS
) -> list[Multiaddr]:
    """Every address that `address` stands for, without names and duplicates, in the order of the answers.

    With `expect`, answers that end in the id of another peer are left out. An address that does not begin with a name
    is returned as it is. Questions that fail or hang are left out as long as others give an address; with none at all
    it waits until the caller's deadline. Raises `ResolveError`, which says what was asked, when there is no address.
    """
    search = _Search(resolver, limits, expect, trio.current_time() + limits.patience)
    search.add(address)
    with search.scope:
        for _ in range(limits.depth):
            if not search.pending:
                break
            await search.ask_level()
        else:
            if search.pending:
                search.blame(f"more than {limits.depth} names refer to each other")
    if search.found:
        return list(search.found)
    reasons = "; ".join(search.reasons) or "the answers hold no usable address"
    raise ResolveError(f"could not resolve {printable(str(address))}: {reasons}")


@dataclass(slots=True)
class _Search:
    """The addresses found and the names still to be asked, as dicts: ordered, and nothing twice."""

    resolver: Resolver
    limits: ResolveLimits
    expect: PeerId | None
    impatient_at: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    found: dict[Multiaddr, None] = field(default_factory=dict)
    pending: dict[Multiaddr, None] = field(default_factory=dict)
    asked: dict[Multiaddr, None] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def add(self, address: Multiaddr) -> None:
        """An address from the caller or an answer. A name that was asked already is a loop, and no news."""
        peer = split_peer(address)[1]
        if self.expect is not None and peer is not None and peer != self.expect:
            self.blame("an answer names another peer")
        elif not needs_resolving(address):
            if len(self.found) < self.limits.addresses:
                self.found[address] = None
        elif address not in self.asked:
            if len(self.asked) + len(self.pending) < self.limits.queries:
                self.pending[address] = None
            else:
                self.blame(f"more than {self.limits.queries} names to ask")

    def blame(self, reason: str) -> None:
        """Keep a reason for the error that may come."""
        if len(self.reasons) < self.limits.reasons and reason not in self.reasons:
            self.reasons.append(reason)

    async def ask_level(self) -> None:
        """Ask about all pending names at once; what the answers refer to is the next level."""
        batch = list(self.pending)
        self.pending.clear()
        self.asked.update(dict.fromkeys(batch))
        answers: list[list[Multiaddr]] = [[] for _ in batch]
        limiter = trio.CapacityLimiter(self.limits.concurrent)

        async def ask(position: int) -> None:
            async with limiter:
                try:
                    answers[position] = await self._ask(batch[position])
                except ResolveError as error:
                    self.blame(str(error))
                else:
                    if not all(needs_resolving(found) for found in answers[position]):
                        self.scope.deadline = self.impatient_at

        try:
            async with trio.open_nursery() as nursery:
                for position in range(len(batch)):
                    nursery.start_soon(ask, position)
        finally:  # also when patience ends: the order of answers, not of their arrival, and nothing lost
            for answer in answers:
                for address in answer:
                    self.add(address)

    async def _ask(self, address: Multiaddr) -> list[Multiaddr]:
        first, *rest = components(address)
        question = _QUESTIONS[first.name]
        if question is not Question.TXT:
            end = _keeping_name(first.value, rest)
            return [_with_ip(ip, end) for ip in await self.resolver.resolve(first.value, question)]
        host = "_dnsaddr." + first.value
        records = [record for record in await self.resolver.resolve(host, question) if record.startswith(_TXT_PREFIX)]
        name = printable(host)
        answer = []
        wrong_end = 0
        for record in records[: self.limits.records]:
            if len(record) > self.limits.record_length:
                self.blame(f"TXT {name} holds a record of {len(record)} characters")
                continue
            try:
                found = parse_multiaddr(record.removeprefix(_TXT_PREFIX))
            except InvalidMultiaddr as error:
                self.blame(f"TXT {name} holds no address: {printable(record)} ({error.reason})")
                continue
            parts = components(found)
            if parts and _key(parts[-len(rest) :] if rest else ()) == _key(rest):
                answer.append(found)
            else:
                wrong_end += 1
        if not answer and wrong_end:
            self.blame(f"TXT {name} holds {wrong_end} addresses, none ends in {printable(_text(rest))}")
        elif not records:
            self.blame(f"TXT {name} holds no dnsaddr record")
        return answer


def _key(parts: Sequence[Component]) -> list[tuple[str, str]]:
    return [(part.name, part.value) for part in parts]


def _text(parts: Sequence[Component]) -> str:
    return "".join(f"/{part.name}/{part.value}" if part.value else f"/{part.name}" for part in parts)


def _keeping_name(host: str, rest: Sequence[Component]) -> str:
    """What follows the name. Of a secure WebSocket's server TLS asks for the name too: there it is kept."""
    tail = _text(rest)
    for end in ("/tls/ws", "/wss"):
        if tail.endswith(end):
            return f"{tail.removesuffix(end)}/tls/sni/{host}/ws"
    return tail


def _with_ip(ip: str, end: str) -> Multiaddr:
    """`ip` comes from the resolver, which gives IP addresses or breaks its word; `end` was parsed before."""
    return parse_multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}{end}")


_FAMILIES = {Question.IP: socket.AF_UNSPEC, Question.IP4: socket.AF_INET, Question.IP6: socket.AF_INET6}


class SystemResolver:
    """Asks the operating system for addresses (in a thread) and its configured DNS servers for TXT records."""

    async def resolve(self, name: str, question: Question) -> list[str]:
        """See `Resolver.resolve`. Cancelling does not end the thread that waits for the operating system."""
        if question is Question.TXT:
            return await self._texts(name)
        try:
            found = await trio.socket.getaddrinfo(name, None, family=_FAMILIES[question], type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ResolveError(f"{printable(name)}: {_why(error)}") from error
        hosts = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        return [host for host in hosts if "%" not in host]  # link-local: means nothing without its interface

    async def _texts(self, name: str) -> list[str]:
        try:
            resolver = dns.asyncresolver.Resolver()
            answer = await resolver.resolve(name, "TXT", backend=dns.asyncbackend.get_backend("trio"), search=False)
        except (dns.exception.DNSException, OSError) as error:
            raise ResolveError(f"TXT {printable(name)}: {_why(error)}") from error
        records = []
        for record in answer:
            if isinstance(record, dns.rdtypes.ANY.TXT.TXT):
                records.append(b"".join(record.strings).decode("utf-8", "backslashreplace"))
        return sorted(records)  # servers rotate their answers


def _why(error: Exception) -> str:
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "no such name"
    if isinstance(error, dns.resolver.NoAnswer):
        return "no such record"
    if isinstance(error, dns.exception.Timeout):
        return "the DNS servers did not answer"
    if isinstance(error, UnicodeError):
        return "not a host name"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
