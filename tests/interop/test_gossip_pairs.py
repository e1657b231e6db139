"""Gossipsub between us and one peer of each implementation, in both directions."""

import pytest
import trio

from pyp2p.pubsub.link import Link
from pyp2p.pubsub.types import Lane, Send
from tests.interop.gossip_support import SIGNS, TOPIC, Member, options, ours, theirs
from tests.interop.support import PATIENCE

MIB = 1024 * 1024


async def exchange(speaker: Member, listener: Member, sizes: list[int], seed: int) -> None:
    """Publish, one after the other, and see each arrive once."""
    for number, size in enumerate(sizes):
        await speaker.publish(size, seed + number)
        sha256 = speaker.said[-1]
        await listener.until(lambda sha256=sha256: sha256 in listener.heard)
    assert listener.heard == dict.fromkeys(speaker.said, 1)


@pytest.mark.parametrize("we_dial", [True, False], ids=["we-dial", "they-dial"])
@pytest.mark.parametrize("sign", SIGNS)
async def test_messages_travel_both_ways_once(language: str, sign: str, we_dial: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, ours(nursery, **options(sign)) as we:
            connect = () if we_dial else ("--connect", we.address)
            async with theirs(nursery, language, "--sign", sign, *connect) as they:
                if we_dial:
                    await we.switch.connect(they.address)
                for node in (we, they):
                    await node.until(lambda node=node: node.crowd() == (1, 1))
                sizes = [20, 200, 5_000, MIB]
                await exchange(we, they, sizes, 1)
                await exchange(they, we, sizes, 100)
                assert set(they.authors.values()) == ({we.peer_id} if sign == "strict" else {None})
                for what in ("rejected", "dropped"):
                    assert not they.told(what)
                bad = {key: n for key, n in we.pubsub.counters.items() if key[0] not in ("accepted", "published")}
                assert not bad
                nursery.cancel_scope.cancel()


async def test_what_they_do_not_push_is_asked_for(language: str) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, ours(nursery, **options("strict")) as we:
            flags = ("--sign", "strict", "--no-push", "--connect", we.address)
            async with theirs(nursery, language, *flags) as they:
                await they.until(lambda: they.crowd()[0] == 1)
                await we.until(lambda: we.crowd()[0] == 1)
                await exchange(they, we, [200, 5_000], 1)
                assert they.told("ihave", "out")
                assert they.told("iwant", "in")
                assert we.pubsub.counters["promised", TOPIC] >= 1
                assert we.pubsub.counters["promise broken", TOPIC] == 0
                nursery.cancel_scope.cancel()


async def test_what_we_do_not_push_is_asked_for(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = Link.offer

    def gossip_alone(link: Link, send: Send) -> bool:
        return send.lane in (Lane.OWN, Lane.FORWARDED) or offer(link, send)

    monkeypatch.setattr(Link, "offer", gossip_alone)
    nobody = {"d": 0, "d_low": 0, "d_high": 0, "d_score": 0, "d_out": 0}  # gossip goes to those outside the mesh
    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            ours(nursery, **options("strict", **nobody)) as we,
            theirs(nursery, language, "--sign", "strict", "--connect", we.address) as they,
        ):
            await we.until(lambda: we.crowd()[0] == 1)
            # Not by `publish`, which would wait for the peer and disconnect it, since it takes nothing.
            made = we.pubsub._router.publish(TOPIC, b"whoever wants this has to ask", trio.current_time())
            we.pubsub._carry_out()
            assert [str(peer) for peer in made.peers] == [they.peer_id]
            await they.until(lambda: bool(they.heard))
            assert set(they.heard.values()) == {1}
            assert they.told("ihave", "in")
            assert they.told("iwant", "out")
            nursery.cancel_scope.cancel()


async def test_idontwant_goes_to_go_and_comes_from_it(go: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            ours(nursery, "a", **options("strict")) as a,
            ours(nursery, "b", **options("strict")) as b,
            theirs(nursery, go, "--sign", "strict", "--connect", a.address, "--connect", b.address) as they,
        ):
            await b.switch.connect(a.address)
            for node in (a, b, they):
                await node.until(lambda node=node: node.crowd() == (2, 2))
            for number in range(5):  # who is first, b or go, is chance: in one of the cases each tells the other
                await a.publish(4_096, number)
                await b.until(lambda: all(sha in b.heard for sha in a.said))
                await they.until(lambda: all(sha in they.heard for sha in a.said))
            await they.until(lambda: bool(they.told("idontwant", "in")) and bool(they.told("idontwant", "out")))
            nursery.cancel_scope.cancel()


async def test_a_thousand_topics_reach_rust_which_refuses_large_control(rust: str) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, ours(nursery, **options("strict")) as we:
            for number in range(999):
                we.pubsub._router.subscribe(f"/eth2/8c9f62fe/data_column_sidecar_{number}/ssz_snappy", 0.0)
            async with theirs(nursery, rust, "--sign", "strict", "--connect", we.address) as they:
                for node in (we, they):
                    await node.until(lambda node=node: node.crowd() == (1, 1))
                await exchange(we, they, [100], 1)
                await exchange(they, we, [100], 2)
                nursery.cancel_scope.cancel()
