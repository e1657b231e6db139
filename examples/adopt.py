"""A libp2p connection over a stream that was opened elsewhere: here a socket pair, as well a proxy, Tor or a pipe."""
# ruff: noqa: T201 - an example prints

import trio

import pyp2p
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo


async def main() -> None:
    """Two nodes without listeners or addresses meet over a pair of sockets."""
    left, right = trio.socket.socketpair()
    async with pyp2p.open_switch() as one, pyp2p.open_switch() as two:
        two.mount(ECHO_PROTOCOL, serve_echo)

        async def answer() -> None:
            # Nobody dialled on a socket pair, but one side has to begin: the two directions must differ.
            await two.adopt(
                trio.SocketStream(right),
                kind=pyp2p.AddressKind.INBOUND_PROXY,
                direction=pyp2p.Direction.INBOUND,
            )

        async with trio.open_nursery() as nursery:
            # `adopt` returns when the connection is ready, for which both sides have to run.
            nursery.start_soon(answer)
            connection = await one.adopt(
                trio.SocketStream(left),
                kind=pyp2p.AddressKind.OUTBOUND_PROXY,  # the far end is not where the peer is: its address is not kept
                direction=pyp2p.Direction.OUTBOUND,
                expect=two.peer,  # who opened the stream knows whom it wanted; None learns the id
            )
        print(f"adopted: {connection.direction.value}, {connection.kind.value}, {connection.security}")
        print(f"addresses remembered of the peer: {len(one.peers.addresses(two.peer, trio.current_time()))}")

        # From here it is a connection like any other: `open_stream` finds it by the peer's id.
        async with await one.open_stream(two.peer, ECHO_PROTOCOL) as stream:
            await stream.send_all(b"over a socket pair")
            await stream.send_eof()
            print(f"echo: {b''.join([chunk async for chunk in stream]).decode()}")

        # A stream that fails to become a connection is closed, and the error comes as it is, not as `DialFailed`.
        left, right = trio.socket.socketpair()
        right.close()
        try:
            await one.adopt(
                trio.SocketStream(left),
                kind=pyp2p.AddressKind.ISOLATED,
                direction=pyp2p.Direction.OUTBOUND,
            )
        except (pyp2p.P2PError, trio.BrokenResourceError) as error:
            print(f"refused: {type(error).__name__}; descriptor closed: {left.fileno() == -1}")


trio.run(main)
