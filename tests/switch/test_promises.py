"""What a switch promises its user: admission, services, events, gating, address kinds, isolation, pushes, the stop."""

from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing

from pyp2p.errors import (
    AdmissionRefused,
    BackingOff,
    DialFailed,
    DialSelf,
    LimitExceeded,
    RemoteClosed,
    Stopping,
)
from pyp2p.io.handshake import Direction
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import AddressKind
from pyp2p.peer.keys import Identity
from pyp2p.peer.store import Source
from pyp2p.protocols.echo import serve_echo
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.events import Connected, Disconnected, Identified, ListenAddrAdded, ListenAddrRemoved, Refused
from pyp2p.switch.limits import Budget
from pyp2p.switch.service import Service
from pyp2p.switch.switch import open_switch
from pyp2p.testing import Sim, simulated
from pyp2p.trace import Stage
from pyp2p.transports.dns import Question
from tests.switch.support import ECHO, echoes, node, pair, until

# ---- targets ----


@simulated(seeds=(1,))
async def test_hostile_096_a_dial_to_ourselves_is_refused_in_every_form(sim: Sim) -> None:
    async with pair(sim) as (a, _):
        for target in (a.peer, a.multiaddrs[0]):
            with pytest.raises(DialSelf):
                await a.connect(target)
        with pytest.raises(DialFailed) as caught:
            await a.connect(a.addresses[0])
        assert isinstance(caught.value.attempts[0].error, DialSelf)


@simulated(seeds=(1,))
async def test_hostile_096_we_are_recognised_behind_another_address(sim: Sim) -> None:
    async with node(sim, "a") as a:
        near, far = trio.testing.memory_stream_pair()
        met = []

        async def adopt(stream, direction: Direction) -> None:
            with pytest.raises((DialSelf, RemoteClosed, trio.BrokenResourceError)) as caught:
                await a.adopt(stream, kind=AddressKind.OUTBOUND_DIRECT, direction=direction)
            met.append(caught.type)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, near, Direction.OUTBOUND)
            nursery.start_soon(adopt, far, Direction.INBOUND)
        assert DialSelf in met
        assert a.connections() == []


@simulated(seeds=(1,))
async def test_a_failed_address_is_left_alone_unless_asked(sim: Sim) -> None:
    sim.net.host("nobody", "10.1.2.3")
    dead = "/ip4/10.1.2.3/tcp/4001"
    async with pair(sim) as (a, _):
        with pytest.raises(DialFailed) as caught:
            await a.connect(dead)
        assert caught.value.attempts[0].stage is Stage.CONNECT
        with pytest.raises(DialFailed) as caught:
            await a.connect(dead)
        assert isinstance(caught.value.attempts[0].error, BackingOff)
        with pytest.raises(DialFailed) as caught:
            await a.connect(dead, ignore_backoff=True)
        assert not isinstance(caught.value.attempts[0].error, BackingOff)


@simulated(seeds=(1,))
async def test_nothing_to_dial_says_so(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.peer)
        assert caught.value.attempts[0].stage is Stage.RESOLVE
        assert "no address" in str(caught.value)


# ---- admission and services ----


@simulated(seeds=(1,))
async def test_admission_steps_run_in_order_before_anybody_hears(sim: Sim) -> None:
    seen: list[str] = []

    def step(name: str):
        async def admit(connection) -> None:
            assert a.connections() == []
            await trio.sleep(0.1)
            seen.append(name)

        return admit

    async def present(connection) -> None:
        seen.append("connected")
        await trio.sleep_forever()

    async def bye(connection, reason) -> None:
        seen.append(f"last word: {reason.detail}")

    async with pair(sim) as (a, b):
        for name in ("first", "second"):
            a.attach(Service(name, admit=step(name)))
        a.attach(
            Service(
                "watcher",
                peer_connected=present,
                last_word=bye,
                peer_disconnected=lambda connection, reason: seen.append(f"gone: {reason.by}"),
            )
        )
        async with a.watch() as events:
            await a.connect(b.multiaddrs[0])
            await trio.sleep(0.1)
            await a.disconnect(b.peer, "enough")
            await trio.sleep(0.1)
            told = [type(await anext(events)) for _ in range(3)]
        assert seen == ["first", "second", "connected", "last word: enough", "gone: us"]
        assert told == [Connected, Identified, Disconnected]


