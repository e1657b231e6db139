"""WebSocket streams: trio's contract over pipes and sockets, frames of others, and everything that is no WebSocket."""

import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import generate_accept_token

from pyp2p.errors import CertificateRefused, ConnectFailed
from pyp2p.io.stream import PlainStream, RawStream
from pyp2p.peer.address import components, parse_multiaddr, text
from pyp2p.trace import Stage, Trace
from pyp2p.transports.pipe import pipe_pair
from pyp2p.transports.webcert import self_signed
from pyp2p.transports.ws import WebSocket, WsStream, _asked
from pyp2p.transports.wsopening import Opening

BINARY, TEXT, CLOSE, PING, PONG = 2, 1, 8, 9, 10
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def pair(capacity: int = 1 << 20) -> tuple[WsStream, WsStream]:
    """A dialler's and a listener's end of one WebSocket over a pipe."""
    near, far = pipe_pair(capacity)
    listener = WsStream(far, Opening(None))
    made: list[WsStream] = []

    async def dial() -> None:
        made.append(await _asked(near, "localhost:1", Trace()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await listener._exchange(listener._opening)
    return made[0], listener


async def make_pair() -> tuple[WsStream, WsStream]:
    return await pair()


async def other_way() -> tuple[WsStream, WsStream]:
    near, far = await pair()
    return far, near


@pytest.mark.parametrize("make", [make_pair, other_way], ids=["dialler first", "listener first"])
async def test_stream_contract(make) -> None:
    await trio.testing.check_two_way_stream(make, None)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, size: int | None = None) -> bytes:
    """A frame as a dialler of others would send it (mask), or a listener."""
    length = len(payload) if size is None else size
    first = bytes([fin << 7 | opcode])
    if length < 126:
        first += bytes([mask << 7 | length])
    elif length < 65536:
        first += bytes([mask << 7 | 126]) + struct.pack(">H", length)
    else:
        first += bytes([mask << 7 | 127]) + struct.pack(">Q", length)
    if not mask:
        return first + payload
    key = b"\x01\x02\x03\x04"
    return first + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


@asynccontextmanager
async def served(capacity: int = 1 << 20) -> AsyncIterator[tuple[RawStream, WsStream]]:
    """A listener's end, and the raw stream of a peer that has asked and was answered."""
    raw, far = pipe_pair(capacity)
    stream = WsStream(far, Opening(None))
    await raw.send_all(REQUEST + b"\r\n")
    await stream._exchange(stream._opening)
    answer = await raw.receive_some(4096)
    assert answer.startswith(b"HTTP/1.1 101")
    yield raw, stream
    await stream.aclose_now()
    await raw.aclose()


async def test_frames_of_others_are_one_stream_of_bytes() -> None:
    async with served() as (raw, stream):
        many = frame(BINARY, b"one") + frame(BINARY, b"two", fin=False) + frame(0, b"three") + frame(BINARY, b"")
        await raw.send_all(many)
        assert await stream.receive_some() == b"onetwothree"
        large = frame(BINARY, bytes(100_000))
        await raw.send_all(large[:1000])
        assert len(await stream.receive_some()) == 1000 - 14  # what is there of a frame is not waited with
        await raw.send_all(large[1000:])
        assert len(await stream.receive_some(1 << 20)) == 100_000 - 986


async def test_pings_are_answered_and_pongs_passed_over() -> None:
    async with served() as (raw, stream):
        await raw.send_all(frame(PING, b"one") + frame(PONG, b"?") + frame(BINARY, b"data"))
        assert await stream.receive_some() == b"data"
        assert await raw.receive_some(100) == frame(PONG, b"one", mask=False)


async def test_where_nothing_leaves_at_once_a_ping_is_told_of_and_answered_by_who_sends() -> None:
    raw, far = pipe_pair(1 << 20)
    stream = WsStream(PlainStream(far), Opening(None))
    await raw.send_all(REQUEST + b"\r\n" + frame(BINARY, b"early"))
    assert await stream.receive_some() == b"early"
    await raw.receive_some(4096)
    woken: list[bool] = []
    stream.notify(lambda: woken.append(stream.unsent))
    for number in (b"1", b"2"):
        await raw.send_all(frame(PING, number) + frame(BINARY, b"data"))
        assert await stream.receive_some() == b"data"
    assert woken == [True, True]
    assert stream.try_send(b"x") == 0
    await stream.wait_send_all_might_not_block()
    assert not stream.unsent
    assert await raw.receive_some(100) == frame(PONG, b"2", mask=False)
    await raw.send_all(frame(PING, b"3") + frame(BINARY, b"data"))
    assert await stream.receive_some() == b"data"
    await stream.send_all(b"said")
    assert await raw.receive_some(100) == frame(PONG, b"3", mask=False) + frame(BINARY, b"said", mask=False)
    await stream.aclose()


@pytest.mark.parametrize("step", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_frames_right_behind_the_request_are_left_over(step: int, end: bytes) -> None:
    opening = Opening(None)
    early = frame(BINARY, b"\r\n\r\nearly")
    said = (REQUEST + b"\r\n").replace(b"\r\n", end) + early
    for at in range(0, len(said), step):
        opening.feed(said[at : at + step])
        if opening.done:
            assert opening.leftover + said[at + step :] == early
            break
    assert opening.done
    assert opening.take_output().startswith(b"HTTP/1.1 101")


@pytest.mark.hostile
async def test_hostile_086_a_flood_of_pings_that_nobody_reads_the_answers_of_costs_no_memory() -> None:
    async with served(capacity=2048) as (raw, stream):
        for number in range(200):
            await raw.send_all(frame(PING, bytes([number]) * 100) * 10 + frame(BINARY, b"x"))
            assert await stream.receive_some() == b"x"
        assert len(stream._unsent) + len(stream._pong) < 300
        got = bytearray(await raw.receive_some(4096))
        await stream.wait_send_all_might_not_block()
        assert stream.try_send(b"said")
        got += await raw.receive_some(4096)
        assert got.endswith(frame(PONG, bytes([199]) * 100, mask=False) + frame(BINARY, b"said", mask=False))


@pytest.mark.parametrize("payload", [b"", struct.pack(">H", 1000), struct.pack(">H", 1001) + b"bye"])
async def test_a_closing_frame_is_the_end_and_is_answered(payload: bytes) -> None:
    async with served() as (raw, stream):
        await raw.send_all(frame(BINARY, b"last") + frame(CLOSE, payload) + frame(BINARY, b"after"))
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""
        assert (await raw.receive_some(100))[:1] == bytes([0x80 | CLOSE])
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            stream.try_send(b"x")


@pytest.mark.parametrize("said", [frame(CLOSE), b""], ids=["closing frame", "none"])
async def test_reading_at_the_end_is_a_checkpoint_each_time(said: bytes) -> None:
    async with served() as (raw, stream):
        await raw.send_all(said)
        await raw.send_eof()
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                assert await stream.receive_some() == b""


async def test_the_end_without_a_closing_frame_is_an_end() -> None:
    async with served() as (raw, stream):
        await raw.send_all(frame(BINARY, b"last"))
        await raw.send_eof()
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""


async def test_we_end_with_a_closing_frame_and_still_read() -> None:
    near, far = await pair()
    await near.send_eof()
    await near.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")
    assert await far.receive_some() == b""
    assert await near.receive_some() == b""
    await near.aclose()
    await far.aclose()


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("said", "why", "code"),
    [
        (frame(TEXT, b"hello"), "1003: a text frame", 1003),
        (frame(BINARY, b"x", mask=False), "1002.*unmasked", 1002),
        (frame(3, b"x"), "1002.*opcode", 1002),
        (b"\xf2\x80\x01\x02\x03\x04", "1002.*[Rr]eserved", 1002),
        (frame(PING, b"x", fin=False), "1002.*fragment", 1002),
        (frame(BINARY, b"", size=1 << 63), "1002.*highest bit", 1002),
        (b"\x82\xfe\x00\x05\x01\x02\x03\x04", "1002.*2 bytes", 1002),
        (frame(0, b"x"), "1002.*nothing is there to continue", 1002),
        (frame(CLOSE, struct.pack(">H", 1011) + b"crashed \x1b[31m"), r"1011: crashed \\x1b", 1011),
        (frame(CLOSE, b"\x01"), "1002", 1002),
    ],
    ids=["text", "unmasked", "opcode", "reserved", "fragment", "length", "long", "continuation", "1011", "close"],
)
async def test_hostile_086_frames_that_are_none_end_it_and_the_peer_is_told(said: bytes, why: str, code: int) -> None:
    async with served() as (raw, stream):
        await raw.send_all(frame(BINARY, b"good") + said)
        assert await stream.receive_some() == b"good"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=why):
                await stream.receive_some()
        told = await raw.receive_some(200)
        assert (told[0], struct.unpack(">H", told[2:4])[0]) == (0x80 | CLOSE, code)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x13/multistream/1.0.0\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 4"),
        (REQUEST.replace(b"13\r\n", b"12\r\n") + b"\r\n", b"HTTP/1.1 426"),
        (REQUEST + b"X: " + b"y" * 100_000 + b"\r\n\r\n", b""),
        (REQUEST + b"X: y\r\n" * 5_000, b""),
        (REQUEST, b""),
        (REQUEST.replace(b"Host: a", b"Host: \xff") + b"\r\n", b"HTTP/1.1 400"),
        (REQUEST + b"Connection: \xff\r\n\r\n", b"HTTP/1.1 400"),
        (REQUEST + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", b"HTTP/1.1 400"),
    ],
    ids=["multistream", "tls", "post", "get", "version", "header", "headers", "half", "host", "latin", "protocol"],
)
async def test_hostile_086_what_is_no_request_for_a_websocket(said: bytes, answer: bytes) -> None:
    raw, far = pipe_pair(1 << 20)
    stream = WsStream(far, Opening(None))
    await raw.send_all(said)
    await raw.send_eof()
    with pytest.raises(trio.BrokenResourceError, match="WebSocket request"):
        await stream.receive_some()
    await stream.aclose()
    assert (await raw.receive_some(100)).startswith(answer)


