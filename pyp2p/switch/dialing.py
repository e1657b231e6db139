"""Dialling one peer: hedged attempts over its addresses, and callers that share one dial."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio
from multiaddr import Multiaddr

T = TypeVar("T")


async def hedge(
    plan: Sequence[tuple[float, Multiaddr]],
    attempt: Callable[[Multiaddr], Awaitable[T | None]],
    discard: Callable[[T], None],
) -> T | None:
    """Run `attempt` on the addresses of `plan` and return the first result; the other attempts are cancelled.

    `plan` holds (seconds after the start, address), ascending; an attempt also starts early when all before it have
    failed. An attempt that fails returns None; a result that comes second is given to `discard`. None: all failed.
    """
    winner: list[T] = []
    changed = trio.Event()
    running = 0
    started = trio.current_time()

    async def run(address: Multiaddr) -> None:
        nonlocal running
        try:
            result = await attempt(address)
            if result is not None:
                if winner:
                    discard(result)
                else:
                    winner.append(result)
        finally:
            running -= 1
            changed.set()

    try:
        async with trio.open_nursery() as nursery:
            for delay, address in plan:
                while running and not winner and trio.current_time() < started + delay:
                    changed = trio.Event()
                    with trio.move_on_at(started + delay):
                        await changed.wait()
                if winner:
                    break
                running += 1
                nursery.start_soon(run, address)
            while running and not winner:
                changed = trio.Event()
                await changed.wait()
            nursery.cancel_scope.cancel()
    except BaseException:
        for result in winner:  # it came in the moment of our cancellation: nobody will take it
            discard(result)
        raise
    return winner[0] if winner else None


class Shared(Generic[T]):
    """One piece of work that several callers wait for; when the last of them gives up, it is cancelled."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._waiting = 0
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def given_up(self) -> bool:
        """True when nobody waits any more and the work is being cancelled: too late to join."""
        return self._scope.cancel_called

    async def run(self, work: Callable[[], Awaitable[T]], failures: tuple[type[BaseException], ...]) -> None:
        """Do the work, once; `failures` reach the callers, any other exception propagates here too."""
        try:
            with self._scope:
                self._result = await work()
        except failures as error:
            self._error = error
        finally:
            self._done.set()

    async def wait(self) -> T | None:
        """Wait for the result; None when the work was cancelled. Raises what the work raised."""
        self._waiting += 1
        try:
            await self._done.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._scope.cancel()
        if self._error is not None:
            raise self._error
        return self._result

    async def ended(self) -> None:
        """Wait until the work is over, without an interest in it."""
        await self._done.wait()

    def cancel(self) -> None:
        """Give up for all callers."""
        self._scope.cancel()
