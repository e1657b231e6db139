"""`pyp2p discv5 ping`, `findnode`, `lookup` and `talk`: a node that asks others, and is gone again.

Rules: a node that does not answer ends a command with 11, a deadline with 16. Without --addr and --port a free port is
taken: of loopback when all nodes that are named are there, else of every interface. The record of such a node names no
address, so that nobody keeps it in a table. Needs the extra `discv5`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import trio

from pyp2p.cli import records, render
from pyp2p.cli.enr import secp256k1_only
from pyp2p.cli.failure import OK, STAGE_CODES, TIMEOUT, CommandFailed, UsageError, clean
from pyp2p.cli.key import load_or_create
from pyp2p.cli.output import Output
from pyp2p.cli.ping import PINGS, Tally
from pyp2p.cli.reach import check_no_conflict
from pyp2p.cli.runner import run
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.messages import NAMES
from pyp2p.discv5.node import Endpoint, IPAddress, canonical, endpoints, log_distance
from pyp2p.discv5.service import Discv5, open_discv5
from pyp2p.discv5.types import Form, PacketTrace
from pyp2p.errors import DiscoveryError, LocalProtocolError, NoAnswer, NoEndpoint, printable
from pyp2p.io.udp import bind_udp
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.peer.multibase import hex_of
from pyp2p.trace import Stage

CONNECT_FAILED = STAGE_CODES[Stage.CONNECT]
_PROTOCOL_FAILED = STAGE_CODES[Stage.PROTOCOL]
_SHOWN = 400  # characters of an answer that are shown to people
_DEAD = "It may be gone, behind a NAT or a firewall, or its record out of date: ask another node for it (`lookup`)."

Work = Callable[[Discv5], Awaitable[int]]


# --- the node of a command


def identity(options: argparse.Namespace, out: Output) -> Identity:
    """The identity of --key, or a fresh one. Raises `UsageError`."""
    if options.key is None:
        return Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    return secp256k1_only(load_or_create(options.key, out, KeyType.SECP256K1), options.key)


def listen_on(options: argparse.Namespace, nodes: Iterable[Enr]) -> list[tuple[str, int]]:
    """Addresses and ports for our sockets, so that `nodes` can be reached. Raises `UsageError`."""
    port = options.port or 0
    if options.addr:
        return [(str(ip), port) for ip in _addresses(options.addr)]
    places = [canonical(records.where(node).ip) for node in nodes]
    if all(place.is_loopback for place in places):
        versions = {place.version for place in places} or {4}
        return [(ip, port) for version, ip in ((4, "127.0.0.1"), (6, "::1")) if version in versions]
    anywhere = [("0.0.0.0", port)]
    with suppress(OSError):  # a machine without IPv6
        bind_udp("::", port).close()
        anywhere.append(("::", port))
    return anywhere


def _addresses(addrs: Iterable[str]) -> list[IPAddress]:
    """Those of --addr. Raises `UsageError`."""
    found: dict[int, IPAddress] = {}
    for given in addrs:
        try:
            ip = ip_address(given)
        except ValueError:
            raise UsageError(
                f"--addr {printable(given, 60)}: not an IP address",
                "Give one beside --port: --addr 0.0.0.0 --port 9000.",
            ) from None
        if canonical(ip) != ip:
            raise UsageError(f"--addr {printable(given)}: an IPv4 address written as IPv6", f"--addr {canonical(ip)}")
        if ip.version in found:
            raise UsageError(
                f"--addr {printable(given)}: one address of an IP version, and another of IPv{ip.version} is given",
                f"--addr {'0.0.0.0' if ip.version == 4 else '::'} is every interface.",
            )
        found[ip.version] = ip
    return list(found.values())


@asynccontextmanager
async def opened(
    options: argparse.Namespace, who: Identity, nodes: Sequence[Enr], **settings: Any
) -> AsyncIterator[Discv5]:
    """The node of a command. Raises `UsageError` for what the user gave and cannot be."""
    listen = listen_on(options, nodes)
    names = ", ".join(records.shown(Endpoint.of(*place)) for place in listen)
    running = False
    try:
        async with open_discv5(who, listen=listen, **settings) as service:
            running = True
            yield service
    except (OSError, ValueError, LocalProtocolError) as error:
        if running:
            raise
        if isinstance(error, OSError) and error.filename:
            raise UsageError(
                f"--state {printable(str(error.filename), 200)}: {error.strerror or error}",
                "Give a file of this node's own; one that is missing is made.",
            ) from None
        if isinstance(error, OSError):
            raise UsageError(
                f"cannot listen on {names}: {error.strerror or error}",
                "Another process may have the port, or the address is not of this machine; --port 0 takes any free "
                "port.",
            ) from None
        raise UsageError(clean(str(error))) from None


def one_command(
    options: argparse.Namespace,
    out: Output,
    nodes: Sequence[Enr],
    work: Work,
    who: Identity | None = None,
    **settings: Any,
) -> int:
    """Run `work` with a node within --timeout, and return the exit code; failures are shown."""
    who = identity(options, out) if who is None else who
    seconds = options.timeout or math.inf
    tracer = _Tracer(out) if options.trace else None
    for node in nodes:
        records.where(node)

    async def command() -> int:
        try:
            with trio.move_on_after(seconds):
                async with opened(options, who, nodes, advertise=(), trace=tracer, **settings) as service:
                    return await work(service)
            raise CommandFailed(
                Stage.CONNECT.value, TIMEOUT, f"not done within {seconds:g} s", "Try again, or raise --timeout."
            )
        except CommandFailed as failure:
            out.fail(failure, " ".join(options.command.words))
            return failure.code

    return run(command, out)


class _Tracer:
    """Shows each packet, with the time since the first one."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._began: float | None = None

    def __call__(self, packet: PacketTrace) -> None:
        if self._began is None:
            self._began = packet.at
        at = round((packet.at - self._began) * 1000, 3)
        way = "sent" if packet.sent else "received"
        message = None if packet.message is None else NAMES[packet.message]
        where = records.shown(packet.endpoint)
        unread = "random content" if packet.sent else "nothing that can be read"
        said = message or ("" if packet.form is Form.WHOAREYOU else unread)
        sheet = {"at_ms": at, "way": way, "endpoint": where, "form": packet.form.value, "message": message}
        line = f"{at:9.1f} ms  {way:8}  {packet.form.value:9}  {packet.size:4} B  {where}  {said}".rstrip()
        self._out.status(None)
        self._out.emit("packet", {**sheet, "size": packet.size}, [self._out.style.dim(line)])


