"""The gossipsub router without I/O: events and `now` in, effects out.

Rules: pure. The service hands in what peers say and when it is time for a heartbeat, and carries out what `take`
returns. An id enters the seen cache only after the signature holds, so that a forged copy cannot suppress the true one:
seen? - verify - mark - validate. A message is encoded once, whatever the fan-out. libp2p specs, gossipsub v1.0 to v1.3.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyp2p.errors import AlreadyPublished, MessageTooLarge, NobodyListens, PubsubError
from pyp2p.peer.id import PeerId
from pyp2p.pubsub.caches import DontWant, MessageCache, Promises, Quota, RawIndex, SeenCache
from pyp2p.pubsub.ids import MessageIdFunction
from pyp2p.pubsub.mesh import Mesh
from pyp2p.pubsub.params import GossipParams, Thresholds
from pyp2p.pubsub.peers import PeerState, PeerTable
from pyp2p.pubsub.score import IPAddress, ScoreBook
from pyp2p.pubsub.signing import Policy
from pyp2p.pubsub.transform import DataTransform
from pyp2p.pubsub.types import (
    Connect,
    Deliver,
    Effect,
    Kind,
    Lane,
    Message,
    Prune,
    Rpc,
    Send,
    Unwanted,
    Validate,
    Verdict,
)
from pyp2p.pubsub.wire import (
    decode_message,
    graft_fragment,
    idontwant_fragments,
    ihave_fragments,
    iwant_fragments,
    prune_fragment,
    publish_fragment,
    subscription_fragments,
)

Judge = Callable[[Message], Verdict | None]  # None: asynchronous validators have to be asked; it bounds how many
Records = Callable[[PeerId], bytes]  # the signed record of a peer, b"" when there is none

_RAW_INDEX_FROM = 1024  # bytes: below, hashing again is as cheap as looking it up


@dataclass(slots=True)
class Publication:
    """What `publish` did: the message, and the peers that it is queued for."""

    message: Message
    peers: list[PeerId]


class Router:
    """Gossipsub (and floodsub) for one node."""

    def __init__(
        self,
        me: PeerId,
        params: GossipParams,
        *,
        thresholds: Thresholds,
        score: ScoreBook,
        policy: Policy,
        message_id: MessageIdFunction,
        transform: DataTransform,
        rng: random.Random,
        judge: Judge,
        allows: Callable[[str], bool],
        records: Records,
        first_seqno: int,
        counters: Counter[tuple[str, str]],
    ) -> None:
        self.counters = counters  # (what happened, topic)
        self.score = score
        self.table = PeerTable(params.max_topics_per_peer)
        self.mesh = Mesh(params, thresholds, self.table, score, rng)
        self.seen = SeenCache(params.seen_ttl, params.seen_bytes)
        self.cache = MessageCache(params.history_length, params.history_gossip, params.mcache_bytes)
        self.direct: dict[PeerId, None] = {}
        self._me = me
        self._my_id = me.raw
        self._params = params
        self._thresholds = thresholds
        self._policy = policy
        self._message_id = message_id
        self._transform = transform
        self._rng = rng
        self._judge = judge
        self._allows = allows
        self._records = records
        self._seqno = first_seqno
        self._raw = RawIndex(params.seen_ttl, params.mcache_bytes // 4)
        self._promises = Promises(params.iwant_followup)
        self._unwanted = DontWant(params.idontwant_ttl, params.max_idontwant_messages)
        self._quota = Quota()
        self._pending: dict[bytes, Message] = {}
        self._beats = 0
        self._out: list[Effect] = []

    def take(self) -> list[Effect]:
        """What is to be done now, in order; each effect is returned once."""
        out = self._out
        self._out = []
        return out

    # --- peers

    def peer_up(self, peer: PeerId, kind: Kind, outbound: bool, ips: Sequence[IPAddress], now: float) -> None:
        """A stream to `peer` is open, spoken in `kind`; `outbound`: we dialled. It is told what we listen to."""
        self.table.up(peer, kind, outbound, peer in self.direct)
        self.score.peer_up(peer, ips, now)
        self.hello(peer)

    def peer_moved(self, peer: PeerId, outbound: bool, ips: Sequence[IPAddress], now: float) -> None:
        """A connection to a peer that is up came or went: these are the facts of those that are left."""
        state = self.table.get(peer)
        if state is not None:
            state.outbound = outbound
            self.score.peer_up(peer, ips, now)

    def hello(self, peer: PeerId) -> None:
        """Tell `peer` all our subscriptions, and in which meshes it is: at the start, and again on a new stream."""
        for fragment in subscription_fragments([(True, topic) for topic in self.mesh.topics]):
            self._control([peer], fragment)
        for topic, mesh in self.mesh.topics.items():
            if peer in mesh:  # it may have forgotten us with the stream that broke
                self._control([peer], graft_fragment(topic))

    def stream_opened(self, peer: PeerId) -> None:
        """The peer has opened a stream to us: its next RPC is the first."""
        state = self.table.get(peer)
        if state is not None:
            state.spoke = False

    def slow(self, peer: PeerId, now: float) -> None:
        """The peer takes less than we forward, and has for long: others have its places in the meshes."""
        for topic in self.mesh.dropped(peer, now).prunes.get(peer, ()):
            self._count("slow peer pruned", topic)
            self._send_prune(peer, topic, False)

    def peer_down(self, peer: PeerId, now: float) -> None:
        """The peer is gone; its score is kept as long as the parameters say."""
        if self.table.down(peer) is None:
            return
        self.score.peer_down(peer, now)
        self.mesh.down(peer)
        self._promises.peer_down(peer)
        self._unwanted.peer_down(peer)

    # --- our own subscriptions

    def subscribe(self, topic: str, now: float) -> None:
        """Listen to `topic`: everybody is told, the mesh is filled. Idempotent.

        Raises `LocalProtocolError` for a topic that peers would refuse.
        """
        if topic in self.mesh.topics:
            return
        self._announce(True, topic)
        for peer in self.mesh.join(topic, now):
            self._control([peer], graft_fragment(topic))

    def unsubscribe(self, topic: str, now: float) -> None:
        """Listen no longer: everybody is told, the mesh is left. Idempotent."""
        if topic not in self.mesh.topics:
            return
        self._announce(False, topic)
        self._promises.forget(topic)
        backoff = int(self._params.unsubscribe_backoff)
        for peer in self.mesh.leave(topic, now):
            self._control([peer], prune_fragment(Prune(topic, [], backoff)))

    def _announce(self, subscribe: bool, topic: str) -> None:
        for fragment in subscription_fragments([(subscribe, topic)]):
            self._control(list(self.table.all()), fragment)

    # --- our own messages

    def publish(self, topic: str, payload: bytes, now: float) -> Publication:
        """Send our own message to all who should have it and did not say that they have.

        Raises before anything is queued or remembered: `MessageTooLarge`; `NobodyListens` when no peer is eligible;
        `AlreadyPublished` when its id was seen before, which happens where ids come from the content.
        """
        params = self._params
        message = self._policy.build(topic, self._transform.outbound(topic, payload), self._seqno)
        fragment = publish_fragment(message.raw)
        for size, limit in ((len(fragment), params.max_rpc_size), (len(message.data), params.max_message_size)):
            if limit is not None and size > limit:
                raise MessageTooLarge(topic, size, limit)
        audience = self._audience(topic, now)
        if not audience:
            self._count("nobody listens", topic)
            raise NobodyListens(topic)
        self._seqno += 1
        message.payload = payload
        message.received_at = now
        message.id = self._message_id(message)
        if not self.seen.add(message.id, now):
            self._count("published before", topic)
            raise AlreadyPublished(topic)
        self.cache.put(message)
        self._remember_raw(message, now)
        self._count("published", topic)
        if topic in self.mesh.topics:
            self._out.append(Deliver(message))
        peers = [peer for peer in audience if not self._unwanted.unwanted(peer, message.id)]
        if peers:
            self._out.append(Send(peers, Lane.OWN, fragment, topic, message.id))
        return Publication(message, peers)

    def _audience(self, topic: str, now: float) -> list[PeerId]:
        """Who gets our own message: explicit and floodsub peers always, else everybody good enough or the mesh."""
        good = self._thresholds.publish
        if self._params.flood_publish:
            listening = self.table.listening(topic)
            return [p for p, state in listening.items() if state.direct or self.score.score(p) >= good]
        chosen = dict.fromkeys(self.mesh.for_publish(topic, now))
        for peer, state in self.table.getting_all(topic).items():
            if state.direct or self.score.score(peer) >= good:
                chosen[peer] = None
        return list(chosen)

    # --- what a peer says

    def handle_rpc(self, peer: PeerId, rpc: Rpc, now: float) -> None:
        """Take one RPC. Whatever a peer says, this raises nothing."""
        state = self.table.get(peer)
        if state is None:
            return
        if not state.direct and self.score.score(peer) < self._thresholds.graylist:
            self._count("graylisted", "")
            return
        if rpc.extensions > (0 if state.spoke else 1):  # v1.3: once, in the first RPC; we have none to answer with
            self.score.behaviour(peer)
            self._count("extensions twice or late", "")
        state.spoke = True
        for subscribe, topic in rpc.subscriptions:
            self._on_subscription(state, subscribe, topic, now)
        for raw in rpc.publish:
            self._on_message(state, raw, now)
        self._on_control(state, rpc, now)

    def malformed(self, peer: PeerId) -> None:
        """The peer sent what is no RPC or over a bound."""
        self.score.behaviour(peer)
        self._count("malformed", "")

    def _on_subscription(self, state: PeerState, subscribe: bool, topic: str, now: float) -> None:
        if subscribe:
            if not self._allows(topic):
                self._count("subscription filtered", "")
            elif not self.table.subscribe(state, topic):
                self._count("too many subscriptions", "")
        else:
            self.table.unsubscribe(state, topic)  # it may be in the mesh without having subscribed
            self.mesh.unsubscribed(state.peer, topic, now)

    def _on_message(self, state: PeerState, raw: bytes, now: float) -> None:
        peer = state.peer
        try:
            message = decode_message(raw)
        except PubsubError:
            self.malformed(peer)
            return
        topic = message.topic
        if topic not in self.mesh.topics:
            self._count("not subscribed", "")
            return
        valid = True
        known = self._raw.find(raw) if len(raw) >= _RAW_INDEX_FROM else None
        if known is None or known not in self.seen:  # an id can be pushed out before its message: all is asked anew
            payload = self._transform.inbound(topic, message.data)
            valid = payload is not None
            message.payload = message.data if payload is None else payload
            known = self._message_id(message, valid)
        message.id = known
        message.source = peer
        message.received_at = now
        if known in self.seen or known in self._pending:  # a verdict may outlast the memory of the id
            self._promises.fulfilled(known)
            self.score.duplicate(known, topic, peer, now)
            self._count("duplicate", topic)
            return
        limit = self._params.max_message_size
        if (limit is not None and len(message.data) > limit) or self._policy.check(message) is not None:
            self.score.invalid(peer, topic)
            self._count("rejected", topic)
            return
        self.seen.add(known, now)
        self._remember_raw(message, now)
        self._promises.fulfilled(known)
        if message.author == self._my_id:
            self._count("our own came back", topic)  # after the time to live of its id: js forwards to the author too
            return
        self.score.begin(known, topic, peer, now)
        if not valid:
            self._conclude(message, Verdict.REJECT, now)
            return
        if len(raw) >= self._params.idontwant_threshold:
            self._tell_unwanted(message)
        verdict = self._judge(message)
        if verdict is not None:
            self._conclude(message, verdict, now)
        else:
            self._pending[known] = message
            self._out.append(Validate(message))

    def validated(self, message: Message, verdict: Verdict, now: float) -> None:
        """The verdict on a message that `Validate` asked for; a second one counts for nothing."""
        if self._pending.pop(message.id, None) is not None:
            self._conclude(message, verdict, now)

    def _conclude(self, message: Message, verdict: Verdict, now: float) -> None:
        topic, source = message.topic, message.source
        if source is None:
            return
        if verdict is Verdict.ACCEPT:
            self.score.accepted(message.id, topic, source, now)
            self._count("accepted", topic)
            self.cache.put(message)
            self._forward(message)
            if topic in self.mesh.topics:
                self._out.append(Deliver(message))
        elif verdict is Verdict.REJECT:
            self.score.rejected(message.id, topic, source, now)
            self._count("rejected", topic)
        else:
            self.score.ignored(message.id, now)
            self._count("ignored", topic)

    def _forward(self, message: Message) -> None:
        topic, source, author = message.topic, message.source, message.author
        unwanted = self._unwanted.unwanted
        chosen = dict.fromkeys(self.mesh.peers(topic)) | dict.fromkeys(self.table.getting_all(topic))
        peers = [peer for peer in chosen if peer != source and peer.raw != author and not unwanted(peer, message.id)]
        if peers:
            self._out.append(Send(peers, Lane.FORWARDED, publish_fragment(message.raw), topic, message.id))

    def _tell_unwanted(self, message: Message) -> None:
        """Spare ourselves further copies of a large message, at once, before it is validated (v1.2)."""
        peers = []
        for peer in self.mesh.peers(message.topic):
            state = self.table.get(peer)
            if peer != message.source and state is not None and state.kind >= Kind.GOSSIP_1_2:
                peers.append(peer)
        if peers:
            for fragment in idontwant_fragments([message.id]):
                self._control(peers, fragment)

    def _remember_raw(self, message: Message, now: float) -> None:
        if len(message.raw) >= _RAW_INDEX_FROM:
            self._raw.add(message.raw, message.id, now)

    # --- control

    def _on_control(self, state: PeerState, rpc: Rpc, now: float) -> None:
        if rpc.cut:
            self._count("too many ids", "")
        if rpc.ihave:
            self._on_ihave(state, rpc.ihave, now)
        if rpc.iwant:
            self._on_iwant(state, rpc.iwant)
        for topic in rpc.graft:
            self._on_graft(state, topic, now)
        for prune in rpc.prune:
            self._on_prune(state, prune, now)
        if rpc.idontwant:
            self._on_idontwant(state.peer, rpc.idontwant)

    def _on_ihave(self, state: PeerState, offers: list[tuple[str, list[bytes]]], now: float) -> None:
        peer, params = state.peer, self._params
        if self.score.score(peer) < self._thresholds.gossip:
            self._count("gossip ignored", "")
            return
        if not self._quota.take(peer, "ihave", 1, params.max_ihave_messages):
            self._count("too many ihave", "")
            return
        wanted: dict[bytes, str] = {}
        for topic, ids in offers:
            if topic in self.mesh.topics:
                for message_id in self._proper(peer, ids):
                    if message_id not in self.seen:
                        wanted[message_id] = topic
        if not wanted:
            return
        allowed = self._quota.take(peer, "iwant", len(wanted), params.max_ihave_ids)
        asked = list(wanted)
        self._rng.shuffle(asked)
        asked = asked[:allowed]
        if asked:
            tracked = asked[0]  # one of each request, at random
            self._promises.promise(peer, tracked, wanted[tracked], now)
            self._count("promised", wanted[tracked])
            for fragment in iwant_fragments(asked):
                self._control([peer], fragment)

    def _on_iwant(self, state: PeerState, ids: list[bytes]) -> None:
        peer = state.peer
        if self.score.score(peer) < self._thresholds.gossip:
            self._count("gossip ignored", "")
            return
        for message_id in ids:
            found = self.cache.for_peer(message_id, peer)
            if found is None:
                continue
            message, count = found
            if count > self._params.gossip_retransmission:
                self._count("retransmissions refused", message.topic)
            elif not self._quota.take(peer, "answers", len(message.raw), self._params.queue_bytes):
                self._count("too much asked for", message.topic)  # its queue would not hold it
            elif not self._unwanted.unwanted(peer, message_id):
                self._out.append(Send([peer], Lane.GOSSIP, publish_fragment(message.raw), message.topic, message_id))

    def _on_graft(self, state: PeerState, topic: str, now: float) -> None:
        if topic not in self.mesh.topics:
            self._count("graft of unknown topic", "")  # no answer: it would tell whoever asks what we listen to
            return
        if not state.kind.gossips:
            self._count("graft without gossipsub", topic)  # it gets everything anyway
            return
        until = self.mesh.backoffs.until(topic, state.peer)
        rude = until is not None and now < until  # who does not wait is offered nobody
        if not self.mesh.grafted(state, topic, now):
            self._count("graft refused", topic)
            self._send_prune(state.peer, topic, not rude and self._may_offer(state.peer))

    def _on_prune(self, state: PeerState, prune: Prune, now: float) -> None:
        if prune.topic not in self.mesh.topics:
            self._count("prune of unknown topic", "")
            return
        self.mesh.pruned(state.peer, prune.topic, prune.backoff, now)
        if prune.peers and self._params.do_px and self.score.score(state.peer) >= self._thresholds.accept_px:
            for peer, record in prune.peers[: self._params.prune_peers]:
                if record and peer != self._my_id:
                    self._out.append(Connect(peer, record))

    def _may_offer(self, peer: PeerId) -> bool:
        return self._params.do_px and self.score.score(peer) >= 0

    def _send_prune(self, peer: PeerId, topic: str, offer: bool) -> None:
        others = self.mesh.instead_of(peer, topic) if offer else []
        known = [(other.raw, self._records(other)) for other in others]
        backoff = int(self._params.prune_backoff)
        self._control([peer], prune_fragment(Prune(topic, known, backoff)))

    def _on_idontwant(self, peer: PeerId, ids: list[bytes]) -> None:
        proper = self._proper(peer, ids)
        taken = self._unwanted.add(peer, proper)
        if taken < len(proper):
            self._count("too many idontwant", "")
        if taken:
            self._out.append(Unwanted(peer, proper[:taken]))

    def _proper(self, peer: PeerId, ids: list[bytes]) -> list[bytes]:
        """The ids that can be ids of messages here; to make up others is misbehaviour."""
        size = self._params.message_id_bytes
        if size is None:
            return ids
        proper = [message_id for message_id in ids if len(message_id) == size]
        if len(proper) < len(ids):
            self.malformed(peer)
        return proper

    # --- heartbeat

    def heartbeat(self, now: float) -> None:
        """Once every `heartbeat_interval`: maintain meshes, gossip, decay. A late one is not made up for."""
        self._beats += 1
        self._quota.beat()
        self._unwanted.beat()
        self.seen.expire(now)
        self._raw.expire(now)
        for peer, topic in self._promises.broken(now):
            self.score.behaviour(peer)
            self._count("promise broken", topic)
        self.score.decay(now)
        changes = self.mesh.beat(now)
        for peer, topics in changes.grafts.items():
            for topic in topics:
                self._control([peer], graft_fragment(topic))
        for peer, topics in changes.prunes.items():
            for topic in topics:
                self._send_prune(peer, topic, peer not in changes.no_px and self._may_offer(peer))
        self._gossip()
        if (self._beats - 1) % self._params.direct_connect_ticks == 0:
            self._out.extend(Connect(peer.raw, b"") for peer in self.direct if peer not in self.table)
        self.cache.shift()

    def _gossip(self) -> None:
        limit = self._params.max_ihave_ids
        for members in (self.mesh.topics, self.mesh.fanout):
            for topic, peers in members.items():
                ids = self.cache.gossip_ids(topic)
                if not ids:
                    continue
                targets = self.mesh.gossip_targets(topic, peers)
                if len(ids) <= limit:
                    self._offer(targets, topic, ids)
                    continue
                for peer in targets:  # each another choice: together they may tell everything
                    self._offer([peer], topic, self._rng.sample(ids, limit))

    def _offer(self, peers: list[PeerId], topic: str, ids: list[bytes]) -> None:
        if peers:
            for fragment in ihave_fragments(topic, ids):
                self._out.append(Send(peers, Lane.GOSSIP, fragment, topic))

    def sizes(self) -> dict[str, int]:
        """How much is remembered, by what it is called in metrics."""
        return {
            "seen bytes": self.seen.size,
            "seen evicted": self.seen.evicted,
            "message cache bytes": self.cache.size,
            "message cache evicted": self.cache.evicted,
            "raw index bytes": self._raw.size,
            "open promises": len(self._promises),
            "awaiting verdict": len(self._pending),
        }

    # --- parts

    def _control(self, peers: list[PeerId], fragment: bytes) -> None:
        self._out.append(Send(peers, Lane.CONTROL, fragment))

    def _count(self, what: str, topic: str) -> None:
        self.counters[what, topic] += 1
