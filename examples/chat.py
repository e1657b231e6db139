"""A chat of two nodes: framed messages both ways on one stream, each of a bounded size."""
# ruff: noqa: T201 - an example prints

import trio

import pyp2p
from pyp2p.errors import printable
from pyp2p.io.messages import MessageStream

CHAT_PROTOCOL = "/example/chat/1.0.0"
MAX_MESSAGE = 256  # bytes: a length over it is refused before one byte of the message is kept
PATIENCE = 5  # seconds for the next message

ANSWERS = {"hello": "hello to you", "how are you?": "reading the specs"}


async def serve_chat(stream: pyp2p.MuxedStream) -> None:
    """Answer each message until the peer has nothing more to say."""
    messages = MessageStream(stream, MAX_MESSAGE)
    while True:
        # A handler has no deadline of its own: without this one a silent peer would keep the stream.
        with trio.fail_after(PATIENCE):
            message = await messages.receive()
        if message is None:
            return  # the stream is closed for us
        # Whatever a peer sends is only bytes: no decoding error may be a surprise.
        said = message.decode("utf-8", "replace")
        print(f"bob hears: {printable(said)}")
        await messages.send(ANSWERS.get(said, "what?").encode())


async def chat(stream: pyp2p.MuxedStream, lines: list[str]) -> None:
    """Say each line and wait for its answer."""
    messages = MessageStream(stream, MAX_MESSAGE)
    for line in lines:
        with trio.fail_after(PATIENCE):
            await messages.send(line.encode())
            answer = await messages.receive()
        if answer is None:
            raise ConnectionError("bob left")
        print(f"alice hears: {answer.decode()}")


async def main() -> None:
    """Alice talks to bob, then says more than the protocol allows."""
    async with (
        pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as bob,
        pyp2p.open_switch() as alice,
    ):
        bob.mount(CHAT_PROTOCOL, serve_chat)
        async with await alice.open_stream(bob.multiaddrs[0], CHAT_PROTOCOL) as stream:
            await chat(stream, ["hello", "how are you?", "\x1b[31mred"])

        # A length of 300 and then nothing: the receiver's bound holds although the sender does not care.
        async with await alice.open_stream(bob.peer, CHAT_PROTOCOL) as stream:
            await stream.send_all(b"\xac\x02")
            try:
                await stream.receive_some()
            except pyp2p.StreamReset:
                print("bob reset the stream: the message was announced too long")
        print(f"the connection stays: {len(alice.connections(bob.peer))}")


trio.run(main)
