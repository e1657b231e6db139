"""The way into a network: who counts as reached, how soon, and what is told of those who were not."""

import pytest
import trio

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.beacon.handshakes import Handshake, NotWelcome
from pyp2p.beacon.joining import Joining, parse_bootstraps
from pyp2p.beacon.network import JOIN_SECONDS
from pyp2p.beacon.scores import Tolerance
from pyp2p.errors import InvalidEnr, InvalidMultiaddr, JoinFailed
from pyp2p.peer.address import text
from pyp2p.testing import Sim, simulated
from tests.beacon.support import SEEDS, beacon, chain, identity, knows, record
from tests.switch.support import until

LOST = "198.51.100.77"


def address(net) -> str:
    return f"{text(net.switch.addresses[0])}/p2p/{net.peer}"


def tasks_of(kind: type) -> list[str]:
    """The names of the running tasks that are methods of `kind`."""
    found, nurseries = [], [*trio.lowlevel.current_root_task().child_nurseries]
    while nurseries:
        for task in nurseries.pop().child_tasks:
            nurseries += task.child_nurseries
            if f".{kind.__name__}." in task.name:
                found.append(task.name)
    return found


async def joins(net, bootstrap, **options):
    """Who was reached, and after how many seconds."""
    begun = trio.current_time()
    reached = await net.connect_to_network(bootstrap, **options)
    return reached, trio.current_time() - begun


