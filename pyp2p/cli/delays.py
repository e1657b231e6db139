"""`listen --delay`: the wrappers of pyp2p.testing around the stack of a listener. Imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyp2p.testing.misbehave import Misbehaviour, misbehave
from pyp2p.trace import Stage


def slowed(delays: Sequence[tuple[str, float]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What makes a stack late at the given stages (seconds; infinity: it never answers)."""
    plan = Misbehaviour(delays={Stage(stage): seconds for stage, seconds in delays})

    def wrap(stack: dict[str, Any]) -> dict[str, Any]:
        return dict(misbehave(plan, **stack))

    return wrap
