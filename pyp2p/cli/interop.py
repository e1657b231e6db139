"""`pyp2p interop`: dialer or listener in a test of the public libp2p test suites (contract.py), by way of redis.

Rule: redis is spoken to in threads, since its library blocks; a thread that still waits when the command ends is given
up. Whatever is not the result goes to standard error.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyp2p.cli.contract import Contract, latency_lines, read_contract
from pyp2p.cli.failure import INTERRUPTED, OK, STAGE_CODES, TIMEOUT, CommandFailed, UsageError, clean
from pyp2p.cli.listen import listen_on
from pyp2p.cli.output import Output, configure_logs
from pyp2p.cli.ping import Pinger, ping_failure
from pyp2p.cli.reach import Reached, bounded, connect_to
from pyp2p.cli.runner import run as run_trio
from pyp2p.cli.stack import stack
from pyp2p.cli.target import Target, parse_target
from pyp2p.errors import printable
from pyp2p.peer.address import text
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.trace import Stage


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    contract = read_contract(os.environ)
    if contract.debug:
        configure_logs(2, os.environ.get("PYP2P_LOG", ""))
    asked = argparse.Namespace(
        transport=contract.transport,
        security=contract.security,
        muxer=contract.muxer,
        addr=[] if contract.listen is None else [contract.listen],
        insecure=True,  # listeners on /wss show what they have signed themselves; who they are, is proven inside
        key_log=None,
        qlog=None,
    )
    spoken = stack(asked)

    async def command() -> int:
        async with open_switch(config=bounded(contract.seconds, SwitchConfig()), **spoken) as switch:
            try:
                if contract.listen is None:
                    await _dial(switch, contract, out)
                else:
                    await _listen(switch, contract.listen, contract, out)
            except CommandFailed as failure:
                out.fail(failure, "interop")
                return failure.code
        return OK

    return run_trio(command, out, terminated=INTERRUPTED if contract.listen is None else OK)


async def _dial(switch: Switch, contract: Contract, out: Output) -> None:
    """Connect to the listener, ping it once and print how long both took."""
    deadline = trio.current_time() + contract.seconds
    target = await _published(contract)
    out.error(f"dialling {target}")
    started = trio.current_time()
    connection = await connect_to(switch, target, max(deadline - started, 0))
    pinger = Pinger(Reached(switch, connection, started, trio.current_time() - started, deadline))
    try:
        seconds = await pinger.ping()
    finally:
        pinger.close()
    if seconds is None:
        raise ping_failure(pinger)
    whole = trio.current_time() - started
    facts = {"handshake_plus_one_rtt_ms": round(whole * 1000, 3), "ping_rtt_ms": round(seconds * 1000, 3)}
    out.emit("interop", facts, latency_lines(whole, seconds))


async def _listen(switch: Switch, address: str, contract: Contract, out: Output) -> None:
    """Publish an address and serve ping until the suite ends us; that it does not is a failure."""
    deadline = trio.current_time() + contract.seconds
    try:
        await listen_on(switch, address)
    except UsageError as error:
        raise UsageError(f"LISTENER_IP: {error.reason}") from None
    dialable = text(switch.multiaddrs[0])
    await _publish(contract, dialable)
    out.error(f"listening at {dialable}")
    await trio.sleep_until(deadline)
    served = f"Served ping at {dialable}: nobody ended us within {contract.seconds:g} s"
    raise CommandFailed(Stage.PROTOCOL.value, TIMEOUT, served)


async def _published(contract: Contract) -> Target:
    """The listener's address, as soon as it is there."""

    def pop(client: redis.Redis) -> Any:
        return client.blpop([contract.key], math.ceil(contract.seconds))

    nothing = f"no listener published its address as {contract.key}"
    answer = await _ask(contract, pop, nothing)
    if answer is None:
        raise _late(contract, nothing)
    try:
        return parse_target(str(answer[1]))
    except UsageError as error:
        reason = clean(f"{contract.key} in redis holds nothing to dial: {error.reason}")
        raise CommandFailed(Stage.RESOLVE.value, STAGE_CODES[Stage.RESOLVE], reason) from None


async def _publish(contract: Contract, address: str) -> None:
    """Put our address where the dialer waits for it, in place of what an earlier run may have left."""

    def push(client: redis.Redis) -> None:
        client.delete(contract.key)
        client.rpush(contract.key, address)

    await _ask(contract, push, "it does not answer")


async def _ask(contract: Contract, work: Callable[[redis.Redis], Any], late: str) -> Any:
    """What `work` gives, done in a thread. Raises `CommandFailed`, whose words are `late` when the time is over."""
    host, port = contract.redis

    def session() -> Any:
        with redis.Redis(
            host,
            port,
            protocol=2,  # which every redis speaks
            decode_responses=True,
            encoding_errors="backslashreplace",
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return work(client)

    try:
        with trio.fail_after(contract.seconds):
            return await trio.to_thread.run_sync(session, abandon_on_cancel=True)
    except trio.TooSlowError:
        raise _late(contract, late) from None
    except redis.ResponseError as error:
        reason = f"Redis at {_where(contract)} answered for {contract.key}: {printable(str(error), 300)}"
        raise CommandFailed(Stage.RESOLVE.value, STAGE_CODES[Stage.RESOLVE], clean(reason)) from None
    except redis.RedisError as error:
        reason = f"Tried redis at {_where(contract)}: {printable(str(error), 300)}"
        advice = "REDIS_ADDR has to name a redis server that runs and asks for no password."
        raise CommandFailed(Stage.CONNECT.value, STAGE_CODES[Stage.CONNECT], clean(reason), advice) from None


def _late(contract: Contract, what: str) -> CommandFailed:
    reason = f"Waited {contract.seconds:g} s for redis at {_where(contract)}: {what}"
    return CommandFailed(Stage.RESOLVE.value, TIMEOUT, clean(reason))


def _where(contract: Contract) -> str:
    host, port = contract.redis
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
