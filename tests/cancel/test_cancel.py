"""Hostile case 93: an operation that is cancelled at any moment leaves nothing behind.

Each operation is run again and again on a fresh pair of switches in the simulated network, cancelled at the first
scheduler step, at the second, and so on until it completes untouched. Afterwards connections, streams, tickets,
budgets and tasks are what they were, and the pair still works. All of it in virtual time, where a sleep takes none.
"""

import pytest
import trio
import trio.testing

from pyp2p.errors import DialFailed
from pyp2p.io.handshake import Direction
from pyp2p.peer.address import AddressKind, with_peer
from pyp2p.peer.keys import Identity
from pyp2p.security.noise import Noise
from pyp2p.security.tls import Tls
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.testing import LinkQuality, Sim, run_sim
from tests.cancel.steps import CancelAt
from tests.hostile.arena import Way, over_quic, over_tcp, over_ws

pytestmark = pytest.mark.hostile

ECHO = "/echo/1.0.0"
STEPS = 400  # more than any of the operations takes


async def echo(stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def dial(a: Switch, b: Switch, address) -> None:
    await a.connect(address)


async def dial_isolated(a: Switch, b: Switch, address) -> None:
    await a.connect(address, isolated=True)


async def dial_and_talk(a: Switch, b: Switch, address) -> None:
    async with await a.open_stream(address, ECHO) as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        while await stream.receive_some():
            pass


async def dial_and_open_waiting_for_the_answer(a: Switch, b: Switch, address) -> None:
    connection = await a.connect(address)
    stream = await connection.open_stream(["/nobody/1.0.0", ECHO], lazy=False)
    await stream.aclose()


async def dial_and_send_in_bulk(a: Switch, b: Switch, address) -> None:
    async with await a.open_stream(address, "/sink/1.0.0") as stream:
        await stream.send_all(bytes(700_000))


async def dial_and_close(a: Switch, b: Switch, address) -> None:
    connection = await a.connect(address)
    await connection.aclose()


async def dial_and_disconnect(a: Switch, b: Switch, address) -> None:
    await a.connect(address)
    await a.disconnect(b.peer, "enough")


async def two_dials_at_once(a: Switch, b: Switch, address) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.connect, address)
        nursery.start_soon(a.connect, b.peer, [address])


async def adopt(a: Switch, b: Switch, address) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        for switch, stream, direction in ((a, near, Direction.OUTBOUND), (b, far, Direction.INBOUND)):
            kind = AddressKind.OUTBOUND_PROXY if direction.outbound else AddressKind.INBOUND_PROXY

            async def run(switch: Switch = switch, stream=stream, direction=direction, kind=kind) -> None:
                await switch.adopt(stream, kind=kind, direction=direction)

            nursery.start_soon(run)


async def change_protocols(a: Switch, b: Switch, address) -> None:
    await a.connect(address)
    b.mount("/new/1.0.0", echo)
    await trio.sleep(0.1)  # virtual, as all here: the push goes its way and may be cancelled at each step


async def listen_elsewhere(a: Switch, b: Switch, address) -> None:
    await b.listen(str(b.addresses[0]).replace("4001", "4002"))
    await b.stop_listening()


OPERATIONS = [
    dial,
    dial_isolated,
    dial_and_talk,
    dial_and_open_waiting_for_the_answer,
    dial_and_send_in_bulk,
    dial_and_close,
    dial_and_disconnect,
    two_dials_at_once,
    adopt,
    change_protocols,
    listen_elsewhere,
]


def state(switch: Switch) -> dict[str, int]:
    counters = {name: value for name, value in switch.counters.items() if not name.startswith("refused.")}
    running = switch._establisher.running.values()
    counters["streams"] = sum(len(peering.connection.streams) for peering in running)
    counters["served"] = switch._establisher._budgets.in_use
    counters["memory"] = switch._establisher._memory.used
    counters["dials"] = len(switch._connector._dials)
    return counters


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def sink(stream) -> None:
    async for _ in stream:
        pass