async def test_a_listener_that_speaks_first_waits_for_the_request() -> None:
    raw, far = pipe_pair(1 << 20)
    stream = WsStream(far, Opening(None))
    assert stream.try_send(b"x") == 0
    await raw.send_all(REQUEST + b"\r\n")
    await stream.send_all(b"hello")
    assert (await raw.receive_some(4096)).endswith(frame(BINARY, b"hello", mask=False))
    await stream.aclose()


async def test_what_the_socket_takes_in_part_leaves_before_anything_else() -> None:
    near, far = await pair(capacity=1000)
    assert near.try_send(bytes(3000)) == 3000
    assert near.unsent
    assert near.try_send(b"more") == 0
    got = bytearray()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            while len(got) < 3004:
                got.extend(await far.receive_some())

        nursery.start_soon(read)
        await near.wait_send_all_might_not_block()
        assert near.unsent  # a piece has left, and who waits can tell
        while near.unsent:
            await near.wait_send_all_might_not_block()
        await near.send_all(b"more")
    assert got == bytes(3000) + b"more"
    await near.aclose()
    await far.aclose()


@pytest.mark.parametrize("make", [make_pair, other_way], ids=["masked", "not masked"])
async def test_bulk_leaves_in_frames_of_which_none_is_lost(make) -> None:
    near, far = await make()
    bulk = bytes(range(256)) * 1200
    assert near.try_send(bulk) == len(bulk)
    assert near.try_send(b"end") == 3
    got = bytearray()
    while len(got) < len(bulk) + 3:
        got += await far.receive_some(50_000)
    assert got == bulk + b"end"
    await near.aclose()
    await far.aclose()


