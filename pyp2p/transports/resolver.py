"""The system's own name service: addresses as any other program gets them (hosts file included), TXT over DNS.

In a file of its own, since importing dnspython takes a while that a node without names need not spend.
"""

from __future__ import annotations

import socket

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.rdtypes.ANY.TXT
import dns.resolver
import trio

from pyp2p.errors import ResolveError, printable
from pyp2p.transports.dns import Question

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
