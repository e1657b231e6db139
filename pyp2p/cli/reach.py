"""From the options of a command to a connection: the switch, the dial, and what identify said, as one fact sheet."""

from __future__ import annotations

import argparse
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import trio

from pyp2p.cli import render
from pyp2p.cli.failure import CommandFailed, UsageError, dial_failure, step_failure
from pyp2p.cli.key import load_or_create
from pyp2p.cli.output import Output
from pyp2p.cli.runner import run
from pyp2p.cli.stack import stack
from pyp2p.cli.target import Target, parse_target
from pyp2p.errors import Attempt, P2PError, StageTimeout
from pyp2p.peer.address import components, text
from pyp2p.peer.keys import Identity
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connection import Connection
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.trace import Stage, Trace

CONNECT_SECONDS = 30.0
_GRACE = 0.25  # seconds in which the switch's own deadline passes first, since it knows the stage


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection that a command works with: since when (monotonic) and how long it took."""

    switch: Switch
    connection: Connection
    started: float
    seconds: float
    deadline: float  # of the whole command


def identity(options: argparse.Namespace, out: Output) -> Identity | None:
    """The identity of --key, None for a fresh one."""
    return load_or_create(options.key, out) if options.key is not None else None


def with_connection(
    options: argparse.Namespace,
    out: Output,
    work: Callable[[Reached], Awaitable[int]],
    config: SwitchConfig | None = None,
) -> int:
    """Connect to the target of `options`, run `work` and return the exit code; failures of both are shown."""
    target = parse_target(options.target)
    who = identity(options, out)
    seconds = options.timeout or CONNECT_SECONDS
    used, spoken = bounded(seconds, config or SwitchConfig()), stack(options)

    async def command() -> int:
        async with open_switch(who, config=used, **spoken) as switch:
            return await _connected(switch, target, options, out, work)

    return run(command, out)


async def _connected(
    switch: Switch,
    target: Target,
    options: argparse.Namespace,
    out: Output,
    work: Callable[[Reached], Awaitable[int]],
) -> int:
    seconds = options.timeout or CONNECT_SECONDS
    started = trio.current_time()
    deadline = started + (options.timeout or math.inf)
    out.status(lambda: f"connecting to {target} .. {trio.current_time() - started:.1f} s")
    try:
        connection = await connect_to(switch, target, seconds)
        out.status(None)
        return await work(Reached(switch, connection, started, trio.current_time() - started, deadline))
    except CommandFailed as failure:
        if options.trace and not out.as_json:
            _show_traces(failure.attempts, out)
        out.fail(failure, options.command.words[0])
        return failure.code


def bounded(seconds: float, config: SwitchConfig) -> SwitchConfig:
    """`config` for connecting within `seconds`: the switch's own deadlines pass before ours, as it knows the stage."""
    times = config.timeouts
    shorter = replace(
        times,
        dial=seconds,
        dial_address=min(times.dial_address, seconds),
        upgrade=min(times.upgrade, seconds),
        identify=min(times.identify, seconds),
        resolve=min(times.resolve, seconds),
    )
    return replace(config, timeouts=shorter)


async def connect_to(switch: Switch, target: Target, seconds: float) -> Connection:
    """Connect within `seconds`, or raise `CommandFailed`."""
    with trio.move_on_after(seconds + _GRACE):
        try:
            if target.peer is not None and target.others:
                return await switch.connect(target.peer, [target.address, *target.others])
            return await switch.connect(target.multiaddr)
        except (P2PError, OSError, trio.BrokenResourceError) as error:
            raise dial_failure(error, str(target)) from error
    made = switch.connections(target.peer)
    if made:
        late = StageTimeout(Stage.IDENTIFY, seconds)
        attempt = Attempt(text(made[0].remote), Stage.IDENTIFY, late, made[0].trace)
        raise step_failure(Stage.IDENTIFY, late, f"Tried {target}", [attempt])
    raise step_failure(Stage.CONNECT, StageTimeout(Stage.CONNECT, seconds), f"Tried {target}")


def require_identify(reached: Reached) -> None:
    """Raise `CommandFailed` when the peer did not say what it is."""
    connection = reached.connection
    if connection.info is not None:
        return
    error: Exception | None = connection.identify_error or connection.error
    if error is None:
        seconds = reached.switch.config.timeouts.identify
        error = StageTimeout(Stage.IDENTIFY, seconds)
    stage = Stage.IDENTIFY if connection.verified else Stage.MUXER_SELECT  # proposed, and never confirmed
    attempt = Attempt(text(connection.remote), stage, error, connection.trace)
    raise step_failure(stage, error, f"Tried {attempt.address}", [attempt])


def protocol_failure(reached: Reached, error: BaseException, doing: str) -> CommandFailed:
    """An error of a protocol on the connection that is there."""
    connection = reached.connection
    trace = connection.trace
    attempt = Attempt(text(connection.remote), Stage.PROTOCOL, error, trace)
    return step_failure(Stage.PROTOCOL, error, f"{doing} with {connection.peer}", [attempt])


def facts(reached: Reached) -> dict[str, Any]:
    """The fields of `identify`; what the peer did not say is null."""
    connection = reached.connection
    info = connection.info
    names = [part.name for part in components(connection.remote)]
    said = {
        "agent": None if info is None else info.agent,
        "protocol_version": None if info is None else info.protocol_version,
        "protocols": [] if info is None else list(info.protocols or ()),
        "addresses": [] if info is None else [text(address) for address in info.addresses or ()],
        "observed": None if info is None or info.observed is None else text(info.observed),
    }
    return {
        "peer_id": str(connection.peer),
        **said,
        "remote": text(connection.remote),
        "transport": names[-1] if names else "",
        "security": connection.security,
        "muxer": connection.muxer_protocol,
        "early_muxer": connection.early_muxer,
        "round_trips": connection.trace.round_trips,
        "seconds": round(reached.seconds, 6),
        "trace": connection.trace.as_json(),
    }


def fact_rows(sheet: dict[str, Any]) -> list[tuple[str, object]]:
    """The same as labelled rows."""
    agreed = "agreed inside the handshake" if sheet["early_muxer"] else "agreed after the handshake"
    trips = f"{sheet['round_trips']} round trip" + ("" if sheet["round_trips"] == 1 else "s")
    return [
        ("peer id", sheet["peer_id"]),
        ("agent", sheet["agent"]),
        ("version", sheet["protocol_version"]),
        ("connected", f"{sheet['remote']} in {render.duration(sheet['seconds'])}, {trips}"),
        ("security", sheet["security"]),
        ("muxer", f"{sheet['muxer']}, {agreed}"),
        ("sees us at", sheet["observed"]),
        ("addresses", sheet["addresses"]),
        ("protocols", sheet["protocols"]),
    ]


def _show_traces(attempts: Sequence[Attempt], out: Output) -> None:
    """The step tables of failed attempts."""
    for attempt in attempts:
        lines = trace_lines(attempt.trace, out)
        if lines:
            out.emit("trace", {}, [*lines, ""])


def trace_lines(trace: Trace, out: Output) -> list[str]:
    """The step table of one connection."""
    return out.trace(trace.as_json())


def check_no_conflict(options: argparse.Namespace, *names: str) -> None:
    """Raise `UsageError` when more than one of these options was given."""
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, [])]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
