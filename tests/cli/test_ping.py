"""The pings of a command, in this process: over how many streams they go."""

import pytest
import trio

from pyp2p.cli.ping import Pinger
from pyp2p.cli.reach import Reached
from pyp2p.muxers.base import MuxerFactory
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.protocols.ping import PING_PROTOCOL, serve_ping
from pyp2p.quic.transport import Quic
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.limits import Budget
from pyp2p.switch.stream import MuxedStream, StreamReset
from pyp2p.switch.switch import open_switch
from pyp2p.transports.base import Transport
from pyp2p.transports.tcp import Tcp

PINGS = 5
WAYS = {
    "yamux": (Tcp, Yamux, "/ip4/127.0.0.1/tcp/0", 1),
    "mplex": (Tcp, Mplex, "/ip4/127.0.0.1/tcp/0", 1),
    "quic": (Quic, Yamux, "/ip4/127.0.0.1/udp/0/quic-v1", PINGS),
}


@pytest.mark.parametrize(("transport", "muxer", "where", "streams"), WAYS.values(), ids=WAYS)
async def test_one_stream_serves_all_pings_but_over_quic_each_has_its_own(
    transport: type[Transport], muxer: type[MuxerFactory], where: str, streams: int
) -> None:
    ended: list[bool] = []
    over = trio.Event()

    async def serve(stream: MuxedStream) -> None:
        try:
            await serve_ping(stream)
        except StreamReset:
            ended.append(False)
        else:
            ended.append(True)
        if len(ended) == streams:
            over.set()

    with trio.fail_after(10):
        async with (
            open_switch(
                listen=[where], transports=[transport()], muxers=[muxer()], config=SwitchConfig(ping=False)
            ) as there,
            open_switch(transports=[transport()], muxers=[muxer()]) as here,
        ):
            there.mount(PING_PROTOCOL, serve, budget=Budget(per_peer=2))  # no more than the specification allows
            connection = await here.connect(there.multiaddrs[0])
            pinger = Pinger(Reached(here, connection, 0.0, 0.0, trio.current_time() + 10))
            for _ in range(PINGS):
                seconds = await pinger.ping()
                assert seconds is not None and seconds > 0, pinger.why
            pinger.close()
            await over.wait()
    assert ended == ([False] if streams == 1 else [True] * PINGS)  # given up at the end; each ended by itself
