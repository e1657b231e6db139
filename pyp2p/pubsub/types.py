"""What the parts of pubsub speak of: messages, verdicts, what came in an RPC, and what is to be done.

Rules: pure. Values of the hot path are slots-dataclasses, not frozen ones. Topics are text that is valid UTF-8; ids and
payloads are bytes. libp2p specs, pubsub/README.md and pubsub/gossipsub.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

from pyp2p.peer.id import PeerId


class Kind(enum.IntEnum):
    """The protocol that is spoken with a peer; a later one can do all that an earlier one can."""

    FLOODSUB = 0
    GOSSIP_1_0 = 10
    GOSSIP_1_1 = 11
    GOSSIP_1_2 = 12
    GOSSIP_1_3 = 13

    @property
    def gossips(self) -> bool:
        """True for every gossipsub: the peer can be in a mesh."""
        return self is not Kind.FLOODSUB


PROTOCOLS: dict[str, Kind] = {
    "/meshsub/1.3.0": Kind.GOSSIP_1_3,
    "/meshsub/1.2.0": Kind.GOSSIP_1_2,
    "/meshsub/1.1.0": Kind.GOSSIP_1_1,
    "/meshsub/1.0.0": Kind.GOSSIP_1_0,
    "/floodsub/1.0.0": Kind.FLOODSUB,
}


class Verdict(enum.Enum):
    """What validation says of a message."""

    ACCEPT = "accept"  # deliver and forward
    REJECT = "reject"  # drop; who sent it is to blame (P4)
    IGNORE = "ignore"  # drop; nobody is to blame


@dataclass(slots=True)
class Message:
    """One published message.

    `raw` is the serialised protobuf as it came (unknown fields included): what is forwarded. `data` is what stands in
    it, `payload` the same after the data transform, `id` what deduplicates it. `author`, `seqno`, `key` and `signature`
    are None where the field is absent. `source` is who sent it to us, None when we published it.
    """

    topic: str
    data: bytes
    raw: bytes
    author: bytes | None = None
    seqno: bytes | None = None
    key: bytes | None = None
    signature: bytes | None = None
    payload: bytes = b""
    id: bytes = b""
    source: PeerId | None = None
    received_at: float = 0.0

    @property
    def size(self) -> int:
        """About how many bytes it takes: `raw`, the values taken out of it, and a payload that was unpacked."""
        unpacked = 0 if self.payload is self.data else len(self.payload)
        return 2 * len(self.raw) + unpacked


@dataclass(slots=True)
class Prune:
    """A peer takes us out of its mesh of `topic`; `backoff` in seconds, None when it named none.

    `peers` are (peer id bytes, signed record or b"") that it offers instead.
    """

    topic: str
    peers: list[tuple[bytes, bytes]] = field(default_factory=list)
    backoff: int | None = None


@dataclass(slots=True)
class Rpc:
    """One decoded RPC: publishes as serialised messages, control as plain lists, each bounded by `RpcLimits`."""

    subscriptions: list[tuple[bool, str]] = field(default_factory=list)
    publish: list[bytes] = field(default_factory=list)
    ihave: list[tuple[str, list[bytes]]] = field(default_factory=list)
    iwant: list[bytes] = field(default_factory=list)
    graft: list[str] = field(default_factory=list)
    prune: list[Prune] = field(default_factory=list)
    idontwant: list[bytes] = field(default_factory=list)
    cut: bool = False  # ids of IHAVE over the bound were left out
    extensions: int = 0  # how often the extensions control message stands in it

    def parts(self, count: int, size: int) -> list[Rpc]:
        """The same in RPCs of so many messages and bytes of them, to be taken one after the other.

        One message may be of any size.
        """
        pieces = [Rpc(self.subscriptions, extensions=self.extensions)]
        room = size
        for raw in self.publish:
            if pieces[-1].publish and (len(pieces[-1].publish) >= count or len(raw) > room):
                pieces.append(Rpc())
                room = size
            pieces[-1].publish.append(raw)
            room -= len(raw)
        if len(pieces) == 1:
            return [self]
        pieces[-1] = replace(self, subscriptions=[], extensions=0, publish=pieces[-1].publish)
        return pieces


# ---- effects: what the router wants done


class Lane(enum.IntEnum):
    """The classes of a peer's queue, the most urgent first; only the last two may be dropped."""

    CONTROL = 0
    OWN = 1
    FORWARDED = 2
    GOSSIP = 3


@dataclass(slots=True)
class Send:
    """Queue a serialised piece of an RPC for `peers`; `topic` and `message_id` where it is about one."""

    peers: list[PeerId]
    lane: Lane
    fragment: bytes
    topic: str = ""
    message_id: bytes | None = None


@dataclass(slots=True)
class Unwanted:
    """`peer` has these messages already: what is still queued for it of them may go."""

    peer: PeerId
    ids: list[bytes]


@dataclass(slots=True)
class Validate:
    """Ask the application's validators; the answer comes back by `Router.validated`."""

    message: Message


@dataclass(slots=True)
class Deliver:
    """Give a message to our own subscribers."""

    message: Message


@dataclass(slots=True)
class Connect:
    """Try to connect to a peer: one that was offered with its signed record, or an explicit one (b"")."""

    peer: bytes
    record: bytes


Effect = Send | Unwanted | Validate | Deliver | Connect
