"""A whole network in one process and in virtual time: slow links, a partition, and runs that a seed repeats exactly."""
# ruff: noqa: T201 - an example prints

from dataclasses import dataclass

import trio

import pyp2p
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.testing import LinkQuality, Sim, run_sim


@dataclass
class Outcome:
    """What one run measured, in virtual seconds, and the hash of everything that was sent and when."""

    connected: float
    echoed: float
    partitioned: float
    digest: str


async def echo_seconds(stream: pyp2p.MuxedStream) -> float:
    """How long one byte takes there and back."""
    started = trio.current_time()
    await stream.send_all(b"x")
    await stream.receive_some()
    return trio.current_time() - started


async def scene(sim: Sim) -> Outcome:
    """Two nodes with 50 to 60 ms between them; then a partition of 8 s that loses nothing, as with TCP."""
    sim.net.quality = LinkQuality(latency=0.05, jitter=0.01, loss=0.01)
    near, far = sim.net.host("near"), sim.net.host("far")
    async with (
        # A host's transport instead of TCP and its platform instead of the clock and the randomness of this machine:
        # that is all a node needs to be simulated. Keys and Noise are real, made from the seed.
        pyp2p.open_switch(listen=[far.address()], transports=[far.transport], platform=sim.platform("far")) as server,
        pyp2p.open_switch(transports=[near.transport], platform=sim.platform("near")) as client,
    ):
        server.mount(ECHO_PROTOCOL, serve_echo)
        connection = await client.connect(server.multiaddrs[0])
        connected = trio.current_time()
        async with await connection.open_stream(ECHO_PROTOCOL) as stream:
            echoed = await echo_seconds(stream)
            async with trio.open_nursery() as nursery:
                sim.net.partition(["near"], ["far"])
                nursery.start_soon(heal_later, sim)
                partitioned = await echo_seconds(stream)
        return Outcome(connected, echoed, partitioned, sim.net.trace.digest)


async def heal_later(sim: Sim) -> None:
    """End the partition; 8 virtual seconds pass as soon as everybody waits, in no time of ours."""
    await trio.sleep(8)
    sim.net.heal()


first, again, other = run_sim(scene, 1), run_sim(scene, 1), run_sim(scene, 2)
print(f"connected after {first.connected:.3f} s, echo {first.echoed:.3f} s, in the partition {first.partitioned:.3f} s")
print(f"the same seed, the same run: {first == again}")
print(f"another seed, the same run: {first == other}")
