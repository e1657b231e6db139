"""Connecting: what may be named, what is shared between callers, and what a failure tells."""

import pytest
import trio
import trio.testing

from pyp2p.errors import (
    BackingOff,
    ConnectFailed,
    DialFailed,
    DialSelf,
    InvalidMultiaddr,
    InvalidPeerId,
    NoAddresses,
    NoCommonProtocol,
    NotTried,
    PeerIdMismatch,
    StageTimeout,
    Stopping,
)
from pyp2p.identify.service import IDENTIFY_PROTOCOL, PUSH_PROTOCOL
from pyp2p.identify.wire import IdentifyInfo, encode
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import with_peer
from pyp2p.peer.keys import Identity
from pyp2p.peer.store import Source
from pyp2p.security.noise import Noise
from pyp2p.security.plaintext import Plaintext
from pyp2p.security.tls import Tls
from pyp2p.switch.config import Limits, SwitchConfig, Timeouts
from pyp2p.switch.stream import MuxedStream
from pyp2p.testing import LinkQuality, Misbehaviour, Sim, misbehave, simulated
from pyp2p.trace import Stage
from tests.contract.stacks import STACKS
from tests.switch.support import ECHO, duo, echoed, echoes, in_use, node, pair, until

on_every_stack = pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)


# ---- targets ----


@on_every_stack
async def test_every_way_to_name_a_peer_finds_the_open_connection(stack) -> None:
    async with duo(stack) as (a, b):
        plain = b.addresses[0]
        first = await a.connect(str(plain))  # learns the id
        assert (first.peer, first.peer_key) == (b.peer, b.identity.public_key)
        muxer = "/quic-v1" if stack.name == "quic" else stack.muxer().protocol
        assert (first.security, first.muxer_protocol) == (stack.security().protocol, muxer)
        named = with_peer(plain, b.peer)
        for target, addrs in (
            (b.peer, ()),
            (str(b.peer), ()),
            (b.peer.to_cid(), ()),
            (named, ()),
            (str(named), ()),
            (b.peer, [plain]),
            (b.peer, [str(named)]),
        ):
            assert await a.connect(target, addrs) is first
        await echoes(a, b.peer)
        await until(lambda: b.connections(a.peer))
        assert len(b.connections()) == 1


@on_every_stack
async def test_a_peer_that_was_met_is_dialled_from_the_store(stack) -> None:
    async with duo(stack) as (a, b):
        first = await a.connect(b.multiaddrs[0])
        await a.disconnect(b.peer)
        assert a.connections(b.peer) == []
        again = await a.connect(b.peer)
        assert again is not first
        await echoed(await again.open_stream(ECHO))


@on_every_stack
async def test_the_listener_uses_the_connection_the_other_way(stack) -> None:
    async with duo(stack) as (a, b):
        await a.connect(b.multiaddrs[0])
        await until(lambda: b.connections(a.peer))
        await echoes(b, a.peer)
        assert len(a.connections()) == len(b.connections()) == 1


@simulated(seeds=(1,))
async def test_what_is_no_target_is_told_before_anything_is_dialled(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        for wrong, error in (("/ip4/1.2.3/tcp/1", InvalidMultiaddr), ("nobody", InvalidPeerId), ("", InvalidPeerId)):
            with pytest.raises(error):
                await a.connect(wrong)
        with pytest.raises(ValueError, match=str(a.peer)):
            await a.connect(b.peer, [with_peer(b.addresses[0], a.peer)])
        with pytest.raises(DialSelf):
            await a.connect(a.peer, b.addresses)
        assert not b.connections()


# ---- sharing ----


@on_every_stack
async def test_callers_share_one_dial(stack) -> None:
    async with duo(stack) as (a, b):
        found = []

        async def connect(target) -> None:
            found.append(await a.connect(target))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connect, b.multiaddrs[0])
        assert len(found) == 20
        assert all(connection is found[0] for connection in found)
        await until(lambda: b.connections(a.peer))
        assert in_use(b)["connections"] == 1