async def test_a_full_socket_takes_nothing_and_loses_nothing() -> None:
    near, far = await pair(capacity=1000)
    assert near.try_send(bytes(992)) == 992  # with a header of 8 bytes it is full
    assert not near.unsent
    assert near.try_send(b"more") == 0
    assert await far.receive_some() == bytes(992)
    assert near.try_send(b"more") == 4
    assert await far.receive_some() == b"more"
    await near.aclose()
    await far.aclose()


# --- dialling


async def test_payload_that_comes_with_the_answer_is_read_first() -> None:
    near, far = pipe_pair(1 << 20)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            server = WSConnection(ConnectionType.SERVER)
            server.receive_data(await far.receive_some())
            assert any(isinstance(event, Request) for event in server.events())
            await far.send_all(server.send(AcceptConnection()) + frame(BINARY, b"hello you", mask=False))

        nursery.start_soon(serve)
        stream = await _asked(near, "a:1", Trace())
    assert await stream.receive_some(5) == b"hello"
    assert await stream.receive_some(5) == b" you"
    await stream.aclose()
    await far.aclose()


async def answered(reply: bytes) -> None:
    """Dial somebody who says this to our request."""
    near, far = pipe_pair(1 << 20)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            asked = await far.receive_some()
            key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            await far.send_all(reply.replace(b"%(accept)s", generate_accept_token(key)))
            await far.send_eof()

        nursery.start_soon(serve)
        await _asked(near, "a:1", Trace())


UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPT = b"Sec-WebSocket-Accept: %(accept)s\r\n"
MOVED = b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://b.example/\x1b[31m\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "with HTTP 404$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "with HTTP 200$"),
        (MOVED, r"with HTTP 301, which leads to https://b\.example/\\x1b\[31m: no redirect is followed$"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + UPGRADED + ACCEPT + b"\r\n", "with HTTP 100$"),
        (UPGRADED + b"\r\n", '"HTTP/1.1 101 Switching Protocols": Bad accept token'),
        (UPGRADED + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "101 Switching.*Bad accept token"),
        (UPGRADED + ACCEPT + b"Sec-WebSocket-Protocol: chat\r\n\r\n", "101 Switching.*subprotocol chat"),
        (UPGRADED + ACCEPT + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", "101 Switching.*ascii"),
        (UPGRADED + ACCEPT + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension permessage-deflate"),
        (UPGRADED.replace(b": websocket", b": h2c") + ACCEPT + b"\r\n", "101 Switching.*Upgrade: websocket"),
        (b"\x13/multistream/1.0.0\n", r'"\\x13/multistream/1\.0\.0": Bad HTTP'),
        (b"HTTP/1.1 101 X\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", "no WebSocket"),
        (b"HTTP/1.1 101 X\r\nX: y", "closed the connection in place of an answer"),
        (b"", "closed the connection in place of an answer"),
    ],
    ids=[
        *("404", "200", "301", "100", "no key", "wrong key", "subprotocol", "not ascii", "extension"),
        *("h2c", "multistream", "headers", "half", "nothing"),
    ],
)
async def test_hostile_086_who_does_not_answer_as_a_websocket_is_named(reply: bytes, why: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectFailed, match=why)):
        await answered(reply)


