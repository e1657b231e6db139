"""Three nodes in one program: what one publishes reaches one that it is not connected to; a validator has its say."""
# ruff: noqa: T201 - an example prints

import trio

import pyp2p
from pyp2p.pubsub.types import Message

TOPIC = "weather"


def plausible(message: Message) -> pyp2p.Verdict:
    """Ask about each message before it is delivered or forwarded; a rejected one costs its sender score."""
    return pyp2p.Verdict.ACCEPT if message.payload.endswith(b"degrees") else pyp2p.Verdict.REJECT


async def main() -> None:
    """A line of three nodes: left - middle - right."""
    async with (
        pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as middle_switch,
        pyp2p.open_switch() as left_switch,
        pyp2p.open_switch() as right_switch,
        pyp2p.open_pubsub(middle_switch) as middle,
        pyp2p.open_pubsub(left_switch) as left,
        pyp2p.open_pubsub(right_switch) as right,
        middle.subscribe(TOPIC),
    ):
        middle.add_validator(TOPIC, plausible)
        for switch, node in ((left_switch, left), (right_switch, right)):
            await switch.connect(middle_switch.multiaddrs[0])
            await node.wait_for_peers(TOPIC)  # until the middle one has said what it listens to
        async with right.subscribe(TOPIC) as messages:
            await middle.wait_for_peers(TOPIC)

            done = await left.publish(TOPIC, b"21 degrees")
            print(f"taken by {len(done.taken)} peer, expired at {len(done.expired)}")
            message = await anext(messages)
            print(f"right hears: {message.payload.decode()}")
            print(f"from the left one: {message.author == left_switch.peer.raw}, by way of the middle one:", end=" ")
            print(message.source == middle_switch.peer)

            await left.publish(TOPIC, b"nice")
            await left.publish(TOPIC, b"22 degrees")
            print(f"right hears: {(await anext(messages)).payload.decode()}")
            print(f"rejected in the middle: {middle.counters['rejected', TOPIC]}")

            try:
                await left.publish("nobody listens", b"hello?")
            except pyp2p.NobodyListens as error:
                print(error)


if __name__ == "__main__":
    trio.run(main)
