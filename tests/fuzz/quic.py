"""What a QUIC peer can say once it has keys, and what it can send without: to one connection, and to an endpoint.

The peers are honest connections whose words are changed before they are encrypted: TLS messages, transport parameters,
the frames of packets. An exception that comes out of the core is a finding; so is a bound that does not hold, and a
connection that does not end when its peer falls silent.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import trio
import trio.testing
from aioquic.buffer import Buffer, BufferWriteError
from aioquic.quic import connection as library
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicFrameType,
    QuicTransportParameters,
    encode_quic_retry,
    encode_quic_version_negotiation,
    push_quic_transport_parameters,
)
from aioquic.tls import Epoch
from cryptography import x509

from pyp2p.errors import RemoteError
from pyp2p.muxers.base import Data, MuxerLimits, Opened
from pyp2p.quic.core import CONNECTION_WINDOW, MAX_CRYPTO, QuicCore
from pyp2p.quic.endpoint import BACKLOG, RETRY_ABOVE, Endpoint, Wire
from pyp2p.quic.muxer import QuicMuxer
from pyp2p.quic.receiver import MAX_FRAGMENTS, STREAM_WINDOW, Receiver
from tests.fuzz.script import Edits, Script, block, edits
from tests.unit.quic.quic_tools import HERE, THERE, Pair, settings, varint
from tests.unit.security.tls_tools import ALICE, BOB, P256, certificate

ALICES = certificate(ALICE)
OURS = settings(BOB)
PATIENCE = 400  # timers until a connection whose peer is silent has to be over
STREAM = QuicFrameType.STREAM_BASE


class Ours:
    """A core of ours with an application over it, which takes, echoes, ends and resets by a seeded choice."""

    def __init__(self, core: QuicCore, now: float, seed: int) -> None:
        self.core = core
        self.now = now
        self.muxer: QuicMuxer | None = None
        self.choice = random.Random(seed)

    def give(self, data: bytes, place: tuple[str, int]) -> None:
        self.core.receive_datagram(data, place, self.now)

    def settle(self) -> list[tuple[bytes, Any]]:
        """What the endpoint does after datagrams, and the reader after that; what is to be sent."""
        core = self.core
        core.look()
        sent = core.datagrams_to_send(self.now)
        core.look()
        core.take_cids()
        assert core.done or not any(hasattr(event, "stream_id") for event in core.told)
        assert not core.done or (core.peer_key is not None and core.refusal is None)
        if core.done and self.muxer is None:
            self.muxer = QuicMuxer(core, MuxerLimits(), self.now)
        if self.muxer is not None:
            self._use(self.muxer)
            core.look()
            sent += core.datagrams_to_send(self.now)
            core.look()
        self.check()
        return sent

    def _use(self, muxer: QuicMuxer) -> None:
        for event in muxer.feed(b"", self.now):
            chance = self.choice.random()
            if isinstance(event, Opened):
                muxer.accept(event.sub)
            if isinstance(event, Data):
                if chance < 0.7:
                    muxer.consumed(event.sub, len(event.data), self.now)
                if chance < 0.3 and not event.sub.fin_sent and event.sub.reset_code is None:
                    muxer.send(event.sub, event.data)
            elif chance < 0.2 and hasattr(event, "sub"):
                muxer.reset(event.sub, 7)
            elif chance < 0.4 and hasattr(event, "sub"):
                muxer.fin(event.sub)

    def speak(self) -> None:
        """The application opens a stream and says something."""
        if self.muxer is not None and self.muxer.can_open and self.core.can_open:
            sub = self.muxer.open(self.now)
            self.muxer.send(sub, bytes(self.choice.randrange(5000)))
            if self.choice.random() < 0.5:
                self.muxer.fin(sub)
            self.muxer.ping(self.now)

    def check(self) -> None:
        """Every bound that hostile frames could break."""
        core = self.core
        inbound = sum(number % 4 == int(core.client) for number in core._streams)
        assert inbound <= 256 + 1
        assert core._local_max_data.value <= core._released + CONNECTION_WINDOW
        assert core._released <= core._local_max_data.used
        assert len(core._retire_connection_ids) <= 100 and len(core._peer_cid_available) <= 8
        assert len(core._network_paths) <= 8
        assert all(len(path.remote_challenges) <= 32 for path in core._network_paths)
        for receivers, most in ((core._streams, STREAM_WINDOW), (core._crypto_streams, MAX_CRYPTO)):
            for stream in receivers.values():
                if isinstance(stream.receiver, Receiver):
                    assert len(stream.receiver._offsets) <= MAX_FRAGMENTS + 1
                    assert stream.receiver._held <= 2 * most + 1500

    def pass_time(self, seconds: float) -> list[tuple[bytes, Any]]:
        """Timers go off for so long."""
        until, sent = self.now + seconds, []
        for _ in range(PATIENCE):
            due = self.core.get_timer()
            if due is None or due > until or self.core.terminated is not None:
                break
            self.now = max(self.now, due)
            self.core.handle_timer(self.now + 1e-6)
            sent += self.settle()
        self.now = until
        return sent

    def end(self) -> None:
        """The peer has fallen silent: the connection is over within the idle time, and then says nothing."""
        for _ in range(4):
            self.pass_time(100.0)
        assert self.core.terminated is not None
        assert not self.settle()
        self.core.shut()
        assert not self.settle()


# --- connections that are up, made once: making one takes longer than all that a fuzzer does with it


def _copied(pair: Pair) -> Pair:
    """The same again; keys, certificates and settings, which do not change, are shared."""
    memo: dict[int, Any] = {}
    contexts = {}
    for core in (pair.dialler, pair.listener):
        for shared in (core._configuration, core._logger, core._settings, core.peer_key, core._quic_logger):
            memo[id(shared)] = shared
        contexts[core] = memo[id(core.tls)] = copy.copy(core.tls)
        for crypto in (*core._cryptos.values(), *core._cryptos_initial.values()):
            for half in (crypto.recv, crypto.send):
                memo[id(half.aead)], memo[id(half.hp)] = half.aead, half.hp
        for buffer in core._crypto_buffers.values():
            memo[id(buffer)] = Buffer(capacity=library.CRYPTO_BUFFER_SIZE)
    again = copy.deepcopy(pair, memo)
    for core, other in ((pair.dialler, again.dialler), (pair.listener, again.listener)):
        context = contexts[core]
        context.update_traffic_key_cb, context.alpn_cb = other._update_traffic_key, other._alpn_handler
        if context.new_session_ticket_cb is not None:
            context.new_session_ticket_cb = other._handle_session_ticket
    return again


_UP: list[Pair] = []


def up() -> Pair:
    """Two ends of ours in the middle of a conversation: streams both ways, one of them ended, and nothing under way."""
    if not _UP:
        pair = Pair()
        for core in (pair.dialler, pair.listener):
            for size in (10, 4000):
                core.send_stream_data(core.open_stream(), bytes(size), end_stream=size == 10)
        pair.pump(2.0)
        _UP.append(pair)
    return _copied(_UP[0])


def packet(core: QuicConnection, plain: bytes) -> bytes:
    """Frames of any kind, or what is none, as a packet of somebody who has the keys."""
    crypto = core._cryptos[Epoch.ONE_RTT]
    number = core._packet_number
    core._packet_number += 1
    head = bytes((0x41 | crypto.key_phase << 2,)) + core._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
    return bytes(crypto.encrypt_packet(head, plain.ljust(4, b"\0"), number))


LISTENS, DIALS = b"\0", b"\1"
SAYS, MOVES, WAITS, SPEAKS, REKEYS = range(5)


def said(*packets: bytes) -> bytes:
    return b"".join(bytes((SAYS,)) + block(plain) for plain in packets)


def frames() -> Iterator[bytes]:
    """Frames of each kind, whole and wrong, alone and in company."""
    name, token = b"\x08" + bytes(range(8)), bytes(16)
    reset = bytes((QuicFrameType.RESET_STREAM,))
    stop = bytes((QuicFrameType.STOP_SENDING,))
    each = [
        b"\x00" * 20,
        b"\x01",
        b"\x02" + varint(3) + varint(0) + varint(0) + varint(2),
        b"\x03" + varint(5) + varint(0) + varint(1) + varint(1) + varint(0) + varint(0) + varint(0) * 3,
        b"\x02" + varint(1 << 30) + varint(9) + varint(0) + varint(0),
        *(reset + varint(number) + varint(5) + varint(size) for number in (0, 1, 4, 5, 8) for size in (0, 10, 4000)),
        *(stop + varint(number) + varint(5) for number in (0, 1, 4, 5, 8, 2, 3)),
        b"\x06" + varint(0) + varint(4) + b"\x04\0\0\0",
        b"\x06" + varint(0) + varint(40) + b"\x04\0\0\x24" + bytes(40),
        b"\x07" + varint(3) + b"abc",
        *(bytes((STREAM | 7,)) + varint(n) + varint(off) + varint(3) + b"abc" for n in (4, 5, 8, 9) for off in (0, 7)),
        *(bytes((STREAM | 6,)) + varint(n) + varint(4000) + varint(3) + b"abc" for n in (4, 5)),
        bytes((STREAM,)) + varint(8) + b"all of it",
        b"\x10" + varint(1 << 40),
        *(b"\x11" + varint(number) + varint(1 << 40) for number in (0, 1, 4, 5, 8)),
        b"\x12" + varint(1 << 20),
        b"\x13" + varint(5),
        b"\x14" + varint(9),
        b"\x15" + varint(4) + varint(9),
        b"\x16" + varint(9),
        b"\x17" + varint(9),
        b"\x18" + varint(9) + varint(0) + name + token,
        b"\x18" + varint(9) + varint(9) + name + token,
        *(b"\x19" + varint(number) for number in range(4)),
        b"\x1a" + bytes(8),
        b"\x1b" + bytes(8),
        b"\x1c" + varint(7) + varint(0) + varint(3) + b"\xff\xfe\xfd",
        b"\x1d" + varint(7) + varint(3) + b"bye",
        b"\x1e",
        b"\x30abc",
        varint(0x42),
        b"",
    ]
    for role in (LISTENS, DIALS):
        for plain in each:
            yield role + said(plain)
        yield role + b"".join(map(said, each[:-12]))
        moved = bytes((MOVES, 3))
        yield role + moved + said(b"\x01") + moved + said(b"\x1a" + bytes(8)) + bytes((WAITS, 9)) + said(b"\x01")
        yield role + bytes((SPEAKS,)) + said(each[2]) + bytes((SPEAKS, WAITS, 200)) + said(each[3], stop + varint(8))
        yield role + bytes((REKEYS,)) + said(b"\x01") + bytes((REKEYS, SPEAKS)) + said(b"\x01")
    yield LISTENS + said(
        *(bytes((STREAM | 2,)) + varint(4 * n) + varint(1) + b"x" + stop + varint(4 * n) for n in range(99))
    )


def one_conversation(data: bytes) -> None:
    """Whatever frames an authenticated peer sends, and when: its connection goes on or ends, within its bounds."""
    script = Script(data)
    pair = up()
    role = script.byte() % 2
    hostile, core, place = (pair.listener, pair.dialler, THERE) if role else (pair.dialler, pair.listener, HERE)
    ours = Ours(core, pair.now, len(data))
    ours.settle()
    while script.more and core.terminated is None:
        match script.byte() % 8:
            case 1:
                place = (place[0], 1000 + script.byte())
            case 2:
                ours.pass_time(script.byte() / 50)
            case 3:
                ours.speak()
                ours.settle()
            case 4:
                hostile._cryptos[Epoch.ONE_RTT].update_key()
            case _:
                ours.give(packet(hostile, script.block()[:1400]), place)
                ours.settle()
    ours.end()


# --- handshakes


class Liar(QuicConnection):
    """An honest connection of the library that changes what it says: TLS messages, frames or transport parameters."""

    def __init__(self, client: bool, level: int, changes: Edits | None, first: bytes = b"", more: bytes = b"") -> None:
        configuration = QuicConfiguration(
            alpn_protocols=["libp2p"],
            is_client=client,
            verify_mode=0,
            certificate=x509.load_der_x509_certificate(ALICES),
            private_key=P256,
            max_datagram_size=1452,
        )
        original = {} if client else {"original_destination_connection_id": original_of(first)}
        self.level, self.changes, self.more = level, changes, more
        super().__init__(configuration=configuration, **original)
        if client:
            self.connect(THERE, 0.0)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        if self.level == 1:
            for pair in (*self._cryptos.values(), *self._cryptos_initial.values()):
                pair.encrypt_packet = self._tampering(pair.encrypt_packet)

    def _push_crypto_data(self) -> None:
        if self.level == 0 and self.changes is not None:
            for epoch, buffer in self._crypto_buffers.items():
                if buffer.tell():
                    self._crypto_streams[epoch].sender.write(self.changes.apply(buffer.data))
                    buffer.seek(0)
        super()._push_crypto_data()

    def _tampering(self, encrypt: Callable[[bytes, bytes, int], bytes]) -> Callable[[bytes, bytes, int], bytes]:
        def changed(head: bytes, plain: bytes, number: int) -> bytes:
            assert self.changes is not None
            payload = self.changes.apply(plain).ljust(4, b"\0")
            if head[0] & 0x80:  # its length stands before the packet number
                head = head[:-4] + (0x4000 | min(0x3FFF, len(payload) + 18)).to_bytes(2, "big") + head[-2:]
            return encrypt(head, payload, number)

        return changed

    def _serialize_transport_parameters(self) -> bytes:
        if self.level != 2:
            return super()._serialize_transport_parameters()
        own = QuicTransportParameters(initial_source_connection_id=self._local_initial_source_connection_id)
        if not self._is_client:
            own.original_destination_connection_id = self._original_destination_connection_id
        buffer = Buffer(capacity=200)
        push_quic_transport_parameters(buffer, own)
        return buffer.data + self.more


def original_of(first: bytes) -> bytes:
    """The id that whoever begins a connection chose for the other end."""
    return first[6 : 6 + first[5]]


def shake_hands(ours_dial: bool, level: int, changes: Edits | None, more: bytes, seed: int) -> Ours:
    """Our end after a handshake with a liar, as far as it got."""
    if ours_dial:
        core = QuicCore(OURS, client=True)
        core.connect(THERE, 0.0)
        ours = Ours(core, 0.0, seed)
        waiting = ours.settle()
        liar = Liar(False, level, changes, waiting[0][0], more)
    else:
        liar = Liar(True, level, changes, more=more)
        first = liar.datagrams_to_send(0.0)
        if not first or len(first[0][0]) < 1200:
            raise RemoteError("begins no connection")
        ours = Ours(QuicCore(OURS, client=False, original_cid=original_of(first[0][0])), 0.0, seed)
        waiting = []
        for data, _ in first:
            ours.give(data, HERE)
        waiting = ours.settle()
    mine, its = (HERE, THERE) if ours_dial else (THERE, HERE)
    for turn in range(12):
        for data, _ in waiting:
            liar.receive_datagram(data, mine, ours.now)
        try:
            answers = [data for data, _ in liar.datagrams_to_send(ours.now)]
        except BufferWriteError:  # more than goes into a datagram
            break
        for data in answers:
            if level == 3 and changes is not None:
                data = changes.apply(data)
            if data:
                ours.give(data, its)
        waiting = ours.settle()
        if turn > 4:
            ours.speak()
            waiting += ours.settle()
        if not answers and not waiting:
            waiting = ours.pass_time(1.0)
    return ours


def handshakes() -> Iterator[bytes]:
    """By whom, at which level, and what is changed."""
    for role in (LISTENS, DIALS):
        for level in range(2):
            yield role + bytes((level,))
            for unit in range(4):
                for change in ((4, 0, b"\xff"), (60, 1, b"\0\0"), (40, 2, b""), (100, 3, b""), (1, 0, b"\x01\0\0")):
                    yield role + bytes((level,)) + edits((unit, *change))
            yield role + bytes((level,)) + edits((0, 0, 4, b""), (1, 0, 4, b"\x06\0\x04\x18\0\0\0"))
        for unit in range(3):
            for at in (0, 1, 5, 6, 20):
                yield role + b"\3" + edits((unit, at, 0, b"\xff"))
    yield LISTENS + b"\0" + edits((1, 0, 4, b"\x0b\0\0\4\0\0\0\0"))
    yield DIALS + b"\0" + edits((0, 90, 1, bytes(700)))


def one_handshake(data: bytes) -> None:
    """Whoever changes what it says: no exception, nothing told without a proof, and an end."""
    script = Script(data)
    ours_dial, level = script.byte() % 2 == 1, (0, 1, 3)[script.byte() % 4 % 3]
    shake_hands(ours_dial, level, Edits(script), b"", len(data)).end()


def parameters() -> Iterator[bytes]:
    """Transport parameters at and beyond their bounds, RFC 9000, 18.2."""
    most = (1 << 62) - 1
    sized = {
        0x01: (0, 1, 30_000, most),
        0x03: (1199, 1200, 65527, most),
        **dict.fromkeys((0x04, 0x05, 0x06, 0x07), (0, 1, 1 << 20, most)),
        **dict.fromkeys((0x08, 0x09), (0, 3, 1 << 60, (1 << 60) + 1)),
        0x0A: (0, 20, 21, most),
        0x0B: (0, (1 << 14) - 1, 1 << 14, most),
        0x0E: (0, 1, 2, 8, most),
        0x20: (0, 65535, most),
    }
    for role in (LISTENS, DIALS):
        for number, values in sized.items():
            for value in values:
                yield role + varint(number) + varint(len(varint(value))) + varint(value)
        place = bytes((10, 0, 0, 9)) + b"\x10\x00" + bytes(16) + b"\0\0" + b"\x08" + bytes(8) + bytes(16)
        enough = b"".join(varint(number) + b"\4" + b"\x80\x01\0\0" for number in range(4, 10))
        yield role + enough + b"\x0d" + varint(len(place)) + place
        yield role + enough + b"\x02\x10" + bytes(16)
        yield role + enough + b"\x0c\0" + b"\x0c\0"
        yield role + enough + b"\x11\x0c" + b"\0\0\0\1" * 3
        yield role + enough + b"\x0f\x08" + bytes(8)
        yield role + enough + b"\x10\x01\x01"
        yield role + enough + b"\x0e\x01\x41"
        yield role + enough + varint(0x3127) + varint(300) + bytes(300)


def one_set_of_parameters(data: bytes) -> None:
    """A peer whose transport parameters are anything, and who is honest otherwise."""
    ours_dial = Script(data[:1]).byte() % 2 == 1
    shake_hands(ours_dial, 2, None, data[1:1500], len(data)).end()


# --- datagrams


class Sink:
    """A socket that only counts."""

    dropped = 0
    trouble = ""
    local = THERE

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.closed = False

    def send_to(self, data: bytes, to: tuple[str, int]) -> bool:
        self.sent.append((data, to))
        return True

    def send_many(self, datagrams: list[bytes], to: tuple[str, int]) -> None:
        self.sent += [(data, to) for data in datagrams]

    async def receive_many(self) -> list[tuple[bytes, tuple[str, int]]]:
        await trio.sleep_forever()
        raise AssertionError

    def close(self) -> None:
        self.closed = True


RAW, BEGUN, ANSWERED, LATER, BUSY = range(5)


def datagrams() -> Iterator[bytes]:
    """Datagrams of all kinds, to an endpoint that has connections in all states."""
    first = Liar(True, 9, None).datagrams_to_send(0.0)[0][0]
    other = b"\xc0" + b"\x6b\x33\x43\xcf" + first[5:]
    retry = encode_quic_retry(
        version=1, source_cid=bytes(8), destination_cid=bytes(8), original_destination_cid=bytes(8), retry_token=b"t"
    )
    negotiation = encode_quic_version_negotiation(source_cid=bytes(8), destination_cid=bytes(8), supported_versions=[9])
    token = first[:23] + b"\x10" + bytes(16) + first[24:]
    for datagram in (first, other, retry, negotiation, token, b"\x40" + bytes(40), first[:1199], b"\xe0" + first[1:]):
        for kind in range(BUSY + 1):
            yield bytes((kind,)) + block(datagram)
    yield bytes((RAW,)) + block(first) + bytes((LATER,)) + bytes((BUSY,)) + block(first[:6] + bytes(8) + first[14:])


def one_endpoint(data: bytes) -> None:
    """Datagrams of anybody to an endpoint that listens and dials."""
    trio.run(_one_endpoint, data, clock=trio.testing.MockClock(autojump_threshold=0))


async def _one_endpoint(data: bytes) -> None:
    script = Script(data)
    socket = Sink()
    endpoint = Endpoint(socket, OURS, listening=True)
    dialled = endpoint.dial(HERE)
    asked = socket.sent.pop()[0]
    dialled.begin(None)
    assert dialled.core is not None
    known: list[Wire] = [dialled]
    heard = told = 0
    while script.more:
        kind = script.byte() % 5
        datagram = script.block()
        if kind == BUSY:  # from now on who comes has to show that it hears us
            for _ in range(RETRY_ABOVE):
                endpoint._half_open[Wire(endpoint, HERE, None)] = None
            kind = RAW
        if kind == BEGUN:  # to the connection that was dialled
            datagram = datagram[:6] + dialled.core.host_cid + datagram[6 + len(dialled.core.host_cid) :]
        elif kind == ANSWERED:  # a Retry that is in order
            datagram = encode_quic_retry(
                version=1,
                source_cid=datagram[:8].ljust(8, b"\1"),
                destination_cid=dialled.core.host_cid,
                original_destination_cid=original_of(asked),
                retry_token=datagram,
            )
        elif kind == LATER:
            await trio.sleep(len(datagram) / 100)
        before = len(socket.sent)
        endpoint._take([(datagram, HERE)])
        while endpoint._waiting:
            wire = await endpoint.accept()
            wire.begin(None)
            known.append(wire)
        if kind == RAW:
            heard += len(datagram)
            told += sum(len(each) for each, _ in socket.sent[before:])
        assert len(endpoint._waiting) <= BACKLOG
    assert told <= 3 * heard
    assert not any(wire.broken for wire in known)
    for wire in known:
        wire.close()
    for wire in list(endpoint._half_open):
        endpoint.forget(wire)
    assert not any(wire.broken for wire in known)
    for wire in list(endpoint._parting):
        endpoint._part(wire)  # its time is up
    assert not endpoint._wires and not endpoint._all
    endpoint.stop_listening()
    assert endpoint.closed
