"""pyp2p as a bench peer, with the sub-commands of the go, rust and js peers, and a bare trio TCP echo to compare with.

    python -m tests.bench.peer listen [--muxer yamux|mplex]
    python -m tests.bench.peer perf|ping|handshakes|streams|idle ADDR [--count N --concurrency C ...]
    python -m tests.bench.peer pubsub-listen | pubsub ADDR[,ADDR ..] --sign strict|eth2 --size N --count N
    python -m tests.bench.peer router
    python -m tests.bench.peer rawlisten | rawping HOST:PORT --count N

Limits are as wide as those of the other peers (which run without): what is measured is the way of the bytes.
"""

import argparse
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import median

import trio

from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.protocols.perf import PERF_PROTOCOL, run_perf
from pyp2p.protocols.ping import PING_PROTOCOL, ping
from pyp2p.quic.transport import Quic
from pyp2p.security.noise import Noise
from pyp2p.security.tls import Tls
from pyp2p.switch.config import Limits, SwitchConfig
from pyp2p.switch.limits import Budget
from pyp2p.switch.switch import open_switch
from pyp2p.transports.tcp import Tcp
from pyp2p.transports.ws import WebSocket
from tests.bench import gossip, router

WIDE = Limits(
    connections=100_000,
    inbound=100_000,
    per_peer=100_000,
    pending_inbound=10_000,
    pending_outbound=10_000,
    streams_per_connection=100_000,
)
CONFIG = SwitchConfig(limits=WIDE, perf=True)
MUXERS = {"yamux": Yamux, "mplex": Mplex}
SECURITIES = {"noise": Noise, "tls": Tls}
TRANSPORTS = {
    "tcp": (Tcp, "/ip4/127.0.0.1/tcp/0"),
    "ws": (WebSocket, "/ip4/127.0.0.1/tcp/0/ws"),
    "quic": (partial(Quic, datagram=1452), "/ip4/127.0.0.1/udp/0/quic-v1"),  # what figures of others are for too
}


def say(**result: object) -> None:
    print(json.dumps(result), flush=True)


def switch(flags: argparse.Namespace, listening: bool = False):
    transport, address = TRANSPORTS[flags.transport]
    return open_switch(
        config=CONFIG,
        listen=[address] if listening else [],
        transports=[transport()],
        securities=[SECURITIES[flags.security]()],
        muxers=[MUXERS[flags.muxer]()],
    )


async def until_stdin_closes() -> None:
    await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


async def listen(flags: argparse.Namespace) -> None:
    async with switch(flags, listening=True) as node:
        node.mount(ECHO_PROTOCOL, serve_echo, budget=Budget(per_peer=100_000, total=100_000))
        print("LISTEN", node.multiaddrs[0], flush=True)
        await until_stdin_closes()


async def perf(flags: argparse.Namespace) -> None:
    async with switch(flags) as node:
        connection = await node.connect(flags.target)
        for _ in range(flags.runs):
            async with await connection.open_stream(PERF_PROTOCOL) as stream:
                result = await run_perf(stream, flags.upload, flags.download)
            say(
                up_MBps=flags.upload / max(result.upload_seconds, 1e-9) / 1e6,
                down_MBps=flags.download / max(result.download_seconds, 1e-9) / 1e6,
            )


async def pings(flags: argparse.Namespace) -> None:
    async with switch(flags) as node:
        connection = await node.connect(flags.target)
        async with await connection.open_stream(PING_PROTOCOL) as stream:
            times = [await ping(stream, os.urandom) for _ in range(flags.count)]
    say(median_us=median(times) * 1e6, n=flags.count)


async def spread(flags: argparse.Namespace, work) -> None:
    """Run `work(n)` in `--concurrency` tasks and say how many per second they did."""
    share = flags.count // flags.concurrency
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(flags.concurrency):
            nursery.start_soon(work, share)
    say(per_sec=share * flags.concurrency / (time.perf_counter() - started), n=share * flags.concurrency)


async def handshakes(flags: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(switch(flags)) for _ in range(flags.concurrency)]
        free = list(nodes)

        async def work(count: int) -> None:
            node = free.pop()
            for _ in range(count):
                connection = await node.connect(flags.target)
                if connection.info is None:
                    raise SystemExit("the peer was not identified")
                await connection.aclose()

        await spread(flags, work)


async def streams(flags: argparse.Namespace) -> None:
    message = bytes(32)
    async with switch(flags) as node:
        connection = await node.connect(flags.target)

        async def work(count: int) -> None:
            for _ in range(count):
                async with await connection.open_stream(ECHO_PROTOCOL) as stream:
                    await stream.send_all(message)
                    await stream.send_eof()
                    got = 0
                    async for chunk in stream:
                        got += len(chunk)
                    if got != 32:
                        raise SystemExit(f"{got} bytes came back instead of 32")

        await spread(flags, work)


async def idle(flags: argparse.Namespace) -> None:
    """Hold `--count` identified connections, each of a peer of its own, until standard input closes."""
    async with AsyncExitStack() as stack:
        for _ in range(flags.count):
            node = await stack.enter_async_context(switch(flags))
            await node.connect(flags.target)
        say(held=flags.count)
        await until_stdin_closes()


async def rawlisten(flags: argparse.Namespace) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print("LISTEN", f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_echo, listeners)
        await until_stdin_closes()
        nursery.cancel_scope.cancel()


async def rawping(flags: argparse.Namespace) -> None:
    host, port = flags.target.split(":")
    times = []
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        stream.setsockopt(6, 1, 1)  # TCP_NODELAY
        for _ in range(flags.count):
            started = time.perf_counter()
            await stream.send_all(bytes(32))
            got = 0
            while got < 32:
                got += len(await stream.receive_some())
            times.append(time.perf_counter() - started)
    say(median_us=median(times) * 1e6, n=flags.count)


async def gossip_listen(flags: argparse.Namespace) -> None:
    async with switch(flags, listening=True) as node:
        await gossip.listen(node, flags)
        await until_stdin_closes()


async def gossip_publish(flags: argparse.Namespace) -> None:
    async with switch(flags) as node:
        await gossip.publish(node, flags)


async def router_costs(flags: argparse.Namespace) -> None:
    say(**router.measure())


COMMANDS = {
    "router": router_costs,
    "pubsub-listen": gossip_listen,
    "pubsub": gossip_publish,
    "listen": listen,
    "perf": perf,
    "ping": pings,
    "handshakes": handshakes,
    "streams": streams,
    "idle": idle,
    "rawlisten": rawlisten,
    "rawping": rawping,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peer")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--muxer", choices=MUXERS, default="yamux")
    parser.add_argument("--security", choices=SECURITIES, default="noise")
    parser.add_argument("--transport", choices=TRANSPORTS, default="tcp")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--upload", type=int, default=0)
    parser.add_argument("--download", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--topic", default="test")
    parser.add_argument("--sign", choices=["strict", "eth2"], default="strict")
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--linger", type=float, default=1.0)
    flags = parser.parse_args()
    trio.run(COMMANDS[flags.command], flags)


if __name__ == "__main__":
    main()