async def scene(sim: Sim, operation, step: int, way: Way = over_tcp, security=Noise) -> bool:
    """Cancel `operation` after `step` task steps; True when it completed before that."""
    sim.net.quality = LinkQuality(latency=0.01)
    near = sim.net.host("a")
    (ours, _), (theirs, where) = way(near), way(sim.net.host("b"))
    secured = {"securities": [security()]}
    async with (
        open_switch(transports=[ours], platform=sim.platform("a"), **secured) as a,
        open_switch(listen=[where], transports=[theirs], platform=sim.platform("b"), **secured) as b,
    ):
        b.mount(ECHO, echo)
        b.mount("/sink/1.0.0", sink)
        address = with_peer(where, b.peer)
        before = [state(switch) for switch in (a, b)]
        tasks = living()
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await operation(a, b, address)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        completed = not scope.cancelled_caught
        for switch in (a, b):
            for connection in [peering.connection for peering in switch._establisher.running.values()]:
                await connection.aclose()
        with trio.move_on_after(70):  # what a stage's deadline has to clear up
            while [state(switch) for switch in (a, b)] != before or living() > tasks:
                await trio.sleep(0.1)
        assert [state(switch) for switch in (a, b)] == before
        assert living() <= tasks
        assert not near.udp
        if operation is not listen_elsewhere:
            async with await a.open_stream(address, ECHO) as stream:
                await stream.send_all(b"still works")
                assert await stream.receive_some() == b"still works"
    assert not sim.net.connections()
    return completed


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_hostile_093_cancelled_at_every_step(operation) -> None:
    for step in range(1, STEPS):
        if run_sim(scene, 1, operation, step):
            assert step > 3
            return
    pytest.fail(f"{operation.__name__} takes more than {STEPS} steps")


@pytest.mark.parametrize(
    "operation", [dial, dial_and_talk, dial_and_close, two_dials_at_once], ids=lambda o: o.__name__
)
def test_hostile_093_cancelled_at_every_step_over_quic(operation) -> None:
    for step in range(1, STEPS):
        if run_sim(scene, 1, operation, step, over_quic):
            assert step > 3
            return
    pytest.fail(f"{operation.__name__} takes more than {STEPS} steps")


@pytest.mark.parametrize("operation", [dial_and_talk, dial_and_send_in_bulk], ids=lambda o: o.__name__)
def test_hostile_093_cancelled_at_every_step_over_websocket_and_tls(operation) -> None:
    for step in range(1, STEPS):
        if run_sim(scene, 1, operation, step, over_ws, Tls):
            assert step > 3
            return
    pytest.fail(f"{operation.__name__} takes more than {STEPS} steps")


async def stop_while_it_is_dialled(sim: Sim, step: int, way: Way) -> bool:
    """The listening switch is cancelled as a whole while somebody dials it."""
    (ours, _), (theirs, where) = way(sim.net.host("a")), way(sim.net.host("b"))
    identity = Identity.generate(entropy=sim.platform("b").entropy)
    address = with_peer(where, identity.peer)
    completed = False
    async with open_switch(transports=[ours], platform=sim.platform("a")) as a:
        before = state(a)

        async def listening(task_status=trio.TASK_STATUS_IGNORED) -> None:
            with trio.CancelScope() as scope:
                async with open_switch(identity, listen=[where], transports=[theirs], platform=sim.platform("b")) as b:
                    b.mount(ECHO, echo)
                    task_status.started(scope)
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            scope = await nursery.start(listening)
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await dial_and_talk(a, a, address)
                completed = True
            except (DialFailed, trio.BrokenResourceError):
                completed = False
            finally:
                trio.lowlevel.remove_instrument(instrument)
            scope.cancel()
        with trio.move_on_after(70):
            while state(a) != before:
                await trio.sleep(0.1)
        assert state(a) == before
    assert not sim.net.connections()
    return completed


@pytest.mark.parametrize("way", [over_tcp, over_ws, over_quic], ids=["tcp", "ws", "quic"])
def test_hostile_093_a_switch_cancelled_at_every_step_of_an_inbound_connection(way: Way) -> None:
    for step in range(1, STEPS):
        if run_sim(stop_while_it_is_dialled, 1, step, way):
            assert step > 20
            return
    pytest.fail("too many steps")