@simulated(seeds=(1,))
async def test_a_refusal_reaches_the_dialler_and_counts(sim: Sim) -> None:
    async def admit(connection) -> None:
        raise AdmissionRefused("not today")

    async with pair(sim) as (a, b):
        a.attach(Service("doorman", admit=admit))
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        attempt = caught.value.attempts[-1]
        assert attempt.stage is Stage.ADMISSION
        assert isinstance(attempt.error, AdmissionRefused)
        assert a.counters["refused.admission"] == 1
        await until(lambda: b.connections() == [])
        with pytest.raises((DialFailed, trio.BrokenResourceError)):
            await echoes(b, a.peer, a.addresses)  # the same at the accepting end


@simulated(seeds=(1,))
async def test_a_crash_in_admission_reaches_connect_as_it_is(sim: Sim) -> None:
    async def admit(connection) -> None:
        raise KeyError("bug")

    async with pair(sim) as (a, b):
        a.attach(Service("broken", admit=admit))
        with pytest.raises(KeyError):
            await a.connect(b.multiaddrs[0])
        await until(lambda: not a._establisher.running)
        a.detach(a._establisher.services[0])
        await echoes(a, b.multiaddrs[0])


@simulated(seeds=(1,))
async def test_admission_has_one_deadline(sim: Sim) -> None:
    async def admit(connection) -> None:
        await trio.sleep(6)

    async with pair(sim) as (a, b):
        for name in "xy":
            a.attach(Service(name, admit=admit))
        started = trio.current_time()
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        assert caught.value.attempts[-1].stage is Stage.ADMISSION
        assert trio.current_time() - started < 11


@simulated(seeds=(1,))
async def test_early_streams_wait_for_admission_bounded_and_status_does_not(sim: Sim) -> None:
    limits = Limits(parked_streams=3)
    door = trio.Event()

    async def admit(connection) -> None:
        await door.wait()

    async with node(sim, "a", config=SwitchConfig(limits=limits)) as a, node(sim, "b") as b:
        a.attach(Service("slow", admit=admit))
        a.mount("/status", serve_echo, before_admission=True)
        connection = await b.connect(a.multiaddrs[0])
        async with await connection.open_stream("/status") as status:
            await status.send_all(b"?")
            assert await status.receive_some() == b"?"
        early = [await connection.open_stream(ECHO) for _ in range(5)]
        for stream in early:
            await stream.send_all(b"x")
        await trio.sleep(0.5)
        assert a.connections() == []
        assert a.counters["refused.limit.parked_streams"] == 2
        door.set()
        for stream in early[:3]:
            assert await stream.receive_some() == b"x"
        for stream in early[3:]:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


@simulated(seeds=(1,))
async def test_after_identify_means_after_identify(sim: Sim) -> None:
    async def shows_agent(stream) -> None:
        info = stream.connection.info
        await stream.send_all(b"nobody" if info is None else info.agent.encode())

    async with pair(sim) as (a, b):
        a.mount("/who", shows_agent, after_identify=True)
        connection = await b.connect(a.multiaddrs[0])
        async with await connection.open_stream("/who") as stream:
            assert (await stream.receive_some()).startswith(b"pyp2p/")


# ---- protocols ----