@pytest.mark.parametrize(
    ("address", "handled"),
    [
        ("/ip4/127.0.0.1/tcp/1/ws", True),
        ("/ip6/::1/tcp/1/wss", True),
        ("/ip4/127.0.0.1/tcp/1/tls/ws", True),
        ("/ip4/127.0.0.1/tcp/1/tls/sni/a.example/ws", True),
        ("/ip6zone/lo/ip6/fe80::1/tcp/1/ws", True),
        ("/ip4/127.0.0.1/tcp/1", False),
        ("/ip4/127.0.0.1/tcp/1/tls", False),
        ("/ip4/127.0.0.1/udp/1/ws", False),
        ("/dns4/a.example/tcp/1/ws", False),
        ("/memory/1", False),
    ],
)
def test_which_addresses_are_handled(address: str, handled: bool) -> None:
    assert WebSocket().handles(parse_multiaddr(address)) is handled


@pytest.mark.parametrize("end", ["/ws", "/wss", "/tls/ws"])
async def test_addresses_of_both_ends(end: str) -> None:
    context = self_signed("localhost")
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    transport = WebSocket(server=context, client=client)
    listener = await transport.listen(parse_multiaddr(f"/ip4/127.0.0.1/tcp/0{end}"))
    async with trio.open_nursery() as nursery:
        seen = []

        async def serve() -> None:
            raw = await listener.accept()
            seen.append(raw)
            assert await raw.stream.receive_some() == b"hello"
            await raw.stream.send_all(b"you")

        nursery.start_soon(serve)
        dialled = await transport.dial(listener.address)
        await dialled.stream.send_all(b"hello")
        assert await dialled.stream.receive_some() == b"you"
        await dialled.stream.aclose()
    (accepted,) = seen
    await accepted.stream.aclose()
    assert text(listener.address).endswith(end)
    assert accepted.local == dialled.remote == listener.address
    assert accepted.remote == dialled.local
    await listener.aclose()


async def test_without_a_certificate_there_is_no_secure_listener() -> None:
    with pytest.raises(OSError, match="/tls/ws needs a certificate"):
        await WebSocket().listen(parse_multiaddr("/ip4/127.0.0.1/tcp/0/tls/ws"))


@pytest.mark.parametrize(("end", "waits"), [("/ws", [1]), ("/tls/ws", [1, 1])])
async def test_the_steps_of_a_dial_are_traced(end: str, waits: list[int]) -> None:
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    transport = WebSocket(server=self_signed("localhost"), client=client)
    listener = await transport.listen(parse_multiaddr(f"/ip4/127.0.0.1/tcp/0{end}"))
    port = components(listener.address)[1].value
    trace = Trace()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            raw = await listener.accept()
            assert await raw.stream.receive_some() == b""
            await raw.stream.aclose()

        nursery.start_soon(serve)
        dialled = await transport.dial(listener.address, trace)
        trace.finish(trio.current_time())
        *tls, http = trace.steps
        assert [step.waits for step in trace.steps] == waits
        assert [step.detail for step in tls] == ["TLS to 127.0.0.1"][: len(tls)]
        assert http.detail == f"WebSocket at 127.0.0.1:{port}"
        assert all(step.stage is Stage.CONNECT and step.ended is not None for step in trace.steps)
        assert all(step.bytes_out > 200 and step.bytes_in > 500 for step in tls)
        assert [size > 0 for _, size in http.flights] == [True, False]
        assert (http.bytes_out > 100, http.bytes_in) == (True, 129)
        await dialled.stream.aclose()
    assert len(trace.steps) == len(waits)
    await listener.aclose()


async def test_a_certificate_that_nobody_vouches_for_is_refused_by_default() -> None:
    transport = WebSocket(server=self_signed("localhost"))
    listener = await transport.listen(parse_multiaddr("/ip4/127.0.0.1/tcp/0/tls/ws"))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            raw = await listener.accept()
            with pytest.raises(trio.BrokenResourceError):
                await raw.stream.receive_some()
            await raw.stream.aclose_now()

        nursery.start_soon(serve)
        with pytest.raises(
            CertificateRefused, match=r"^TLS to 127.0.0.1 .*: its certificate .*self-signed certificate"
        ):
            await transport.dial(listener.address)
    await listener.aclose()
