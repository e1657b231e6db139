"""Dialling many addresses: names beside numbers, lists without end, addresses that are somebody else's."""

import pytest
import trio

from pyp2p.errors import BackingOff, DialFailed, PeerIdMismatch
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.keys import Identity
from pyp2p.switch.gater import AllowAll
from pyp2p.testing import Sim, simulated
from pyp2p.transports.dns import Question
from tests.switch.support import node, pair, until


class Mute:
    """A resolver that never answers."""

    async def resolve(self, name: str, question: Question) -> list[str]:
        await trio.sleep_forever()


class Phonebook:
    """A resolver that answers each name after a second with the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.asked = 0

    async def resolve(self, name: str, question: Question) -> list[str]:
        self.asked += 1
        await trio.sleep(1)
        return list(self._addresses)


@pytest.mark.parametrize("names", [1, 20])
@simulated(seeds=(1,))
async def test_hostile_060_names_that_nobody_resolves_hold_up_no_address(sim: Sim, names: int) -> None:
    dead = [f"/dns4/n{number}.example.com/tcp/1" for number in range(names)]
    async with node(sim, "b") as b, node(sim, "a", resolver=Mute()) as a:
        await a.connect(b.peer, [*dead, *b.addresses])
        assert trio.current_time() < 1


@simulated(seeds=(1,))
async def test_names_are_asked_side_by_side(sim: Sim) -> None:
    host = sim.net.host("b")
    names = [f"/dns4/n{number}.example.com/tcp/{4001 + number}" for number in range(20)]
    async with node(sim, "b", listen=[host.address(4020)]) as b, node(sim, "a", resolver=Phonebook("10.0.0.1")) as a:
        connection = await a.connect(b.peer, names)
        assert str(connection.remote) == "/ip4/10.0.0.1/tcp/4020"
        assert trio.current_time() < 10


@pytest.mark.parametrize("answers", [1, 10])
@simulated(seeds=(1,))
async def test_hostile_060_all_names_together_lead_to_no_more_than_the_limit(sim: Sim, answers: int) -> None:
    names = [f"/dns4/n{number}.example.com/tcp/{4001 + number}" for number in range(60)]
    resolver = Phonebook(*(f"10.99.0.{number + 1}" for number in range(answers)))
    async with node(sim, "a", resolver=resolver) as a:
        target = Identity.generate(entropy=sim.platform("x").entropy).peer
        with pytest.raises(DialFailed) as caught:
            await a.connect(target, ["/ip4/10.98.0.1/tcp/4001", *names])
        assert len(caught.value.attempts) == resolver.asked == a.config.limits.dial_addresses


@simulated(seeds=(1,))
async def test_hostile_060_a_wrong_peer_bars_only_itself(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        liar = Identity.generate(entropy=sim.platform("liar").entropy).peer
        for error in (PeerIdMismatch, BackingOff):
            with pytest.raises(DialFailed) as caught:
                await a.connect(liar, b.addresses)  # it says that b's address is its own
            assert isinstance(caught.value.attempts[0].error, error)
        assert (await a.connect(b.peer, b.addresses)).peer == b.peer


class Counting(AllowAll):
    asked = 0

    def allow_dial(self, peer, address) -> None:
        self.asked += 1


@simulated(seeds=(1,))
async def test_hostile_060_a_list_of_ten_thousand_addresses_costs_a_hundred_looks(sim: Sim) -> None:
    gater = Counting()
    dead = [f"/ip4/10.9.{number >> 8}.{number & 255}/tcp/4001" for number in range(10_000)]
    async with node(sim, "a", gater=gater) as a:
        target = Identity.generate(entropy=sim.platform("x").entropy).peer
        with pytest.raises(DialFailed):
            await a.connect(target, dead)
        assert gater.asked <= 100


@simulated(seeds=(1,))
async def test_where_peers_agree_that_we_are_is_pushed(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        seen = parse_multiaddr("/ip4/8.8.8.8/tcp/4001")
        for number in range(4):
            voter = Identity.generate(entropy=sim.platform(f"voter {number}").entropy).peer
            remote = parse_multiaddr(f"/ip4/{9 + number}.1.1.1/tcp/1")
            b._identify.observed.observe(seen, voter, remote, trio.current_time())
        await until(lambda: seen in connection.info.addresses)
