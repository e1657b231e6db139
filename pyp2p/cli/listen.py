"""`pyp2p listen`: a node that serves identify, ping and echo, and what an interop tester asks for besides.

Rule: it ends at the end of standard input only when that is a pipe or a socket, so that a parent process can end it by
closing; otherwise on SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import OK, CommandFailed, UsageError
from pyp2p.cli.output import Output
from pyp2p.cli.reach import check_no_conflict, identity
from pyp2p.cli.runner import run as run_trio
from pyp2p.cli.stack import listen_addresses, stack
from pyp2p.cli.stdin import end_of_input
from pyp2p.cli.stdout import emit
from pyp2p.errors import InvalidMultiaddr, P2PError, printable
from pyp2p.peer.address import text
from pyp2p.peer.keys import Identity
from pyp2p.protocols.echo import ECHO_PROTOCOL, serve_echo
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.events import Connected, Disconnected, Identified, Refused, SwitchEvent
from pyp2p.switch.handlers import Handler
from pyp2p.switch.stream import MuxedStream
from pyp2p.switch.switch import Switch, open_switch

Wrap = Callable[[dict[str, Any]], dict[str, Any]]


async def _sink(stream: MuxedStream) -> None:
    async for _ in stream:
        pass


async def _hang(stream: MuxedStream) -> None:
    await trio.sleep_forever()


async def _reset(stream: MuxedStream) -> None:
    stream.reset()
    await trio.lowlevel.checkpoint()


BEHAVIOURS: dict[str, Handler] = {"echo": serve_echo, "sink": _sink, "hang": _hang, "reset": _reset}


def run(options: argparse.Namespace, out: Output, wrap: Wrap | None = None) -> int:
    """Run the command; `wrap` changes the stack (--delay)."""
    check_no_conflict(options, "port", "addr")
    check_no_conflict(options, "seed", "key")
    if options.seed is None:
        who = identity(options, out)
    else:
        who = Identity.generate(entropy=random.Random(options.seed).randbytes)
    used = stack(options)
    config = SwitchConfig(perf=options.perf)
    if options.agent is not None:
        try:
            config = SwitchConfig(perf=options.perf, agent=options.agent)
        except ValueError as error:
            raise UsageError(f"--agent: {error}") from None
    addresses = listen_addresses(options)

    async def command() -> int:
        async with open_switch(who, config=config, **(used if wrap is None else wrap(used))) as switch:
            try:
                return await _serve(switch, addresses, options, out)
            except CommandFailed as failure:
                out.fail(failure, "listen")
                return failure.code

    return run_trio(command, out, terminated=OK)


async def _serve(switch: Switch, addresses: list[str], options: argparse.Namespace, out: Output) -> int:
    _mount(switch, options.protocol)
    for address in addresses:
        await listen_on(switch, address)
    dialable = [text(address) for address in switch.multiaddrs]
    rows = [("peer id", str(switch.peer)), ("listening", dialable)]
    out.emit("listening", {"peer_id": str(switch.peer), "addresses": dialable}, render.fields(rows, out.style))
    async with switch.watch() as events, trio.open_nursery() as nursery:
        nursery.start_soon(_report, events, out)
        await end_of_input()
        nursery.cancel_scope.cancel()
    return OK


def _mount(switch: Switch, served: list[tuple[str, str]]) -> None:
    named = dict(served)
    named.setdefault(ECHO_PROTOCOL, "echo")
    for name, behaviour in named.items():
        try:
            switch.mount(name, BEHAVIOURS[behaviour])
        except ValueError as error:
            raise UsageError(f"--protocol {printable(name, 60)}: {error}") from None


async def listen_on(switch: Switch, address: str) -> None:
    """Listen, or raise `UsageError`."""
    try:
        await switch.listen(address)
    except InvalidMultiaddr as error:
        raise UsageError(f"not an address: '{printable(address)}': {error}", "See `pyp2p addr explain`.") from None
    except (P2PError, ValueError) as error:
        raise UsageError(f"cannot listen on {printable(address)}: {error}") from None
    except OSError as error:
        raise UsageError(
            f"cannot listen on {printable(address)}: {error.strerror or error}",
            "Another process may have the port, or the address is not of this machine; --port 0 takes any free port.",
        ) from None


async def _report(events: AsyncIterator[SwitchEvent], out: Output) -> None:
    """Print who comes and goes."""
    sheet: dict[str, object]
    async for event in events:
        match event:
            case Connected(connection):
                sheet = {
                    "peer_id": str(connection.peer),
                    "remote": text(connection.remote),
                    "direction": connection.direction.value,
                    "security": connection.security,
                    "muxer": connection.muxer_protocol,
                    "early_muxer": connection.early_muxer,
                }
                await emit(out, "connected", sheet, [f"connected     {connection.peer} from {text(connection.remote)}"])
            case Identified(connection, info):
                agent = None if info is None else info.agent
                protocols = [] if info is None else list(info.protocols or ())
                sheet = {"peer_id": str(connection.peer), "agent": agent, "protocols": protocols}
                shown = "did not answer identify" if info is None else printable(agent or "no agent", 200)
                await emit(out, "identified", sheet, [f"identified    {connection.peer} {shown}"])
            case Disconnected(connection, reason):
                sheet = {"peer_id": str(connection.peer), "ended_by": reason.by, "reason": printable(str(reason), 300)}
                line = f"disconnected  {connection.peer} by {reason.by}: {printable(str(reason), 300)}"
                await emit(out, "disconnected", sheet, [line])
            case Refused(code, detail, count):
                sheet = {"code": code, "detail": printable(detail, 300), "count": count}
                await emit(out, "refused", sheet, [f"refused       {count} times {code}: {printable(detail, 300)}"])
