"""What the core of discv5 is asked for and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pyp2p.discv5.bounds import at_least
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.limits import RateConfig, VoteConfig
from pyp2p.discv5.lookup import LookupConfig
from pyp2p.discv5.messages import Message
from pyp2p.discv5.node import Endpoint
from pyp2p.discv5.table import TableConfig
from pyp2p.errors import DiscoveryError


@dataclass(frozen=True, slots=True)
class Discv5Config:
    """Times in seconds, and how much of us others may use. Raises `ValueError` for what makes no sense."""

    request_timeout: float = 0.5
    handshake_timeout: float = 1.0  # for a request that has to make a session first
    attempts: int = 3  # packets for one request, each a new one: one is lost on any network
    talk_timeout: float = 0.5  # how long a handler of a TALKREQ may take: later the asker has given up
    challenge_ttl: float = 0.8  # over before a handshake is asked for again: one for the older packet is of no use
    max_sessions: int = 1000
    max_challenges: int = 1000  # made-up nodes cost one each
    max_requests: int = 1024  # of ours, under way
    max_requests_per_node: int = 16
    max_talks: int = 64  # handlers of TALKREQ that run: each costs a task
    max_talks_per_node: int = 16  # of those: one node must not take the place of all
    table: TableConfig = field(default_factory=TableConfig)
    lookup: LookupConfig = field(default_factory=LookupConfig)
    rates: RateConfig = field(default_factory=RateConfig)
    votes: VoteConfig = field(default_factory=VoteConfig)

    def __post_init__(self) -> None:
        for name in ("request_timeout", "handshake_timeout", "talk_timeout", "challenge_ttl"):
            value = getattr(self, name)
            if not 0 < value < 3600:
                raise ValueError(f"{name} must be above 0 and below 3600 seconds, not {value}")
        for name in ("attempts", "max_sessions", "max_challenges", "max_requests", "max_requests_per_node"):
            at_least(name, getattr(self, name), 1)
        for name in ("max_talks", "max_talks_per_node"):
            at_least(name, getattr(self, name), 0)


# ---- effects


class Form(StrEnum):
    """The kinds of packets. discv5 wire "Packet Encoding"."""

    ORDINARY = "ordinary"
    WHOAREYOU = "whoareyou"
    HANDSHAKE = "handshake"


@dataclass(slots=True)  # not frozen: one is made for each datagram, and that would take four times as long
class SendDatagram:
    """Send these bytes there; `message` is what they hold, None where that is random or nothing."""

    data: bytes
    to: Endpoint
    form: Form
    message: Message | None = None


@dataclass(slots=True)
class Arrived:
    """A packet came, of so many bytes; `message` is what it held, None where that could not be read."""

    sender: Endpoint
    size: int
    form: Form
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A request is over: its result, or the error."""

    request: int
    result: object | DiscoveryError


@dataclass(frozen=True, slots=True)
class TalkCall:
    """A node asks for an application protocol that is served here: answer with `talk_respond(token, ...)`."""

    token: int
    node: Enr
    sender: Endpoint
    protocol: bytes
    request: bytes


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """Our own record is another one: it has to be kept, as a sequence number that begins anew is ignored by all."""

    record: Enr


class NodeNews(StrEnum):
    """What happened to a node."""

    SESSION = "session"  # it proved who it is
    LIVE = "live"  # it answered at the address that its record names: others are told of it
    GONE = "gone"  # it did not answer any more


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """News of a node."""

    news: NodeNews
    node: Enr
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class PacketTrace:
    """A packet that left or came, for whoever wants to see them all: what `open_discv5(trace=...)` is called with.

    `at` is in monotonic seconds, `size` in bytes; `message` is the type of what it held, None where that is random,
    nothing, or not to be read.
    """

    at: float
    sent: bool
    endpoint: Endpoint
    size: int
    form: Form
    message: type[Message] | None


Effect = SendDatagram | Arrived | Completed | TalkCall | RecordChanged | NodeEvent
