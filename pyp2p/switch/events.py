"""What a switch tells: events over bounded channels that slow the emitter and lose nothing."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from multiaddr import Multiaddr

from pyp2p.identify.wire import IdentifyInfo
from pyp2p.io.hub import Hub
from pyp2p.switch.connection import Connection
from pyp2p.switch.facts import CloseReason


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection passed admission and is in use."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Identified:
    """The peer said who it is, right after the connection was made or by a push; None: it did not answer."""

    connection: Connection
    info: IdentifyInfo | None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection that was `Connected` is over; exactly one for each. `reason.by` says who ended it."""

    connection: Connection
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class ListenAddrAdded:
    """We can be reached at `address`."""

    address: Multiaddr


@dataclass(frozen=True, slots=True)
class ListenAddrRemoved:
    """We can no longer be reached at `address`."""

    address: Multiaddr


@dataclass(frozen=True, slots=True)
class Refused:
    """We declined connections or streams: `code` names the limit or gate, `detail` the newest case.

    While subscribers are slow, refusals of one code are told as one event with their `count`: none is lost, and a
    flood of them cannot slow the accepting.
    """

    code: str
    detail: str
    count: int = 1


SwitchEvent = Connected | Identified | Disconnected | ListenAddrAdded | ListenAddrRemoved | Refused


class EventHub(Hub[SwitchEvent]):
    """The switch's events; refusals are gathered while subscribers are slow."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._refusals: dict[str, Refused] = {}
        self._refused = trio.Event()

    def refused(self, code: str, detail: str, count: int) -> None:
        """Note `count` refusals; `run` tells them. Never waits."""
        if self.watched:
            before = self._refusals[code].count if code in self._refusals else 0
            self._refusals[code] = Refused(code, detail, before + count)
            self._refused.set()

    async def run(self) -> None:
        """Tell refusals as fast as the subscribers take them, until cancelled."""
        while True:
            await self._refused.wait()
            self._refused = trio.Event()
            while self._refusals:
                await self.emit(self._refusals.pop(next(iter(self._refusals))))
