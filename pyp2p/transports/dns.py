"""From `/dns`, `/dns4`, `/dns6` and `/dnsaddr` addresses to addresses that can be dialled.

Rules: who answers DNS questions may be anyone, so an answer is bounded, parsed strictly and escaped in errors; a
`/dnsaddr` answer counts only where it ends in what was asked for (a `/p2p` id above all). Only a name at the front of
an address is resolved: behind a relay it is the relay's matter. What asks the network is behind `Resolver`.
Spec: libp2p addressing, "dnsaddr Links".
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio
from multiaddr import Multiaddr

from pyp2p.errors import InvalidMultiaddr, ResolveError, printable
from pyp2p.peer.address import Component, components, parse_multiaddr


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
    seconds: float = 5.0  # everything together; what is known then is used


_QUESTIONS = {"dns": Question.IP, "dns4": Question.IP4, "dns6": Question.IP6, "dnsaddr": Question.TXT}
_TXT_PREFIX = "dnsaddr="


def needs_resolving(address: Multiaddr) -> bool:
    """True when the address begins with a name."""
    parts = components(address)
    return bool(parts) and parts[0].name in _QUESTIONS


async def resolve_all(
    address: Multiaddr,
    resolver: Resolver,
    limits: ResolveLimits = ResolveLimits(),  # noqa: B008 - frozen
) -> list[Multiaddr]:
    """Every address that `address` stands for, without names and duplicates, in the order of the answers.

    An address that does not begin with a name is returned as it is. Questions that fail or hang are left out as long
    as others give an address. Raises `ResolveError`, which says what was asked, when there is none.
    """
    search = _Search(limits)
    search.add(address)
    with trio.move_on_after(limits.seconds) as scope:
        for _ in range(limits.depth):
            if not search.pending:
                break
            await search.ask_level(resolver)
        else:
            if search.pending:
                search.blame(f"more than {limits.depth} names refer to each other")
    if scope.cancelled_caught:
        search.blame(f"no answer within {limits.seconds:g} s")
    if search.found:
        return list(search.found)
    reasons = "; ".join(search.reasons) or "the answers hold no usable address"
    raise ResolveError(f"could not resolve {printable(str(address))}: {reasons}")


@dataclass(slots=True)
class _Search:
    """The addresses found and the names still to be asked, as dicts: ordered, and nothing twice."""

    limits: ResolveLimits
    found: dict[Multiaddr, None] = field(default_factory=dict)
    pending: dict[Multiaddr, None] = field(default_factory=dict)
    asked: dict[Multiaddr, None] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def add(self, address: Multiaddr) -> None:
        """An address from the caller or an answer. A name that was asked already is a loop, and no news."""
        if not components(address):
            self.blame("an empty address")
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

    async def ask_level(self, resolver: Resolver) -> None:
        """Ask about all pending names at once; what the answers refer to is the next level."""
        batch = list(self.pending)
        self.pending.clear()
        self.asked.update(dict.fromkeys(batch))
        answers: list[list[Multiaddr]] = [[] for _ in batch]
        limiter = trio.CapacityLimiter(self.limits.concurrent)

        async def ask(position: int) -> None:
            async with limiter:
                try:
                    answers[position] = await self._ask(batch[position], resolver)
                except ResolveError as error:
                    self.blame(str(error))

        try:
            async with trio.open_nursery() as nursery:
                for position in range(len(batch)):
                    nursery.start_soon(ask, position)
        finally:  # also when the time is up: the order of answers, not of their arrival, and nothing lost
            for answer in answers:
                for address in answer:
                    self.add(address)

    async def _ask(self, address: Multiaddr, resolver: Resolver) -> list[Multiaddr]:
        first, *rest = components(address)
        question = _QUESTIONS[first.name]
        if question is not Question.TXT:
            return [_with_ip(ip, rest) for ip in await resolver.resolve(first.value, question)]
        host = "_dnsaddr." + first.value
        records = [record for record in await resolver.resolve(host, question) if record.startswith(_TXT_PREFIX)]
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
            if _key(components(found)[-len(rest) :] if rest else ()) == _key(rest):
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


def _with_ip(ip: str, rest: Sequence[Component]) -> Multiaddr:
    """`ip` comes from the resolver, which gives IP addresses or breaks its word; `rest` was parsed before."""
    return parse_multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}{_text(rest)}")
