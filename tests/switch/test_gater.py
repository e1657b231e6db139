"""The gater's four questions over every stack: who is asked what, and what a no or a crash costs."""

import pytest

from pyp2p.errors import DialFailed, NotAllowed, RemoteError
from pyp2p.switch.gater import AllowAll, BlockList
from pyp2p.testing import Sim, simulated
from tests.contract.stacks import STACKS
from tests.switch.support import duo, echoes, in_use, node, pair, until

STAGES = ["dial", "accept", "secured", "upgraded"]


class Gater(AllowAll):
    """Says no, or crashes, at one stage; notes what it was asked."""

    def __init__(self, stage: str = "", crash: bool = False) -> None:
        self.asked: list[str] = []
        for name in STAGES:
            setattr(self, f"allow_{name}", lambda *_, name=name: self._ask(name, stage, crash))

    def _ask(self, name: str, stage: str, crash: bool) -> str | None:
        self.asked.append(name)
        if name != stage:
            return None
        if crash:
            raise KeyError("bug")
        return "no guests"


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)
async def test_the_questions_come_in_order_at_both_ends(stack) -> None:
    ours, theirs = Gater(), Gater()
    async with duo(stack, {"gater": ours}, {"gater": theirs}) as (a, b):
        await echoes(a, b.multiaddrs[0])
        assert ours.asked == ["dial", "secured", "upgraded"]
        assert theirs.asked == ["accept", "secured", "upgraded"]


@pytest.mark.parametrize("stage", ["dial", "secured", "upgraded"])
@simulated(seeds=(1,))
async def test_a_no_to_a_dial_is_told_and_counted(sim: Sim, stage: str) -> None:
    async with pair(sim, {"gater": Gater(stage)}) as (a, b):
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        error = caught.value.attempts[0].error
        assert isinstance(error, NotAllowed)
        assert (error.stage, error.reason, error.code) == (stage, "no guests", f"gater.{stage}")
        assert a.counters[f"refused.gater.{stage}"] == 1
        await until(lambda: not any(in_use(a).values()) and not any(in_use(b).values()))


@pytest.mark.parametrize("stage", ["accept", "secured", "upgraded"])
@simulated(seeds=(1,))
async def test_a_no_to_a_guest_ends_its_connection_and_is_counted(sim: Sim, stage: str) -> None:
    async with pair(sim, {"gater": Gater(stage)}) as (a, b):
        with pytest.raises(DialFailed):
            await b.connect(a.multiaddrs[0])
        assert a.counters[f"refused.gater.{stage}"] == 1
        await until(lambda: not any(in_use(a).values()) and not any(in_use(b).values()))
        assert not a.connections()


@pytest.mark.parametrize("stage", STAGES)
@simulated(seeds=(1,))
async def test_hostile_091_a_gater_that_crashes_costs_the_connection_only(sim: Sim, stage: str) -> None:
    async with pair(sim, {"gater": Gater(stage, crash=True)}) as (a, b):
        if stage != "accept":
            with pytest.raises(KeyError, match="bug"):
                await a.connect(b.multiaddrs[0])
        if stage != "dial":
            with pytest.raises((DialFailed, RemoteError)):
                await b.connect(a.multiaddrs[0])
        await until(lambda: not any(in_use(a).values()) and not any(in_use(b).values()))
        a._gater.asked.clear()
        for name in STAGES:
            setattr(a._gater, f"allow_{name}", lambda *_: None)
        await b.connect(a.multiaddrs[0], ignore_backoff=True)
        await echoes(b, a.peer)
        async with node(sim, "c") as c:
            await echoes(c, a.multiaddrs[0])
            await echoes(a, c.peer)


@simulated(seeds=(1,))
async def test_a_blocked_peer_or_network_comes_in_no_way(sim: Sim) -> None:
    gater = BlockList(lambda: 0.0)
    async with pair(sim, {"gater": gater}) as (a, b):
        gater.block_peer(b.peer)
        named, nameless, inward = b.multiaddrs[0], b.addresses[0], a.multiaddrs[0]
        for connect, target in ((a.connect, named), (a.connect, nameless), (b.connect, inward)):
            with pytest.raises(DialFailed):
                await connect(target, ignore_backoff=True)
        gater.unblock_peer(b.peer)
        gater.block_network("10.0.0.0/24")
        for connect, target in ((a.connect, b.multiaddrs[0]), (b.connect, a.multiaddrs[0])):
            with pytest.raises(DialFailed):
                await connect(target, ignore_backoff=True)
        gater.unblock_network("10.0.0.0/24")
        await a.connect(b.multiaddrs[0], ignore_backoff=True)


@simulated(seeds=(1,))
async def test_a_gater_that_crashes_is_seen_in_the_log_as_a_bug(sim: Sim, caplog) -> None:
    async with pair(sim, {"gater": Gater("accept", crash=True)}) as (a, b):
        with pytest.raises((DialFailed, RemoteError)):
            await b.connect(a.multiaddrs[0])
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert "KeyError: 'bug'" in lines[0]