@simulated(seeds=(1,))
async def test_one_caller_that_gives_up_takes_nothing_from_the_others(sim: Sim) -> None:
    sim.net.quality = LinkQuality(latency=0.1)
    async with pair(sim) as (a, b):
        found = []
        given_up = trio.CancelScope()

        async def impatient() -> None:
            with given_up:
                await a.connect(b.multiaddrs[0])

        async def patient() -> None:
            found.append(await a.connect(b.multiaddrs[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            nursery.start_soon(patient)
            await trio.sleep(0.3)
            given_up.cancel()
        assert given_up.cancelled_caught
        assert found == a.connections()


@pytest.mark.parametrize("steps", range(12))
@simulated(seeds=(1,))
async def test_a_caller_that_comes_while_a_dial_is_given_up_gets_its_own(sim: Sim, steps: int) -> None:
    async with pair(sim) as (a, b):
        given_up = trio.CancelScope()

        async def impatient() -> None:
            with given_up:
                await a.connect(b.multiaddrs[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            for _ in range(steps % 4 * 3):
                await trio.lowlevel.checkpoint()
            given_up.cancel()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            connection = await a.connect(b.multiaddrs[0], ignore_backoff=True)
            await echoed(await connection.open_stream(ECHO))
        await a.disconnect(b.peer)
        await until(lambda: not any(in_use(a).values()))


@simulated(seeds=(1,))
async def test_who_knows_more_than_the_caller_before_is_not_told_its_failure(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        sim.net.host("dead", "10.9.9.9")
        sim.net.cut("a", "dead")
        failed = []

        async def knows_little() -> None:
            with pytest.raises(DialFailed) as caught:
                await a.connect(b.peer, ["/ip4/10.9.9.9/tcp/1"])
            failed.append([attempt.address for attempt in caught.value.attempts])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(knows_little)
            nursery.start_soon(knows_little)
            await trio.testing.wait_all_tasks_blocked()
            connection = await a.connect(b.peer, b.addresses)
        assert connection.is_open
        assert failed == [["/ip4/10.9.9.9/tcp/1"]] * 2


@pytest.mark.parametrize("dialled", [True, False], ids=["ours", "theirs"])
@simulated(seeds=(1,))
async def test_a_connection_that_ends_while_we_wait_for_its_identify_is_not_returned(sim: Sim, dialled: bool) -> None:
    async with pair(sim) as (a, b):

        async def never(stream) -> None:
            await trio.sleep_forever()

        b.unmount(IDENTIFY_PROTOCOL)
        b.mount(IDENTIFY_PROTOCOL, never, before_admission=True)
        failed = []

        async def connect() -> None:
            try:
                connection = await a.connect(b.peer, b.addresses)
            except DialFailed as error:
                failed.append(error.attempts[0].stage)
            else:
                assert connection.is_open
                assert connection is not half_known

        async with trio.open_nursery() as nursery:
            nursery.start_soon(*((connect,) if dialled else (b.connect, a.multiaddrs[0])))
            await until(a.connections)
            (half_known,) = a.connections()
            nursery.start_soon(connect)
            await trio.sleep(1)
            await b.disconnect(a.peer)
        assert failed == ([Stage.IDENTIFY] * 2 if dialled else [])


@simulated(seeds=(1,))
async def test_a_peer_that_does_not_answer_identify_is_a_peer_all_the_same(sim: Sim) -> None:
    async with pair(sim, b={"config": SwitchConfig(identify=False)}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        assert connection.info is None
        assert isinstance(connection.identify_error, NoCommonProtocol)
        assert connection.trace.stage is Stage.IDENTIFY
        await echoed(await connection.open_stream(ECHO))


# ---- failures by stage ----


def only(caught):
    (attempt,) = caught.value.attempts
    assert caught.value.furthest is attempt
    return attempt


@pytest.mark.parametrize("muxer", [Yamux, Mplex])
@simulated(seeds=(1,))
async def test_no_common_security(sim: Sim, muxer) -> None:
    async with pair(
        sim, {"securities": [Noise()], "muxers": [muxer()]}, {"securities": [Plaintext()], "muxers": [muxer()]}
    ) as (a, b):
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        attempt = only(caught)
        assert attempt.stage is Stage.SECURITY_SELECT
        assert isinstance(attempt.error, NoCommonProtocol)
        assert attempt.error.offered == ("/noise",)
        assert attempt.address == str(b.addresses[0])
        await until(lambda: not any(in_use(b).values()))


@simulated(seeds=(1,))
async def test_who_speaks_the_first_security_is_reached_in_three_round_trips_whatever_else_we_speak(sim: Sim) -> None:
    ours, theirs = [Noise(), Tls(), Plaintext()], [Plaintext(), Tls(), Noise()]
    async with pair(sim, {"securities": ours, "muxers": [Yamux()]}, {"securities": theirs}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        assert connection.security == "/noise"
        assert connection.trace.round_trips == 3


@pytest.mark.parametrize(("theirs", "spoken"), [([Tls], "/tls/1.0.0"), ([Plaintext, Tls], "/tls/1.0.0")])
@simulated(seeds=(1,))
async def test_who_declines_the_first_security_is_dialled_for_the_rest(sim: Sim, theirs: list, spoken: str) -> None:
    ours = [Noise(), Tls(), Plaintext()]
    async with pair(sim, {"securities": ours}, {"securities": [security() for security in theirs]}) as (a, b):
        connection = await a.connect(b.multiaddrs[0])
        assert connection.security == spoken
        selects = [step.detail for step in connection.trace.steps if step.stage is Stage.SECURITY_SELECT]
        assert selects == ["/noise", "/tls/1.0.0, /plaintext/2.0.0"]
        await until(lambda: in_use(b)["connections"] == 1)


@simulated(seeds=(1,))
async def test_who_speaks_none_of_several_securities_is_one_failure_that_names_all(sim: Sim) -> None:
    ours, theirs = [Noise(), Tls()], [Plaintext()]
    async with pair(sim, {"securities": ours}, {"securities": theirs}) as (a, b):
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        attempt = only(caught)
        assert attempt.stage is Stage.SECURITY_SELECT
        assert attempt.error.offered == ("/noise", "/tls/1.0.0")
        await until(lambda: not any(in_use(a).values()) and not any(in_use(b).values()))


@pytest.mark.parametrize("security", [Noise, Plaintext])
@pytest.mark.parametrize("early", [True, False], ids=["early", "late"])
@pytest.mark.parametrize(("ours", "theirs"), [([Yamux], [Mplex]), ([Mplex], [Yamux]), ([], [Yamux])])
@simulated(seeds=(1,))
async def test_no_common_muxer(sim: Sim, security, early: bool, ours: list, theirs: list) -> None:
    if not ours:
        ours = [lambda: Renamed("/one/1"), lambda: Renamed("/two/1")]  # several offers, none of which is known
    config = SwitchConfig(early_muxer=early)
    async with pair(
        sim,
        {"securities": [security()], "muxers": [muxer() for muxer in ours], "config": config},
        {"securities": [security()], "muxers": [muxer() for muxer in theirs], "config": config},
    ) as (a, b):
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        attempt = only(caught)
        assert attempt.stage is Stage.MUXER_SELECT
        assert isinstance(attempt.error, NoCommonProtocol)
        await until(lambda: not any(in_use(a).values()) and not any(in_use(b).values()))


class Renamed:
    """Yamux under a name that nobody knows."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.session = Yamux().session


@pytest.mark.parametrize("security", [Noise, Plaintext])
@simulated(seeds=(1,))
async def test_somebody_else_answers(sim: Sim, security) -> None:
    async with pair(sim, {"securities": [security()]}, {"securities": [security()]}) as (a, b):
        expected = Identity.generate(entropy=sim.platform("x").entropy).peer
        with pytest.raises(DialFailed) as caught:
            await a.connect(expected, b.addresses)
        attempt = only(caught)
        assert caught.value.peer == expected
        assert attempt.stage is Stage.HANDSHAKE
        assert isinstance(attempt.error, PeerIdMismatch)
        assert (attempt.error.expected, attempt.error.got) == (expected, b.peer)
        assert str(expected) in str(caught.value)
        assert str(b.peer) in str(caught.value)
        assert a.peers.addresses(expected, trio.current_time()) == []


@simulated(seeds=(1,))
async def test_each_address_has_its_attempt_and_its_reason(sim: Sim) -> None:
    sim.net.host("closed", "10.3.0.1")
    sim.net.host("mute", "10.3.0.2")
    sim.net.cut("a", "mute")
    async with pair(sim) as (a, b):
        mute = misbehave(
            Misbehaviour(delays={Stage.HANDSHAKE: 60.0}),
            transports=[sim.net.host("hung", "10.3.0.3").transport],
            securities=[Noise()],
            muxers=[Yamux()],
        )
        async with node(sim, "hanging", listen=["/ip4/10.3.0.3/tcp/4001"], **mute):
            addresses = {
                "/ip4/10.3.0.1/tcp/4001": (Stage.CONNECT, ConnectFailed),
                "/ip4/10.3.0.2/tcp/4001": (Stage.CONNECT, StageTimeout),
                "/ip4/10.3.0.3/tcp/4001": (Stage.SECURITY_SELECT, StageTimeout),
                "/ip4/10.3.0.4/udp/4001/quic-v1": (Stage.CONNECT, NoAddresses),
                str(a.addresses[0]): (Stage.CONNECT, DialSelf),
            }
            with pytest.raises(DialFailed) as caught:
                await a.connect(b.peer, list(addresses))
            told = {attempt.address: (attempt.stage, type(attempt.error)) for attempt in caught.value.attempts}
            assert told == addresses
            assert caught.value.furthest.address == "/ip4/10.3.0.3/tcp/4001"
            for address in addresses:
                assert address in str(caught.value)
        assert not any(in_use(a).values())


@simulated(seeds=(1,))
async def test_a_dial_has_one_deadline_for_all_its_addresses(sim: Sim) -> None:
    timeouts = Timeouts(dial=3.0, dial_address=2.0)
    async with pair(sim, {"config": SwitchConfig(timeouts=timeouts)}) as (a, b):
        dead = []
        for n in range(1, 20):
            sim.net.host(f"dead {n}", f"10.4.0.{n}")
            sim.net.cut("a", f"dead {n}")
            dead.append(f"/ip4/10.4.0.{n}/tcp/1")
        started = trio.current_time()
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.peer, dead)
        assert trio.current_time() - started == pytest.approx(3.0)
        begun, rest = caught.value.attempts[:12], caught.value.attempts[12:]  # 0.25 s apart
        assert all(isinstance(attempt.error, StageTimeout) for attempt in begun)
        assert sorted(attempt.address for attempt in caught.value.attempts) == sorted(dead)
        assert all(isinstance(attempt.error, NotTried) for attempt in rest)
        assert caught.value.furthest in begun
        assert not any(in_use(a).values())


@simulated(seeds=(1,))
async def test_the_first_address_that_works_wins_and_the_rest_is_closed(sim: Sim) -> None:
    sim.net.host("mute", "10.3.0.2")
    sim.net.cut("a", "mute")
    async with pair(sim) as (a, b):
        connection = await a.connect(b.peer, ["/ip4/10.3.0.2/tcp/4001", "/ip4/10.3.0.9/tcp/4001", *b.addresses])
        assert [connection.remote] == b.addresses
        await trio.sleep(20)
        assert a.connections() == [connection]
        assert in_use(a)["connections"] == 1
        assert in_use(a)["pending_outbound"] == 0


@simulated(seeds=(1,))
async def test_dials_under_way_end_with_the_switch(sim: Sim) -> None:
    sim.net.host("mute", "10.3.0.2")
    ended = []
    async with node(sim, "b"):

        async def dial(switch) -> None:
            try:
                await switch.connect("/ip4/10.3.0.2/tcp/4001")
            except Stopping as error:
                ended.append(error)

        async with trio.open_nursery() as nursery, node(sim, "a") as a:
            sim.net.cut("a", "mute")
            nursery.start_soon(dial, a)
            await trio.sleep(1)
            started = trio.current_time()
        assert trio.current_time() - started < 0.1
        assert len(ended) == 1


@simulated(seeds=(1,))
async def test_what_the_user_put_into_the_store_is_dialled_where_a_stranger_may_not_send_us(sim: Sim) -> None:
    async with pair(sim) as (a, b):
        now = trio.current_time()
        here = "/ip4/127.0.0.1/tcp/4001"
        a.peers.add_addresses(b.peer, [here], 60, Source.DISCOVERY, now)
        with pytest.raises(DialFailed, match="no address"):
            await a.connect(b.peer)
        a.peers.add_addresses(b.peer, [here], 60, Source.MANUAL, now)
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.peer)
        assert [attempt.address for attempt in caught.value.attempts] == [here]


@simulated(seeds=(1,))
async def test_a_push_that_comes_before_identify_is_over_is_not_lost(sim: Sim) -> None:
    async with pair(sim) as (a, b):

        async def answer_late(stream: MuxedStream) -> None:
            await trio.sleep(1)
            await b._identify.answer(stream, stream.connection)

        b.unmount(IDENTIFY_PROTOCOL)
        b.mount(IDENTIFY_PROTOCOL, answer_late, before_admission=True)
        connecting = []

        async def connect() -> None:
            connecting.append(await a.connect(b.multiaddrs[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await until(lambda: b.connections(a.peer))
            (theirs,) = b.connections(a.peer)
            stream = await theirs.open_stream(PUSH_PROTOCOL)
            described = encode(IdentifyInfo(protocols=("/pushed/1",)))
            await stream.send_all(b"".join(described))
            await stream.send_eof()
        await until(lambda: connecting[0].info.protocols == ("/pushed/1",))


@simulated(seeds=(1,))
async def test_a_dialler_that_goes_on_in_a_muxer_we_declined_is_a_disagreement_in_our_log_too(sim: Sim, caplog) -> None:
    late = SwitchConfig(early_muxer=False)
    caplog.set_level("INFO", "pyp2p.switch")
    async with pair(sim, {"muxers": [Mplex()], "config": late}, {"muxers": [Yamux()], "config": late}) as (a, b):
        with pytest.raises(DialFailed):
            await a.connect(b.multiaddrs[0])
        await until(lambda: not any(in_use(b).values()))
    (line,) = [record.getMessage() for record in caplog.records if "upgrade failed" in record.getMessage()]
    assert "NoCommonProtocol" in line
    assert "/mplex/6.7.0" in line


@simulated(seeds=(1,))
async def test_a_peer_that_hangs_up_before_we_use_the_connection_is_left_alone_for_a_while(sim: Sim) -> None:
    async with pair(sim, b={"config": SwitchConfig(limits=Limits(per_peer=1))}) as (a, b):
        await a.connect(b.multiaddrs[0], isolated=True)  # takes its only place
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        assert not isinstance(caught.value.attempts[0].error, BackingOff)
        with pytest.raises(DialFailed) as caught:
            await a.connect(b.multiaddrs[0])
        assert isinstance(caught.value.attempts[0].error, BackingOff)