@simulated(seeds=(1,))
async def test_mounting_twice_is_refused_and_a_push_follows_every_change(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        with pytest.raises(ValueError, match=ECHO):
            a.mount(["/new", ECHO], serve_echo)
        assert not a._table.mounted("/new")
        connection = await b.connect(a.multiaddrs[0])
        a.mount("/new", serve_echo)
        await until(lambda: "/new" in connection.info.protocols)
        a.unmount("/new")
        await until(lambda: "/new" not in connection.info.protocols)
        with pytest.raises(KeyError):
            a.unmount("/new")


@simulated(seeds=(1,))
async def test_a_matcher_and_a_budget(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        a.mount("/any/1", serve_echo, match=lambda name: name.startswith("/any/"), budget=Budget(per_peer=1))
        connection = await b.connect(a.multiaddrs[0])
        first = await connection.open_stream("/any/7")
        await first.send_all(b"x")
        assert await first.receive_some() == b"x"
        with pytest.raises(trio.BrokenResourceError):
            await (await connection.open_stream("/any/8")).receive_some()
        await first.aclose()


# ---- events ----


@simulated(seeds=(1,))
async def test_a_stuck_subscriber_loses_nothing_and_stops_no_stream(sim: Sim) -> None:
    async with node(sim, "a", config=SwitchConfig(limits=Limits(event_queue=2))) as a, node(sim, "b") as b:
        connection = await a.connect(b.multiaddrs[0])
        async with a.watch() as events:
            async with trio.open_nursery() as nursery:
                for n in range(6):
                    nursery.start_soon(come_and_go, sim, f"guest {n}", a)
                await trio.sleep(5)
                async with await connection.open_stream(ECHO) as stream:  # sockets and handlers go on
                    await stream.send_all(b"hello")
                    assert await stream.receive_some() == b"hello"
                told = []
                with trio.move_on_after(200):
                    while True:
                        told.append(await anext(events))
            order = {}
            for event in told:
                order.setdefault(event.connection.id, []).append(type(event))
            # Who was gone before identify is told as come and gone; nobody is left out or told twice.
            assert len(order) == 6
            for kinds in order.values():
                assert kinds in ([Connected, Identified, Disconnected], [Connected, Disconnected])


@simulated(seeds=(1,))
async def test_a_stop_ends_in_time_with_a_subscriber_that_never_reads(sim: Sim) -> None:
    config = SwitchConfig(limits=Limits(event_queue=1))
    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(node(sim, f"guest {n}")) for n in range(5)]
        async with node(sim, "a", config=config) as a:
            await stack.enter_async_context(a.watch())
            for guest in guests:
                with trio.move_on_after(1):
                    await guest.connect(a.multiaddrs[0])
            await trio.sleep(5)
            started = trio.current_time()
        assert trio.current_time() - started <= a.config.timeouts.close + 0.2


async def come_and_go(sim: Sim, name: str, host) -> None:
    async with node(sim, name) as guest:
        with trio.move_on_after(100):
            await guest.connect(host.multiaddrs[0])
            await until(lambda: host.connections(guest.peer))
            await trio.sleep(1)


@simulated(seeds=(1,))
async def test_refusals_are_told_and_summed_up_while_nobody_reads(sim: Sim) -> None:
    config = SwitchConfig(limits=Limits(event_queue=1, pending_inbound=1))
    async with node(sim, "a", config=config) as a:
        async with a.watch() as events:
            raws = [await sim.net.host(f"x{n}").transport.dial(a.addresses[0]) for n in range(20)]
            await trio.sleep(1)
            count = 0
            with trio.move_on_after(1):
                async for event in events:
                    assert isinstance(event, Refused)
                    assert event.code == "limit.pending_inbound"
                    count += event.count
            assert count == a.counters["refused.limit.pending_inbound"] == 19
        for raw in raws:
            await raw.stream.aclose()


@simulated(seeds=(1,))
async def test_listen_addresses_come_and_go(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await b.connect(a.multiaddrs[0])
        await trio.sleep(1)
        async with a.watch() as events:
            second = await a.listen(str(a.addresses[0]).replace("4001", "4007"))
            assert (await anext(events)) == ListenAddrAdded(second)
            await until(lambda: second in connection.info.addresses)
            before = a.addresses
            await a.stop_listening()
            assert [await anext(events) for _ in before] == [ListenAddrRemoved(address) for address in before]
        assert a.addresses == []
        await echoes(b, a.peer)  # connections stay
        with pytest.raises(ValueError, match="no transport handles /ip4/10"):
            await a.listen("/ip4/10.0.0.1/udp/1/quic-v1")


# ---- gating and kinds ----


@pytest.mark.parametrize("kind", list(AddressKind), ids=lambda kind: kind.value)
@simulated(seeds=(1,))
async def test_an_adopted_stream_is_a_connection_of_its_kind(sim: Sim, kind: AddressKind) -> None:
    async with pair(sim) as (a, b):
        near, far = trio.testing.memory_stream_pair()
        adopted = []

        async def adopt(switch, stream, direction: Direction) -> None:
            adopted.append(await switch.adopt(stream, kind=kind, direction=direction, address="/ip4/7.7.7.7/tcp/7"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, a, near, Direction.OUTBOUND)
            nursery.start_soon(adopt, b, far, Direction.INBOUND)
        ours = next(c for c in adopted if c.direction.outbound)
        assert ours.kind is kind
        async with await ours.open_stream(ECHO) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        stored = [str(address) for address in a.peers.addresses(b.peer, trio.current_time())]
        if kind is AddressKind.ISOLATED:
            assert stored == []
            assert a.connections() == []
            assert ours.info is None
        else:
            assert a.connections() == [ours]
            assert ("/ip4/7.7.7.7/tcp/7" in stored) is (kind is AddressKind.OUTBOUND_DIRECT)
            assert any("4001" in address for address in stored)
        await ours.aclose()


@simulated(seeds=(1,))
async def test_an_isolated_connection_leaves_no_trace(sim: Sim) -> None:
    async with pair(sim) as (a, b), a.watch() as events:
        connection = await a.connect(b.multiaddrs[0], isolated=True)
        again = await a.connect(b.multiaddrs[0], isolated=True)
        assert again is not connection
        await trio.sleep(10)
        assert a.connections() == []
        assert a.peers.addresses(b.peer, trio.current_time()) == []
        assert a.peers.protocols(b.peer) == ()
        assert connection.info is None
        assert all(c.info is None for c in b.connections())  # we did not say who we are
        with trio.move_on_after(1):
            raise AssertionError(await anext(events))
        await connection.aclose()
        await again.aclose()


# ---- the end ----


@simulated(seeds=(1,))
async def test_who_ended_it_is_known_on_both_sides(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        ours = await a.connect(b.multiaddrs[0])
        await until(b.connections)
        theirs = b.connections()[0]
        await a.disconnect(b.peer, "goodbye")
        await theirs.closed.wait()
        assert (ours.reason.by, ours.reason.detail) == ("us", "goodbye")
        assert theirs.reason.by == "peer"
        stats = ours.stats
        assert stats.bytes_in
        assert stats.bytes_out
        assert stats.streams_out >= 1


@simulated(seeds=(1,))
async def test_a_stopping_switch_refuses_dials_and_an_exception_comes_out_as_it_is(sim: Sim) -> None:
    refused = []

    async def late(switch, target) -> None:
        try:
            await switch.connect(target)
        except Stopping as error:
            refused.append(error)

    async def word(connection, reason) -> None:
        await late(a, b.multiaddrs[0])

    async with node(sim, "b") as b:

        async def fail(a) -> None:
            a.attach(Service("late", last_word=word))
            await a.connect(b.multiaddrs[0])
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            async with node(sim, "a", muxers=[Yamux()]) as a:
                await fail(a)
        assert len(refused) == 1
        with pytest.raises(Stopping):
            await a.connect(b.multiaddrs[0])


@simulated(seeds=(1,))
async def test_too_many_dials_at_once_are_refused_by_name(sim: Sim) -> None:
    async with node(sim, "a", config=SwitchConfig(limits=Limits(dial_peers=2))) as a:
        async with trio.open_nursery() as nursery:
            for n in range(2):
                sim.net.host(f"h{n}", f"10.7.0.{n + 1}")
                sim.net.cut("a", f"h{n}")
                nursery.start_soon(a.connect, f"/ip4/10.7.0.{n + 1}/tcp/1")
            await trio.sleep(0.1)
            with pytest.raises(LimitExceeded) as caught:
                await a.connect("/ip4/10.7.0.9/tcp/1")
            assert caught.value.limit == "dial_peers"
            nursery.cancel_scope.cancel()
        await until(lambda: not a._connector._dials)


class Rebinding:
    """Says that every name is where the attacker wants us to knock."""

    async def resolve(self, name: str, question: Question) -> list[str]:
        return ["127.0.0.1"]


@simulated(seeds=(1,))
async def test_hostile_060_a_name_that_a_stranger_told_does_not_lead_home(sim: Sim) -> None:
    async with node(sim, "a", resolver=Rebinding()) as a:
        target = Identity.generate(entropy=sim.platform("nobody").entropy).peer
        a.peers.add_addresses(target, ["/dns4/evil.example/tcp/6379"], 100, Source.DISCOVERY, trio.current_time())
        with pytest.raises(DialFailed) as caught:
            await a.connect(target)
        assert [attempt.stage for attempt in caught.value.attempts] == [Stage.RESOLVE]
        with pytest.raises(DialFailed) as caught:  # the user may
            await a.connect(target, ["/dns4/evil.example/tcp/6379"])
        assert [attempt.address for attempt in caught.value.attempts] == ["/ip4/127.0.0.1/tcp/6379"]


async def test_an_interrupt_in_a_handler_comes_out_as_it_is() -> None:
    class Interrupt(BaseException):
        pass

    async def interrupted(stream) -> None:
        await trio.lowlevel.checkpoint()
        raise Interrupt

    async def provoke() -> None:
        async with open_switch(listen="/ip4/127.0.0.1/tcp/0") as a, open_switch() as b:
            a.mount("/interrupt", interrupted)
            async with await b.open_stream(a.multiaddrs[0], "/interrupt") as stream:
                await stream.send_all(b"x")
                await trio.sleep_forever()

    with pytest.raises(Interrupt):
        await provoke()


@simulated(seeds=(1,))
async def test_streams_that_are_opened_and_not_yet_used_do_not_wait_for_each_other(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        streams = [await connection.open_stream(ECHO) for _ in range(400)]
        assert trio.current_time() < 1
        for stream in streams:
            stream.reset()


@simulated(seeds=(1,))
async def test_who_watches_after_the_stop_hears_the_end_at_once(sim: Sim) -> None:
    async with node(sim, "a") as a:
        pass
    async with a.watch() as events:
        assert [event async for event in events] == []


async def test_what_a_switch_cannot_be() -> None:
    with pytest.raises(ValueError, match="agent"):
        SwitchConfig(agent="\udce9")
    async with open_switch() as a:
        stranger = Identity.generate(entropy=a.platform.entropy).peer
        with pytest.raises(ValueError, match=str(stranger)):
            await a.listen(f"/ip4/127.0.0.1/tcp/0/p2p/{stranger}")
        with pytest.raises(ValueError, match="not a protocol id"):
            a.mount("/\udce9", serve_echo)
        for word in ("na", "ls"):
            with pytest.raises(ValueError, match=word):
                a.mount(word, serve_echo)


@simulated(seeds=(1,))
async def test_a_stream_from_nowhere_teaches_no_address(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(b.adopt, far, kind=AddressKind.INBOUND_DIRECT, direction=Direction.INBOUND))
            connection = await a.adopt(near, kind=AddressKind.OUTBOUND_DIRECT, direction=Direction.OUTBOUND)
        assert connection.info is not None
        assert a.peers.addresses(b.peer, trio.current_time()) == b.addresses


async def test_a_name_that_stands_twice_is_not_half_mounted() -> None:
    async with open_switch() as a:
        with pytest.raises(ValueError, match="/y"):
            a.mount(["/y", "/y"], serve_echo)
        a.mount("/y", serve_echo)


async def test_more_protocols_than_peers_can_be_told_of_are_refused_whole() -> None:
    async with open_switch() as a:
        with pytest.raises(ValueError, match="1000"):
            a.mount([f"/many/{n}" for n in range(1001)], serve_echo)
        a.mount("/many/0", serve_echo)