@simulated(SEEDS)
async def test_the_first_success_is_enough(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:
        dead = f"/ip4/{LOST}/tcp/9000/p2p/{identity('dead').peer}"
        reached, seconds = await joins(a, [dead, address(b)])
        assert reached == b.peer
        assert seconds < 2
        await trio.sleep(30)
        assert [connection.id for connection in a.switch.connections()] == [1], "the one that it was reached by stays"
        assert knows(a, b)
        assert knows(b, a)


@simulated(SEEDS)
async def test_whoever_is_connected_already_counts_at_once(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:
        await a.switch.connect(b.peer, b.switch.addresses)
        assert await joins(a, [address(b)]) == (b.peer, 0)


@simulated(SEEDS)
async def test_records_do_as_well_and_those_of_the_configuration_are_the_default(sim: Sim) -> None:
    async with beacon(sim, "b", discovery=True) as b, beacon(sim, "a", discovery=True, bootnodes=(b.enr,)) as a:
        reached, seconds = await joins(a, None)
        assert reached == b.peer
        assert seconds < 2


@simulated(SEEDS)
async def test_a_node_that_comes_up_late_is_reached_all_the_same(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        host = sim.net.host("b")
        late = identity("late")
        where = f"/ip4/{host.ips[0]}/tcp/9000/p2p/{late.peer}"
        async with trio.open_nursery() as nursery:

            async def come_up() -> None:
                await trio.sleep(12)
                async with beacon(sim, "b", identity=late):
                    await trio.sleep(30)

            nursery.start_soon(come_up)
            reached, seconds = await joins(a, [where])
            nursery.cancel_scope.cancel()
        assert reached == late.peer
        assert 12 < seconds < 30


@simulated(SEEDS)
async def test_the_other_dials_go_on_when_one_has_succeeded(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "slow") as slow, beacon(sim, "a") as a:

        async def takes_its_time(connection) -> None:
            await trio.sleep(5 if connection.peer == slow.peer else 0)

        a.add_handshake(Handshake("slow", takes_its_time))
        reached, seconds = await joins(a, [address(slow), address(b)])
        assert reached == b.peer
        assert seconds < 2
        assert not knows(a, slow)
        await trio.sleep(8)
        assert knows(a, slow)
        assert knows(slow, a)


@simulated(SEEDS)
async def test_a_node_without_a_tcp_port_that_comes_up_late_is_asked_again(sim: Sim) -> None:
    async with beacon(sim, "a", discovery=True) as a, trio.open_nursery() as nursery:
        late, host = identity("late"), sim.net.host("b")
        udp_only = record("late", ip=host.ips[0])

        async def come_up() -> None:
            await trio.sleep(12)
            async with beacon(sim, "b", identity=late, discovery=True):
                await trio.sleep(30)

        nursery.start_soon(come_up)
        reached, seconds = await joins(a, [record("dead", tcp=9000), udp_only])
        assert reached == late.peer
        assert 12 < seconds < 25
        nursery.cancel_scope.cancel()


@simulated(SEEDS)
async def test_a_node_without_a_tcp_port_counts_when_it_answers_in_discovery(sim: Sim) -> None:
    async with beacon(sim, "b", discovery=True) as b, beacon(sim, "a", discovery=True) as a:
        udp_only = b.enr.update(b.switch.identity, tcp=None)
        dead = record("dead", tcp=9000)
        reached, seconds = await joins(a, [dead, udp_only])
        assert reached == b.peer
        assert seconds < 3
        assert not a.peers()


@simulated(SEEDS)
async def test_where_all_are_such_the_first_peer_that_was_found_counts(sim: Sim) -> None:
    async with (
        beacon(sim, "boot", discovery=True) as boot,
        beacon(sim, "c", discovery=True, bootnodes=(boot.enr,)) as c,
    ):
        await until(lambda: knows(boot, c))
        async with beacon(sim, "a", discovery=True) as a:
            boot_udp = boot.enr.update(boot.switch.identity, tcp=None)
            reached, seconds = await joins(a, [boot_udp])
            assert reached in (c.peer, boot.peer)
            await until(a.peers)
            assert seconds < JOIN_SECONDS


@simulated(SEEDS)
async def test_udp_only_nodes_that_answer_without_knowing_anybody_are_not_enough(sim: Sim) -> None:
    boot_chain, other = chain(), chain(started=50)
    async with beacon(sim, "boot", boot_chain, discovery=True) as boot, beacon(sim, "a", other, discovery=True) as a:
        with pytest.raises(JoinFailed) as failed:
            await a.connect_to_network([boot.enr.update(boot.switch.identity, tcp=None)])
        (only,) = failed.value.bootstraps
        assert str(only) == f"{boot.peer}: answered in discovery; no address to dial"


@simulated(SEEDS)
async def test_all_dead_after_thirty_seconds_with_the_last_word_on_each(sim: Sim) -> None:
    async with beacon(sim, "other", chain(started=500)) as other, beacon(sim, "a", discovery=True) as a:
        closed = f"/ip4/{sim.net.hosts['other'].ips[0]}/tcp/9999/p2p/{identity('closed').peer}"
        wrong_id = f"{text(other.switch.addresses[0])}/p2p/{identity('elsewhere').peer}"
        both, udp = record("both", tcp=9000), record("udp")
        given = [both, udp, closed, wrong_id, address(other)]
        begun = trio.current_time()
        with pytest.raises(JoinFailed) as failed:
            await a.connect_to_network(given)
        assert trio.current_time() - begun == JOIN_SECONDS
        told = {each.peer: each for each in failed.value.bootstraps}
        assert [told[peer].answered for peer in (both.peer_id, udp.peer_id)] == [False, False]
        assert [told[peer].dialable for peer in (both.peer_id, udp.peer_id)] == [True, False]
        assert told[both.peer_id].stage == "connect"
        assert told[identity("closed").peer].stage == "connect"
        assert "refused" in told[identity("closed").peer].reason
        assert told[identity("elsewhere").peer].stage == "handshake"
        assert told[other.peer].stage == "admission"
        assert "status: fork digest" in told[other.peer].reason
        assert told[other.peer].answered is None
        lines = str(failed.value).splitlines()
        assert lines[0] == "none of 5 bootstrap nodes was reached within 30 s"
        assert f"  {udp.peer_id}: no answer in discovery; no address to dial" in lines
        assert any(line.startswith(f"  {other.peer}: not asked in discovery; admission: ") for line in lines)


@simulated(SEEDS)
async def test_the_deadline_may_be_another(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        with trio.move_on_after(100), pytest.raises(JoinFailed, match=r"within 2\.5 s"):
            await a.connect_to_network([f"/ip4/{LOST}/tcp/1/p2p/{identity('dead').peer}"], seconds=2.5)
        assert trio.current_time() < 5


@simulated(SEEDS)
async def test_one_that_connects_and_says_goodbye_at_once_counts(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a, trio.open_nursery() as nursery:

        async def see_off() -> None:
            async with b.watch() as events:
                async for event in events:
                    await b.disconnect(event.peer, GoodbyeReason.TOO_MANY_PEERS)
                    return

        nursery.start_soon(see_off)
        reached, seconds = await joins(a, [address(b)])
        assert reached == b.peer
        assert seconds < 2
        await until(lambda: not a.peers())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answers", [False, True], ids=["before the status", "after it"])
@simulated(SEEDS)
async def test_one_that_has_no_place_for_us_and_says_so_counts(sim: Sim, answers: bool) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:

        async def full(connection) -> None:
            await trio.lowlevel.checkpoint()
            raise NotWelcome("it is full", GoodbyeReason.TOO_MANY_PEERS)

        b.add_handshake(Handshake("full", full, -5))
        if not answers:
            for method in (b.methods.status_v1, b.methods.status_v2):
                b.reqresp.withdraw(method)
        reached, seconds = await joins(a, [address(b)])
        assert reached == b.peer
        assert seconds < 2


@simulated(SEEDS)
async def test_one_that_says_we_are_of_another_network_does_not_count(sim: Sim) -> None:
    async with beacon(sim, "b") as b, beacon(sim, "a") as a:

        async def irrelevant(connection) -> None:
            await trio.lowlevel.checkpoint()
            raise NotWelcome("another network", GoodbyeReason.IRRELEVANT_NETWORK)

        for method in (b.methods.status_v1, b.methods.status_v2):
            b.reqresp.withdraw(method)
        b.add_handshake(Handshake("network", irrelevant, -5))
        with pytest.raises(JoinFailed):
            await a.connect_to_network([address(b)])


@simulated(SEEDS)
async def test_what_is_no_bootstrap_node_is_refused_at_once(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        for given, error, words in (
            ([], ValueError, "no bootstrap node is named, and the chain has none"),
            (None, ValueError, "no bootstrap node is named"),
            (["enr:-rubbish"], InvalidEnr, "'enr:-rubbish'"),
            (["/ip4/1.2.3.4/tcp/9000"], InvalidMultiaddr, "does not say which peer is there"),
            (["nonsense\x1b[31m"], InvalidMultiaddr, r"'nonsense\\x1b\[31m'"),
        ):
            with pytest.raises(error, match=words):
                await a.connect_to_network(given)
        assert not a._joining


@simulated(SEEDS)
async def test_cancelling_stops_trying(sim: Sim) -> None:
    async with beacon(sim, "a", discovery=True) as a:
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(7):
            await a.connect_to_network([record("both", tcp=9000)])
        assert not a._joining
        await trio.sleep(1)  # far from the time when it would end by itself
        assert not tasks_of(Joining)
        await trio.sleep(60)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks


@pytest.mark.parametrize("record_last", [False, True])
def test_a_node_that_is_named_twice_is_one(record_last: bool) -> None:
    both = record("both", tcp=9000)
    named = [both, both.text, f"/ip4/{LOST}/tcp/9001/p2p/{both.peer_id}"]
    (one,) = parse_bootstraps(named[::-1] if record_last else named, identity("us").peer)
    assert one.record == both
    assert sorted(map(text, one.addrs)) == [f"/ip4/{LOST}/tcp/9000", f"/ip4/{LOST}/tcp/9001"]
    assert str(one) == f"{both.peer_id}: not asked in discovery; dial: not over in time"


@simulated(SEEDS[:1])
async def test_a_bootstrap_node_that_we_threw_out_is_not_reached(sim: Sim) -> None:
    async with beacon(sim, "a") as a, beacon(sim, "b") as b:
        for _ in range(12):
            b.report(a.peer, Tolerance.LOW, "bad")
        with pytest.raises(JoinFailed, match="place: the peer is banned"):
            await b.connect_to_network([text(a.switch.multiaddrs[0])])
        assert not b.peers()


@simulated(SEEDS[:1])
async def test_what_is_no_list_of_bootstrap_nodes_is_refused_in_words(sim: Sim) -> None:
    async with beacon(sim, "a") as a:
        own = text(a.switch.multiaddrs[0])
        for given, error, words in (
            (own, TypeError, "a list of records and addresses"),
            ([5], TypeError, "a record or an address, not 5"),
            ([own], ValueError, "this node itself"),
            ([], ValueError, "no bootstrap node"),
        ):
            with pytest.raises(error, match=words):
                await a.connect_to_network(given)
