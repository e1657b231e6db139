"""Who is there and what they listen to: the table that mesh and router share.

Rules: pure, bounded by the connections of the switch and by `max_topics_per_peer`. Iteration is in the order of
arrival, never over sets, so that the same seed gives the same choices.
"""

from __future__ import annotations

from pyp2p.peer.id import PeerId
from pyp2p.pubsub.types import Kind


class PeerState:
    """One connected peer: the protocol spoken, who dialled, its topics."""

    __slots__ = ("direct", "kind", "outbound", "peer", "spoke", "topics")

    def __init__(self, peer: PeerId, kind: Kind, outbound: bool, direct: bool) -> None:
        self.peer = peer
        self.kind = kind
        self.outbound = outbound
        self.direct = direct
        self.spoke = False  # on the stream that is open
        self.topics: dict[str, None] = {}

    @property
    def gets_all(self) -> bool:
        """True when every message of its topics goes to it, outside the meshes."""
        return self.direct or not self.kind.gossips


_NOBODY: dict[PeerId, PeerState] = {}


class PeerTable:
    """All connected peers, also by topic."""

    def __init__(self, max_topics: int) -> None:
        self._max_topics = max_topics
        self._peers: dict[PeerId, PeerState] = {}
        self._topics: dict[str, dict[PeerId, PeerState]] = {}
        self._getting_all: dict[str, dict[PeerId, PeerState]] = {}  # few: a message must not cost a look at all peers

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._peers

    def get(self, peer: PeerId) -> PeerState | None:
        """The state of a connected peer."""
        return self._peers.get(peer)

    def all(self) -> dict[PeerId, PeerState]:
        """Every connected peer, in the order of arrival; for reading."""
        return self._peers

    def up(self, peer: PeerId, kind: Kind, outbound: bool, direct: bool) -> PeerState:
        """A peer came. One that is there already keeps its topics and takes the new facts."""
        state = self._peers.get(peer)
        if state is None:
            state = self._peers[peer] = PeerState(peer, kind, outbound, direct)
        else:
            for topic in state.topics:
                self._leave(peer, topic)
            state.kind, state.outbound, state.direct = kind, outbound, direct
            for topic in state.topics:
                self._enter(state, topic)
        return state

    def down(self, peer: PeerId) -> PeerState | None:
        """A peer went; returns what was known of it."""
        state = self._peers.pop(peer, None)
        if state is not None:
            for topic in state.topics:
                self._leave(peer, topic)
        return state

    def subscribe(self, state: PeerState, topic: str) -> bool:
        """The peer listens to `topic`; False when it has too many already."""
        if topic in state.topics:
            return True
        if len(state.topics) >= self._max_topics:
            return False
        state.topics[topic] = None
        self._enter(state, topic)
        return True

    def unsubscribe(self, state: PeerState, topic: str) -> None:
        """The peer no longer listens; nothing when it never did."""
        if topic in state.topics:
            del state.topics[topic]
            self._leave(state.peer, topic)

    def listening(self, topic: str) -> dict[PeerId, PeerState]:
        """Who listens to `topic`, in the order of their subscriptions; for reading."""
        return self._topics.get(topic, _NOBODY)

    def getting_all(self, topic: str) -> dict[PeerId, PeerState]:
        """Those of them that get every message: explicit peers and those that speak floodsub; for reading."""
        return self._getting_all.get(topic, _NOBODY)

    def _enter(self, state: PeerState, topic: str) -> None:
        self._topics.setdefault(topic, {})[state.peer] = state
        if state.gets_all:
            self._getting_all.setdefault(topic, {})[state.peer] = state

    def _leave(self, peer: PeerId, topic: str) -> None:
        for table in (self._topics, self._getting_all):
            peers = table.get(topic)
            if peers is not None and peers.pop(peer, None) is not None and not peers:
                del table[topic]
