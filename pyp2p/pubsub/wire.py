"""RPCs and messages: bytes <-> values, with counts and sizes judged before protobuf sees them (libp2p specs, pubsub).

Rules: the outer layers, RPC and Message, are walked by hand, in one pass; only subscriptions and control, bounded by
then, go to protobuf. Unknown fields are skipped; groups and known fields of another wire type are malformed. A topic is
non-empty UTF-8, an id is not empty. What we send is made of fragments, pieces that are RPCs by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from pyp2p.errors import LocalProtocolError, PubsubError
from pyp2p.io.varint import encode, prefixed
from pyp2p.pubsub.pb.rpc_pb2 import RPC, ControlMessage
from pyp2p.pubsub.types import Message, Prune, Rpc

MAX_CONTROL: Final = 16_000  # bytes of subscriptions and control in an RPC of ours: rust refuses over 16,384
IDONTWANT_IDS: Final = 10  # go reads no more of one message
SUBSCRIPTIONS: Final = 100  # rust 0.50, as it comes, refuses an RPC with more
_MAX_VARINT = 10
_MAX_TAG = 5  # bytes: field numbers have 29 bits
_MAX_TAG_VALUE = 1 << 32

# Tags: field number << 3 | wire type, 2 for what has a length.
_SUBSCRIPTION, _PUBLISH, _CONTROL = 0x0A, 0x12, 0x1A
_RPC_FIELDS = range(1, 4)
_MESSAGE_TAGS = {number << 3 | 2: number for number in range(1, 7)}
_MESSAGE_FIELDS = range(1, 7)
_IHAVE, _IWANT, _GRAFT, _PRUNE, _IDONTWANT = b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a"
_TURNS = {_GRAFT[0]: 1, _PRUNE[0]: 2}
_HEADER = 4  # bytes before the value of a field of up to 2 MiB
_ROOM = MAX_CONTROL - 2 * _HEADER


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """What one RPC of a peer may hold; more is a violation, except for `px_peers` and offers of several topics."""

    publish: int = 1000  # empty messages take 2 bytes: a MiB of them is half a million objects
    control_bytes: int = 256 * 1024  # of subscriptions and control: empty entries become 60 times as large when parsed
    subscriptions: int = 500  # each makes an entry in our tables
    ids: int = 5000  # in all of IHAVE, of IWANT, of IDONTWANT: each is looked up, IWANT is answered with messages
    topics: int = 1000  # entries of IHAVE, of IWANT, of GRAFT, of PRUNE, of IDONTWANT: each is answered or judged
    px_peers: int = 16  # in a PRUNE, the rest is ignored: each is somebody we might dial
    topic_bytes: int = 1024  # a topic is kept for as long as the peer is subscribed
    id_bytes: int = 1024  # an id is kept while we wait for its message, or spare the peer it
    unknown: int = 64  # fields we do not know, in an RPC and in a message: a MiB of them takes 0.2 s to walk


DEFAULT_LIMITS: Final = RpcLimits()


# ---- walking protobuf


def fields(buf: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a serialised message, in order: tag, where the field begins, where its value starts and stops.

    The tag is field number << 3 | wire type whatever its encoding; the value of wire type 2 is without its length.
    Raises `PubsubError` at the first byte that is malformed, for groups and for field number 0. Constant memory.
    """
    at, end = 0, len(buf)
    while at < end:
        begin = at
        tag = buf[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(buf, begin, _MAX_TAG)
        wire_type = tag & 7
        if wire_type == 2:
            # Lengths of one and two bytes in place: a call for each would double the time of a small message.
            if at < end and (size := buf[at]) < 0x80:
                start = at + 1
            elif at + 1 < end and (high := buf[at + 1]) < 0x80:
                size, start = size & 0x7F | high << 7, at + 2
            else:
                size, start = _varint(buf, at)
            at = start + size
        else:
            start = at
            at = _skip(buf, at, wire_type)
        if at > end:
            raise PubsubError("a protobuf field is cut off")
        if not 8 <= tag < _MAX_TAG_VALUE:
            raise PubsubError("a protobuf field number out of range")
        yield tag, begin, start, at


def _varint(buf: bytes, at: int, max_bytes: int = _MAX_VARINT) -> tuple[int, int]:
    """The value and the offset after it. Protobuf lets a varint be longer than it need be."""
    value = shift = 0
    for byte in buf[at : at + max_bytes]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
    raise PubsubError("a protobuf varint is cut off or too long")


def _skip(buf: bytes, at: int, wire_type: int) -> int:
    if wire_type == 0:
        return _varint(buf, at)[1]
    if wire_type == 1:
        return at + 8
    if wire_type == 5:
        return at + 4
    raise PubsubError(f"a protobuf field of wire type {wire_type}")


# ---- reading


def decode_rpc(data: bytes, limits: RpcLimits = DEFAULT_LIMITS) -> Rpc:
    """What stands in a serialised RPC; publishes stay serialised, for `decode_message`.

    Raises `PubsubError` when it is malformed or over one of `limits`; the text names the bound. A PRUNE's backoff is
    any 64-bit number.
    """
    publish: list[bytes] = []
    subscriptions: list[bytes] = []
    control: list[bytes] = []
    control_bytes = unknown = 0
    for tag, begin, start, stop in fields(data):
        if tag == _PUBLISH:
            publish.append(data[start:stop])
            if len(publish) > limits.publish:
                raise _over("messages", limits.publish, "publish")
        elif tag in (_SUBSCRIPTION, _CONTROL):
            control_bytes += stop - begin
            if control_bytes > limits.control_bytes:
                raise _over("bytes of subscriptions and control", limits.control_bytes, "control_bytes")
            (subscriptions if tag == _SUBSCRIPTION else control).append(data[start:stop])
            if len(subscriptions) > limits.subscriptions:
                raise _over("subscriptions", limits.subscriptions, "subscriptions")
        else:
            unknown = _unknown(tag, _RPC_FIELDS, unknown, limits)
    rpc = Rpc(publish=publish)
    if control_bytes:
        try:
            for body in subscriptions:
                option = RPC.SubOpts.FromString(body)
                rpc.subscriptions.append((option.subscribe, _topic(option.topic_id, limits)))
            _read_control(_merged(control), rpc, limits)
        except DecodeError:
            raise PubsubError("subscriptions or control that are no protobuf") from None
    return rpc


def decode_message(raw: bytes, limits: RpcLimits = DEFAULT_LIMITS) -> Message:
    """The message that `raw` holds. Raises `PubsubError` when it is malformed, has no topic or a field twice.

    A field that is present but empty is b"", not None. The legacy list of topics ends at its second entry.
    """
    found: list[bytes | None] = [None] * 7
    unknown = 0
    for tag, _, start, stop in fields(raw):
        number = _MESSAGE_TAGS.get(tag)
        if number is None:
            unknown = _unknown(tag, _MESSAGE_FIELDS, unknown, limits)
        elif found[number] is None:
            found[number] = raw[start:stop]
        else:
            raise PubsubError(f"a message with field {number} twice")
    _, author, data, seqno, topic, signature, key = found
    return Message(_topic(topic or b"", limits), data or b"", raw, author, seqno, key, signature)


def _merged(parts: list[bytes]) -> ControlMessage:
    """What a message in several parts says together; each must be whole by itself."""
    control = ControlMessage()
    for part in parts:
        control.MergeFromString(part)
    return control


def _read_control(control: ControlMessage, rpc: Rpc, limits: RpcLimits) -> None:
    entries = {
        "IHAVE": len(control.ihave),
        "IWANT": len(control.iwant),
        "GRAFT": len(control.graft),
        "PRUNE": len(control.prune),
        "IDONTWANT": len(control.idontwant),
    }
    for name, count in entries.items():
        if count > limits.topics:
            raise _over(f"entries of {name}", limits.topics, "topics")
    left = limits.ids
    for offer in control.ihave:  # go offers as many of each topic, and all topics at once
        ids = _ids(offer.message_ids, limits.ids, "IHAVE", limits)[:left]
        rpc.cut |= len(ids) < len(offer.message_ids)
        left -= len(ids)
        rpc.ihave.append((_topic(offer.topic_id, limits), ids))
    for wish in control.iwant:
        rpc.iwant += _ids(wish.message_ids, limits.ids - len(rpc.iwant), "IWANT", limits)
    rpc.graft += [_topic(graft.topic_id, limits) for graft in control.graft]
    for prune in control.prune:
        peers = [(peer.peer_id, peer.signed_peer_record) for peer in prune.peers[: limits.px_peers]]
        backoff = prune.backoff if prune.HasField("backoff") else None
        rpc.prune.append(Prune(_topic(prune.topic_id, limits), peers, backoff))
    for known in control.idontwant:
        rpc.idontwant += _ids(known.message_ids, limits.ids - len(rpc.idontwant), "IDONTWANT", limits)
    rpc.extensions = len(control.extensions)


def _ids(raws: Sequence[bytes], left: int, name: str, limits: RpcLimits) -> list[bytes]:
    if len(raws) > left:
        raise _over(f"ids of {name}", limits.ids, "ids")
    ids = list(raws)
    for message_id in ids:
        if not 0 < len(message_id) <= limits.id_bytes:
            raise PubsubError(f"a message id of {len(message_id)} bytes; 1 to {limits.id_bytes} are allowed (id_bytes)")
    return ids


def _topic(raw: bytes, limits: RpcLimits) -> str:
    if not 0 < len(raw) <= limits.topic_bytes:
        raise PubsubError(f"a topic of {len(raw)} bytes; 1 to {limits.topic_bytes} are allowed (topic_bytes)")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PubsubError("a topic that is not UTF-8") from None


def _unknown(tag: int, known: range, count: int, limits: RpcLimits) -> int:
    if tag >> 3 in known:
        raise PubsubError(f"field {tag >> 3} has wire type {tag & 7}")
    if count >= limits.unknown:
        raise _over("unknown fields", limits.unknown, "unknown")
    return count + 1


def _over(what: str, limit: int, name: str) -> PubsubError:
    return PubsubError(f"more than {limit} {what} in one RPC (limit {name})")


# ---- writing
#
# A fragment is a serialised RPC with one part. By protobuf's rules (upb, go, rust 0.50) fragments can be joined: what
# stands in several control messages is merged. But js, and rust before 0.50, keep the last control message alone. So
# subscriptions and control go through `pack`, which makes one of all; publishes may be joined to what it returns.


def publish_fragment(raw: bytes) -> bytes:
    """A published message, serialised already."""
    return b"\x12" + prefixed(raw)


def subscription_fragments(changes: Iterable[tuple[bool, str]]) -> list[bytes]:
    """Topics that we subscribe to (True) or leave (False), at most a hundred in each fragment."""
    pieces = [
        b"\x0a" + prefixed((b"\x08\x01" if on else b"\x08\x00") + _field_2(encode_topic(topic)))
        for on, topic in changes
    ]
    hundreds = (pieces[at : at + SUBSCRIPTIONS] for at in range(0, len(pieces), SUBSCRIPTIONS))
    return [some for hundred in hundreds for some in _join(hundred, MAX_CONTROL)]


def ihave_fragments(topic: str, ids: Iterable[bytes]) -> list[bytes]:
    """Messages of `topic` that the peer can ask for."""
    head = _field_1(encode_topic(topic))
    return [_control(_IHAVE, head + some) for some in _join(map(_field_2, ids), _ROOM - len(head))]


def iwant_fragments(ids: Iterable[bytes]) -> list[bytes]:
    """Messages that we ask for."""
    return [_control(_IWANT, some) for some in _join(map(_field_1, ids), _ROOM)]


def idontwant_fragments(ids: Sequence[bytes]) -> list[bytes]:
    """Messages that the peer need not send us, at most ten in each fragment."""
    tens = (ids[at : at + IDONTWANT_IDS] for at in range(0, len(ids), IDONTWANT_IDS))
    return [_control(_IDONTWANT, some) for ten in tens for some in _join(map(_field_1, ten), _ROOM)]


def graft_fragment(topic: str) -> bytes:
    """The peer is in our mesh of `topic` from now on."""
    return _control(_GRAFT, _field_1(encode_topic(topic)))


def prune_fragment(prune: Prune) -> bytes:
    """The peer is no longer in our mesh. At most 16 others are offered, and no more than fit in 16,000 bytes."""
    parts = [_field_1(encode_topic(prune.topic))]
    last = b"" if prune.backoff is None else b"\x18" + encode(prune.backoff)
    room = _ROOM - len(parts[0]) - len(last)
    for peer, record in prune.peers[: DEFAULT_LIMITS.px_peers]:
        offer = _field_2(_field_1(peer) + (_field_2(record) if record else b""))
        room -= len(offer)
        if room < 0:
            break
        parts.append(offer)
    return _control(_PRUNE, b"".join(parts) + last)


def pack(fragments: Iterable[bytes], limit: int = MAX_CONTROL) -> list[bytes]:
    """RPCs of at most `limit` bytes that say what these fragments of subscriptions and control say, in this order.

    A peer reads subscriptions first, then grafts, then prunes, wherever they stand in an RPC: what would be read out of
    turn begins another one. A fragment over the limit is an RPC by itself. Raises `LocalProtocolError` for a publish.
    """
    rpcs: list[bytes] = []
    subscriptions: list[bytes] = []
    control: list[bytes] = []
    size, turn = _HEADER, 0  # the header that the bodies of all control fragments share
    count = 0  # of subscriptions
    for fragment in fragments:
        kind = fragment[0]
        if kind == _CONTROL:
            body = fragment[_varint(fragment, 1)[1] :]
            its_turn, cost = _TURNS.get(body[0], turn), len(body)
        elif kind == _SUBSCRIPTION:
            its_turn, cost = 0, len(fragment)
            count += sum(1 for _ in fields(fragment))
        else:
            raise LocalProtocolError("only subscriptions and control are packed")
        if size > _HEADER and (its_turn < turn or size + cost > limit or count > SUBSCRIPTIONS):
            rpcs.append(_rpc(subscriptions, control))
            subscriptions, control, size = [], [], _HEADER
            count = sum(1 for _ in fields(fragment)) if kind == _SUBSCRIPTION else 0
        if kind == _CONTROL:
            control.append(body)
        else:
            subscriptions.append(fragment)
        size += cost
        turn = its_turn
    if size > _HEADER:
        rpcs.append(_rpc(subscriptions, control))
    return rpcs


def encode_topic(topic: str) -> bytes:
    """The bytes of a topic. Raises `LocalProtocolError` for one that peers would refuse."""
    if not isinstance(topic, str):
        raise TypeError(f"topic must be text, not {type(topic).__name__}")
    try:
        raw = topic.encode("utf-8")
    except UnicodeEncodeError:
        raise LocalProtocolError("a topic that cannot be encoded as UTF-8") from None
    if not 0 < len(raw) <= DEFAULT_LIMITS.topic_bytes:
        raise LocalProtocolError(f"a topic of {len(raw)} bytes; 1 to {DEFAULT_LIMITS.topic_bytes} are allowed")
    return raw


def _field_1(value: bytes) -> bytes:
    return b"\x0a" + prefixed(value)


def _field_2(value: bytes) -> bytes:
    return b"\x12" + prefixed(value)


def _control(tag: bytes, body: bytes) -> bytes:
    return b"\x1a" + prefixed(tag + prefixed(body))


def _rpc(subscriptions: list[bytes], control: list[bytes]) -> bytes:
    if control:
        subscriptions.append(b"\x1a" + prefixed(b"".join(control)))
    return b"".join(subscriptions)


def _join(pieces: Iterable[bytes], limit: int) -> list[bytes]:
    """The pieces in order, joined to as few strings of at most `limit` bytes as that takes."""
    joined: list[bytes] = []
    some: list[bytes] = []
    size = 0
    for piece in pieces:
        if some and size + len(piece) > limit:
            joined.append(b"".join(some))
            some, size = [], 0
        some.append(piece)
        size += len(piece)
    if some:
        joined.append(b"".join(some))
    return joined
