"""`pyp2p req METHOD TARGET`: one request to a beacon node, and its answer.

Rules: the newest version that the peer speaks is asked, unless one is named. What a node serves to anybody is asked at
once; before anything else we exchange statuses, since nodes serve blocks to those only that they have let in. Which
chain the peer is on is no matter here: it is told, and the peer judges us. Needs the extras `discv5` and `eth2`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.clock import SlotClock
from pyp2p.beacon.containers import GoodbyeReason, MetaDataV3, StatusV1, StatusV2
from pyp2p.beacon.exchange import Exchange, PeerFacts, goodbye_text
from pyp2p.beacon.methods import ForkBytes, Methods
from pyp2p.beacon.status import ChainStatus
from pyp2p.beacon.subnets import CUSTODY_REQUIREMENT
from pyp2p.cli import render
from pyp2p.cli.discv5 import identity
from pyp2p.cli.failure import OK, STAGE_CODES, TIMEOUT, USAGE, CommandFailed, UsageError, clean
from pyp2p.cli.node_config import chain_of
from pyp2p.cli.output import Output
from pyp2p.cli.reach import CONNECT_SECONDS, bounded, connect_to
from pyp2p.cli.req_methods import Ours, answer_facts, check_options, check_request, file_name, methods_named, request_of
from pyp2p.cli.runner import run as run_trio
from pyp2p.cli.stack import stack
from pyp2p.cli.stdout import emit
from pyp2p.cli.target import parse_target
from pyp2p.errors import (
    AdmissionRefused,
    AnswerLate,
    NotSpoken,
    PeerDeclined,
    ProtocolViolation,
    RequestFailed,
    RequestNotSendable,
    printable,
    unwrapped,
)
from pyp2p.peer.id import PeerId
from pyp2p.platform import Platform
from pyp2p.reqresp.codec import Kind
from pyp2p.reqresp.declare import Method
from pyp2p.reqresp.service import ReqResp, open_reqresp
from pyp2p.switch.config import SwitchConfig
from pyp2p.switch.connection import Connection
from pyp2p.switch.switch import open_switch
from pyp2p.trace import Stage

_PROTOCOL_FAILED = STAGE_CODES[Stage.PROTOCOL]
_FAMILY = "/eth2/"
_SHOWN_PROTOCOLS = 6
# For the results of the specs; others are the implementation's own.
_RESULTS = {1: "invalid request", 2: "server error", 3: "resource unavailable"}


def run(options: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    chain = chain_of(options.chain)
    versions = methods_named(options.method, Methods(chain))
    check_options(versions[0].name, options)
    check_request(versions[0], options)
    if options.output == "":
        raise UsageError("--output: the name of the folder is empty")
    target = parse_target(options.target)
    who = identity(options, out)
    seconds = options.timeout or CONNECT_SECONDS
    config = bounded(seconds, SwitchConfig())
    spoken = stack(options)

    async def command() -> int:
        try:
            with unwrapped():
                async with open_switch(who, config=config, **spoken) as switch, open_reqresp(switch) as reqresp:
                    deadline = trio.current_time() + (options.timeout or math.inf)
                    request = _Request(reqresp, chain, options, out)
                    out.status(lambda: f"connecting to {target}")
                    # Not within our deadline: that of connecting knows how far it came.
                    connection = await connect_to(switch, target, seconds)
                    with trio.move_on_at(deadline):
                        await request.run(connection, versions)
                        return OK
            raise CommandFailed(
                Stage.PROTOCOL.value,
                TIMEOUT,
                clean(f"connected to {target}, and {versions[0].name} was not done within {seconds:g} s"),
                "Try again, or raise --timeout.",
            )
        except CommandFailed as failure:
            out.fail(failure, "req")
            return failure.code

    return run_trio(command, out)


class _Request:
    """One request, and what we say to a peer that asks us meanwhile."""

    def __init__(self, reqresp: ReqResp, chain: Chain, options: argparse.Namespace, out: Output) -> None:
        self._reqresp = reqresp
        self._chain = chain
        self._options = options
        self._out = out
        self._clock = SlotClock(chain, Platform().wall)
        self._ours = Ours(ChainStatus(), self._clock.period.digest)
        self._exchange = Exchange(reqresp, Methods(chain), chain, _Guest(self._clock, self._ours))

    async def run(self, connection: Connection, versions: list[Method[Any, Any]]) -> None:
        """Ask and tell. Raises `CommandFailed`."""
        name = versions[0].name
        self._out.status(lambda: f"waiting for an answer to {name}")
        try:
            await self._ask_first_spoken(connection, versions)
        except RequestFailed as error:
            raise self._request_failed(connection, error) from None
        except AdmissionRefused:  # it said goodbye in answer to our status
            raise self._failed(connection, "network", f"{name} was not asked") from None

    async def _ask_first_spoken(self, connection: Connection, versions: list[Method[Any, Any]]) -> None:
        if not versions[0].before_admission:
            await self._exchange.greet(connection)
        for method in versions[:-1]:
            try:
                return await self._ask(connection, method)
            except NotSpoken:
                continue
        await self._ask(connection, versions[-1])

    async def _ask(self, connection: Connection, method: Method[Any, Any]) -> None:
        facts = self._exchange.facts(connection)
        request = request_of(method, self._options, self._ours, facts.status)
        began = trio.current_time()
        number, total = 0, 0
        async with await self._reqresp.request(connection, method, request) as answer:
            async for value in answer:
                number += 1
                total += await self._tell(method, number, value)
        seconds = trio.current_time() - began
        sheet = {
            "peer_id": str(connection.peer),
            "method": method.name,
            "version": method.version,
            "chunks": number,
            "bytes": total,
            "seconds": round(seconds, 6),
        }
        what = "1 chunk" if number == 1 else f"{number} chunks"
        moved = f", {render.size(total)}" if total else ""
        said = f"{method.name}/{method.version}: {what}{moved} in {render.duration(seconds)}"
        self._out.status(None)
        await emit(self._out, "answer", sheet, [self._out.style.dim(said)])

    async def _tell(self, method: Method[Any, Any], number: int, value: Any) -> int:
        """One chunk of the answer; returns its size as SSZ."""
        facts = answer_facts(method, value, self._chain)
        self._out.status(None)
        if not isinstance(value, ForkBytes):
            lines = render.fields(
                [(key.replace("_", " "), _shown(said)) for key, said in facts.items()], self._out.style
            )
            await emit(self._out, "chunk", {"number": number, **facts}, lines)
            assert isinstance(method.response, Kind)  # of bytes by fork it is another one
            return len(method.response.encode(value))
        place = await self._written(file_name(number, facts), value.ssz)
        words = [
            f"slot {facts['slot']:>10}" if "slot" in facts else "",
            f"index {facts['index']}" if "index" in facts else "",
        ]
        words += [facts["fork"] or facts["fork_digest"], render.size(facts["size"]), place or ""]
        sheet = {"number": number, **facts, **({} if place is None else {"file": place})}
        await emit(self._out, "chunk", sheet, ["  ".join(filter(None, words))])
        return len(value.ssz)

    async def _written(self, name: str, ssz: bytes) -> str | None:
        """Where the bytes were written to; None without --output. Raises `UsageError`."""
        if self._options.output is None:
            return None
        folder = trio.Path(self._options.output)
        try:
            await folder.mkdir(parents=True, exist_ok=True)
            await (folder / name).write_bytes(ssz)
        except OSError as error:
            why = f"--output {printable(self._options.output, 200)}: {error.strerror or error}"
            raise UsageError(why, "Give a folder that can be written to.") from None
        return str(Path(self._options.output, name))

    # --- failures

    def _request_failed(self, connection: Connection, error: RequestFailed) -> CommandFailed:
        reason = clean(f"{error.protocol}: {error.reason}")
        match error:
            case PeerDeclined(code=code):
                result = _RESULTS.get(code, "a result of its own")
                advice = f"It heard the request and will not answer it: {result}. That is its right."
                failure = self._failed(connection, "declined", f"the peer declined {reason}", advice)
                failure.facts |= {"result": code, "text": clean(error.text)}
                return failure
            case ProtocolViolation():
                advice = "The answer breaks the rules of the protocol. Is --chain the chain of the peer?"
                return self._failed(connection, "violation", f"the peer broke the protocol {reason}", advice)
            case RequestNotSendable():
                failure = self._failed(connection, "not_sendable", f"nothing was sent: {reason}")
                failure.code = USAGE
                return failure
            case NotSpoken():
                if not _is_beacon_node(connection):
                    return self._no_beacon_node(connection)
                advice = "`pyp2p identify` shows which protocols the peer speaks."
                return self._failed(connection, "network", f"the peer does not speak {clean(error.protocol)}", advice)
        failure = self._failed(connection, "network", f"no answer to {reason}")
        if isinstance(error, AnswerLate):
            failure.code = TIMEOUT
        return failure

    def _no_beacon_node(self, connection: Connection) -> CommandFailed:
        info = connection.info
        spoken = [] if info is None else [printable(each, 60) for each in (info.protocols or ())[:_SHOWN_PROTOCOLS]]
        reason = f"this is no beacon node: of what those speak ({_FAMILY}...) it speaks nothing"
        return self._failed(connection, "network", reason, f"It speaks {', '.join(spoken) or 'nothing that it names'}.")

    def _failed(self, connection: Connection, kind: str, reason: str, advice: str = "") -> CommandFailed:
        facts = self._exchange.facts(connection)
        if facts.goodbye is not None:
            reason += f"; it said goodbye: {goodbye_text(facts.goodbye)}"
        theirs = None if facts.status is None else facts.status.fork_digest
        if theirs is not None and theirs != self._ours.digest:
            reason += (
                f"; its fork digest is {theirs.hex()}, that of {self._chain.name} is {self._ours.digest.hex()} now"
            )
            advice = advice or "Give --chain the chain of the peer."
        failure = CommandFailed(Stage.PROTOCOL.value, _PROTOCOL_FAILED, reason, advice)
        failure.facts = {"failure": kind}
        return failure


def _is_beacon_node(connection: Connection) -> bool:
    """Does it speak anything that beacon nodes speak, or not say what it speaks?"""
    info = connection.info
    return info is None or info.protocols is None or any(each.startswith(_FAMILY) for each in info.protocols)


class _Guest:
    """What we are to a peer: somebody at genesis, who serves nothing and judges nobody."""

    def __init__(self, clock: SlotClock, ours: Ours) -> None:
        self._clock = clock
        self._ours = ours

    def slot(self) -> int:
        return self._clock.slot

    def status(self) -> StatusV2:
        return self._ours.status.v2(self._ours.digest)

    def metadata(self) -> MetaDataV3:
        return MetaDataV3(0, frozenset(), frozenset(), CUSTODY_REQUIREMENT)

    def irrelevant(self, theirs: StatusV1) -> str | None:
        return None

    def told(self, peer: PeerId, facts: PeerFacts) -> None:
        """Nobody keeps it."""

    def ping_failed(self, peer: PeerId) -> None:
        """Nobody keeps it."""

    def unwanted(self, peer: PeerId, code: GoodbyeReason, reason: str) -> None:
        """It is asked nothing more than this."""

    def left(self, peer: PeerId, code: int) -> None:
        """What its goodbye said is in the facts of the connection."""


def _shown(value: object) -> object:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