def bootnodes(options: argparse.Namespace) -> list[Enr]:
    """The nodes to begin with. Raises `UsageError` that names the option."""
    try:
        return [records.read(given) for given in options.bootnode]
    except UsageError as error:
        raise UsageError(f"--bootnode: {error.reason}", error.advice) from None


def usable(nodes: Sequence[Enr], who: Identity, options: argparse.Namespace, out: Output) -> list[Enr]:
    """Those of the bootnodes that our node can ask; of the others it is said why not.

    Raises `UsageError` when there are none but such, and for one without an address, which nobody can ask.
    """
    for node in nodes:
        records.where(node)
    versions = {ip_address(ip).version for ip, _ in listen_on(options, nodes)}
    found, left_out = [], []
    for node in nodes:
        its = {canonical(endpoint.ip).version for endpoint in endpoints(node)}
        if node.public_key == who.public_key.data:
            left_out.append(f"--bootnode: the record of node {node.node_id.hex()[:16]} is that of --key, our own")
        elif versions.isdisjoint(its):
            left_out.append(
                f"--bootnode: node {node.node_id.hex()[:16]} names no address to use: it is at "
                f"{records.shown(records.where(node))}, and we have no socket of IPv{min(its)}"
            )
        else:
            found.append(node)
    if left_out and not found:
        raise UsageError("; ".join(left_out), "Give another node; --addr adds a socket of another IP version.")
    for why in left_out:
        out.error(f"{why}; left out")
    return found


def request_failed(error: DiscoveryError) -> CommandFailed:
    """What a request raised."""
    if isinstance(error, NoEndpoint):
        return UsageError(
            clean(str(error)), "Its address may be of an IP version that this node has no socket for: see --addr."
        )
    advice = _DEAD if isinstance(error, NoAnswer) else "Try again later."
    return CommandFailed(Stage.CONNECT.value, CONNECT_FAILED, clean(str(error)), advice)


# --- commands


def ping(options: argparse.Namespace, out: Output) -> int:
    """`discv5 ping ENR`."""
    node = records.read(options.node)

    async def work(service: Discv5) -> int:
        count = options.count or PINGS
        tally = Tally()
        why: DiscoveryError | None = None
        try:
            for number in range(1, count + 1):
                if number > 1:
                    await trio.sleep(options.interval)
                out.status(lambda: f"waiting for {records.shown(records.where(node))}")
                why = await _ping_once(service, node, number, tally, out) or why
        finally:
            out.status(None)
            if tally.sent:
                out.emit("ping", {"node_id": node.node_id.hex(), **tally.as_json()}, tally.lines())
        if why is not None and not tally.times:
            raise request_failed(why)
        return OK

    return one_command(options, out, [node], work)


async def _ping_once(service: Discv5, node: Enr, number: int, tally: Tally, out: Output) -> DiscoveryError | None:
    tally.sent += 1
    began = trio.current_time()
    try:
        pong = await service.ping(node)
    except NoEndpoint as error:
        tally.sent -= 1
        raise request_failed(error) from None
    except DiscoveryError as error:
        sheet: dict[str, object] = {"seq": number, "us": None, "lost": True, "enr_seq": None, "observed": None}
        line = f"{number:3}  {out.style.bad('lost')}: {clean(str(error))}"
        out.status(None)
        out.emit("round_trip", sheet, [line])
        return error
    took = trio.current_time() - began
    tally.times.append(took)
    seen = records.shown(Endpoint.of(ip_address(pong.recipient_ip), pong.recipient_port))
    us = round(took * 1e6, 1)
    sheet = {"seq": number, "us": us, "lost": False, "enr_seq": pong.enr_seq, "observed": seen}
    note = f", with the handshake; sees us at {seen}, its record is number {pong.enr_seq}" if number == 1 else ""
    out.status(None)
    out.emit("round_trip", sheet, [f"{number:3}  {render.duration(took)}{note}"])
    return None


