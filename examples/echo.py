"""Two nodes in one program: one serves a protocol, the other opens several streams for it on one connection."""
# ruff: noqa: T201 - an example prints

import trio

import pyp2p

ECHO_PROTOCOL = "/example/echo/1.0.0"


async def echo(stream: pyp2p.MuxedStream) -> None:
    """Send back what comes. A stream is read like any trio stream; when this returns, it is closed."""
    async for chunk in stream:
        await stream.send_all(chunk)


async def ask(connection: pyp2p.Connection, word: bytes, answers: dict[bytes, bytes]) -> None:
    """One question on a stream of its own."""
    with trio.fail_after(5):  # around the whole exchange: a peer that dribbles bytes must not stretch it
        async with await connection.open_stream(ECHO_PROTOCOL) as stream:
            await stream.send_all(word)
            await stream.send_eof()  # the answer ends when our question has ended
            answers[word] = b"".join([chunk async for chunk in stream])


async def main() -> None:
    """Connect, then ask three questions at the same time."""
    async with (
        pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as server,
        pyp2p.open_switch() as client,
    ):
        server.mount(ECHO_PROTOCOL, echo)
        # The address ends in the server's id, so nobody else can answer in its place.
        connection = await client.connect(server.multiaddrs[0])
        print(f"secured by {connection.security}, multiplexed by {connection.muxer_protocol}")

        answers: dict[bytes, bytes] = {}
        async with trio.open_nursery() as nursery:
            for word in (b"one", b"two", b"three"):
                nursery.start_soon(ask, connection, word, answers)
        for word in (b"one", b"two", b"three"):
            print(f"{word.decode()} -> {answers[word].decode()}")
        print(f"connections: {len(client.connections())}, round trips to connect: {connection.trace.round_trips}")


trio.run(main)
