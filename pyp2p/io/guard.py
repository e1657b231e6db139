"""Calling the code of an application: what it raises is returned.

Rule: it may raise anything, and that is its own fault: nobody else may be stopped by it. Who calls these says what it
costs (a message, an answer, an event), counts it and logs it. `BaseException`, so also a cancellation, goes through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec

P = ParamSpec("P")


async def run_guarded(work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> Exception | None:
    """Run an admission step, a hook, a validator and return what it raised, None when all went well."""
    try:
        await work(*args, **kwargs)
    except Exception as error:  # whatever an application may raise: the caller is given it
        return error
    return None


def call_guarded(hook: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Exception | None:
    """Call a hook or a gater and return what it raised, None when all went well."""
    try:
        hook(*args, **kwargs)
    except Exception as error:  # whatever an application may raise: the caller is given it
        return error
    return None