def findnode(options: argparse.Namespace, out: Output) -> int:
    """`discv5 findnode ENR`."""
    node = records.read(options.node)
    distances = list(dict.fromkeys(options.distance)) or [256]

    async def work(service: Discv5) -> int:
        began = trio.current_time()
        try:
            found = await service.find_node(node, distances)
        except DiscoveryError as error:
            raise request_failed(error) from None
        took = trio.current_time() - began
        tell_nodes(found, node.node_id, out)
        totals = {"node_id": node.node_id.hex(), "distances": distances, "found": len(found), "seconds": round(took, 6)}
        asked = ", ".join(map(str, distances))
        out.emit("findnode", totals, [f"{_count(len(found))} at distance {asked} in {render.duration(took)}"])
        return OK

    return one_command(options, out, [node], work)


def lookup(options: argparse.Namespace, out: Output) -> int:
    """`discv5 lookup [NODE_ID|ENR]`."""
    target = _node_id(options.near)
    nodes = bootnodes(options)
    if not nodes:
        raise UsageError("nobody to ask: --bootnode is missing", "--bootnode ENR; it may be repeated.")
    who = identity(options, out)
    nodes = usable(nodes, who, options, out)

    async def work(service: Discv5) -> int:
        began = trio.current_time()
        out.status(lambda: f"looking up {target.hex()[:16]}, {trio.current_time() - began:.1f} s")
        found = await service.lookup(target)
        took = trio.current_time() - began
        out.status(None)
        if not found:
            raise CommandFailed(
                Stage.CONNECT.value, CONNECT_FAILED, f"none of {len(nodes)} bootnodes answered with a node", _DEAD
            )
        tell_nodes(found, target, out)
        totals = {"target": target.hex(), "found": len(found), "seconds": round(took, 6)}
        out.emit("lookup", totals, [f"{_count(len(found))} near {target.hex()} in {render.duration(took)}"])
        return OK

    return one_command(options, out, nodes, work, who, bootnodes=nodes)


def talk(options: argparse.Namespace, out: Output) -> int:
    """`discv5 talk ENR PROTOCOL`."""
    check_no_conflict(options, "data", "hex")
    if options.data is None and options.hex is None:
        raise UsageError("nothing to ask: give --data TEXT or --hex HEX")
    node = records.read(options.node)
    protocol = os.fsencode(options.protocol)
    request = os.fsencode(options.data) if options.hex is None else options.hex

    async def work(service: Discv5) -> int:
        began = trio.current_time()
        try:
            answer = await service.talk(node, protocol, request)
        except DiscoveryError as error:
            raise request_failed(error) from None
        except LocalProtocolError as error:
            raise UsageError(clean(str(error))) from None
        took = trio.current_time() - began
        if not answer:
            raise CommandFailed(
                Stage.PROTOCOL.value,
                _PROTOCOL_FAILED,
                f"node {node.node_id.hex()[:16]} answered with nothing: it does not serve {printable(protocol, 60)}, "
                "or has nothing to say",
                "An empty answer is how a node says that it does not know the protocol. `pyp2p discv5 listen` serves "
                "echo, which has an answer as long as what is asked.",
            )
        sheet = {
            "node_id": node.node_id.hex(),
            "protocol": printable(protocol),
            "size": len(answer),
            "data": answer.hex(),
            "us": round(took * 1e6, 1),
        }
        out.emit("talk", sheet, [printable(answer, _SHOWN), f"{len(answer)} bytes in {render.duration(took)}"])
        return OK

    return one_command(options, out, [node], work)


def _node_id(given: str | None) -> bytes:
    """The node id that the user means; a random one when there is none. Raises `UsageError`."""
    if given is None:
        return os.urandom(32)
    if given.strip().startswith("enr:"):
        return records.read(given).node_id
    found = hex_of(given.strip())
    if found is None or len(found) != 32:
        raise UsageError(f"'{printable(given, 80)}' is neither a node id (64 digits of hex) nor a record (enr:...)")
    return found


def tell_nodes(found: Sequence[Enr], target: bytes, out: Output) -> None:
    """One event for each node, or a table."""
    for node in found:
        sheet = {"distance": log_distance(target, node.node_id), **records.facts(node)}
        if out.as_json:
            out.emit("node", sheet)
    if found and not out.as_json:
        rows = [_row(node, target) for node in found]
        out.emit("nodes", {}, [*out.table(("distance", "node id", "at", "seq", "client", "fork"), rows, (0, 3)), ""])
        out.emit("records", {}, [*(node.text for node in found), ""])


def _row(node: Enr, target: bytes) -> list[str]:
    at = node.udp_endpoint(4) or node.udp_endpoint(6)
    place = "-" if at is None else records.shown(at)
    said = (records.client(node) or "-", records.fork_digest(node) or "-")
    return [str(log_distance(target, node.node_id)), node.node_id.hex()[:16], place, str(node.seq), *said]


def _count(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"
