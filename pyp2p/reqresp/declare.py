"""Protocols declared once: everything that client, server, limits and documentation need is in a `Method`.

Rules: pure values. What a method allows (sizes, how many chunks, in which order) stands here and is asked by
`core.py`; what it may cost (quota, deadlines) is asked by `service.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pyp2p.errors import LocalProtocolError
from pyp2p.reqresp.codec import ByContext, Framing, Kind
from pyp2p.reqresp.rate import Quota

Rq = TypeVar("Rq")
Rs = TypeVar("Rs")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Total deadlines in seconds, never per read."""

    request: float = 10.0  # the server's, until a request has come whole: one byte a second must not hold a place
    response: float = 30.0  # the client's for all it waits for; the server's to make and send all chunks

    def __post_init__(self) -> None:
        """Raise `ValueError` for one that leaves no time."""
        for name in ("request", "response"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"deadlines.{name} must be above 0 and finite")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of us requests may use."""

    concurrent: int = 2  # requests of a peer and protocol at once, each way; MAX_CONCURRENT_REQUESTS of eth2
    waiting: int = 16  # of ours to a peer and protocol that wait for their turn: a caller in a loop must not grow us
    buckets: int = 8192  # quotas remembered of peers and protocols, each way; see `Buckets`
    quotas: bool = True  # off for measurements

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the limit that lets nothing through."""
        for name, least in (("concurrent", 1), ("waiting", 0), ("buckets", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"limits.{name} must be at least {least}")


def one_chunk(request: object) -> int:
    """The answer to any request has one chunk at most."""
    return 1


@dataclass(frozen=True, slots=True)
class Method(Generic[Rq, Rs]):
    """One protocol of requests and responses: `Rq` is asked, chunks of `Rs` are the answer.

    - `protocol` is `family/name/version`, and the name of the framing when it has one.
    - `request`: the type of the request; None: nothing is sent, and `Rq` is None.
    - `response`: the type of each chunk, or the types by context bytes.
    - `least` and `most(request)`: how many chunks an answer without an error has. `most` may be given any request that
      `request.decode` returns, and the smaller of it and `ceiling` counts.
    - `results`: each chunk starts with a result byte and may be an error (eth2); without it a server that declines
      resets the stream.
    - `complaint(request, chunk, before)`: what is wrong with a chunk as the answer to `request` after the chunk
      `before` (None: it is the first), None for nothing; wrong order, out of range.
    - `quota`: chunks a second; None: no limit. The first of an answer is paid with the request, so that empty answers
      are not free.
    - `before_admission`: served to peers that are not admitted yet (status must be).

    consensus-specs p2p-interface, "The Req/Resp domain".
    """

    family: str
    name: str
    version: int
    framing: Framing
    request: Kind[Rq] | None
    response: Kind[Rs] | ByContext[Rs]
    least: int = 1
    most: Callable[[Rq], int] = one_chunk
    ceiling: int = 1024
    results: bool = True
    complaint: Callable[[Rq, Rs, Rs | None], str | None] | None = None
    quota: Quota | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    before_admission: bool = False
    about: str = ""  # one line for people

    def __post_init__(self) -> None:
        """Raise `ValueError` for a declaration that nobody can keep."""
        if not self.family.startswith("/") or self.family.endswith("/") or not self.name or "/" in self.name:
            raise ValueError(f"{self.family!r} and {self.name!r} make no protocol id: /family and name")
        if not 0 <= self.least <= self.ceiling or self.ceiling < 1:
            raise ValueError(f"{self.name}: chunks must be 0 <= least <= ceiling, and ceiling at least 1")

    @property
    def protocol(self) -> str:
        """The protocol id."""
        suffix = f"/{self.framing.name}" if self.framing.name else ""
        return f"{self.family}/{self.name}/{self.version}{suffix}"

    def chunks(self, request: Rq) -> int:
        """How many chunks the answer to `request` has at most: 0 to `ceiling`, whatever `most` says."""
        return max(min(self.most(request), self.ceiling), 0)

    def encode_request(self, request: Rq) -> bytes:
        """The payload of a request. Raises `ValueError` (`LocalProtocolError`) for one that is out of its bounds."""
        if self.request is None:
            if request is not None:
                raise LocalProtocolError(f"a request of {self.name} has no content")
            return b""
        payload = self.request.encode(request)
        if len(payload) not in self.request.bounds:
            raise LocalProtocolError(
                f"{self.request.name} of {len(payload)} bytes, where {self.request.bounds} are allowed"
            )
        return payload


def describe_methods(methods: Iterable[Method[Rq, Rs]]) -> str:
    """The declarations as a table in Markdown, one line each, in the order given."""
    lines = [
        "| protocol | request, bytes | chunk, bytes | chunks | quota per peer | deadline |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods:
        request = "nothing" if method.request is None else f"{method.request.name}, {method.request.bounds}"
        if isinstance(method.response, Kind):
            chunk = f"{method.response.name}, {method.response.bounds}"
        else:
            chunk = f"by {method.response.size} context bytes"
        most = 1 if method.most is one_chunk else method.ceiling
        chunks = f"{method.least}" if method.least == most else f"{method.least} to {most}"
        quota = "none"
        if method.quota is not None:
            quota = f"{method.quota.peer.per_second:g}/s, burst {method.quota.peer.burst:g}"
        cells = (f"`{method.protocol}`", request, chunk, chunks, quota, f"{method.deadlines.response:g} s")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
