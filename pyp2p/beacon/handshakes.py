"""What every peer has to pass before it is one: the handshakes of all protocols, as one admission step of the switch.

Rules: in order, each under its own deadline; one that is required and fails ends the connection with its goodbye code,
the failure of an optional one is reported and the peer stays. The switch bounds all of them together.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pyp2p.beacon.containers import GoodbyeReason
from pyp2p.errors import AdmissionRefused, describe, printable
from pyp2p.io.guard import run_guarded
from pyp2p.switch.connection import Connection

logger = logging.getLogger("pyp2p.beacon")

SayGoodbye = Callable[[Connection, int], Awaitable[None]]


class NotWelcome(AdmissionRefused):
    """A handshake declined the connection, for a reason that has a goodbye code of its own."""

    def __init__(self, reason: str, goodbye: int) -> None:
        super().__init__(reason)
        self.goodbye = goodbye


@dataclass(frozen=True, slots=True)
class Handshake:
    """One protocol's word on a new connection: `run(connection)` raises to refuse.

    Lower `order` comes first (status has 0); `timeout` in seconds; `goodbye` is the code that a refused peer is told.
    """

    name: str
    run: Callable[[Connection], Awaitable[None]]
    order: int = 100
    timeout: float = 10.0
    required: bool = True
    goodbye: int = GoodbyeReason.FAULT


class Handshakes:
    """All handshakes of a node."""

    def __init__(self, say_goodbye: SayGoodbye, warn: Callable[[str], Awaitable[None]]) -> None:
        self._steps: list[Handshake] = []
        self._say_goodbye = say_goodbye
        self._warn = warn

    def add(self, step: Handshake) -> None:
        """Every connection from now on has to pass `step`. Raises `ValueError` for a name that is there already."""
        if any(each.name == step.name for each in self._steps):
            raise ValueError(f"a handshake {printable(step.name)} is there already")
        self._steps.append(step)
        self._steps.sort(key=lambda each: each.order)

    async def admit(self, connection: Connection) -> None:
        """Run all of them. Raises `AdmissionRefused` that names the one that failed and why."""
        for step in list(self._steps):
            error = await self._run(step, connection)
            if error is None:
                continue
            failure = f"{step.name}: {_reason(error)}"
            if step.required:
                code = error.goodbye if isinstance(error, NotWelcome) else step.goodbye
                try:
                    await self._say_goodbye(connection, code)
                finally:
                    connection.error = refusal = AdmissionRefused(failure)  # also where it closes on our goodbye
                raise refusal
            await self._warn(f"{connection.peer}: {failure}")

    async def _run(self, step: Handshake, connection: Connection) -> Exception | None:
        error: Exception | None = AdmissionRefused(f"no answer within {step.timeout:g} s")
        with trio.move_on_after(step.timeout):
            error = await run_guarded(step.run, connection)
        return error


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, AdmissionRefused) else describe(error)
