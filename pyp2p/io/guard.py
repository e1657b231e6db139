"""Calling the code of others: what it raises is returned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec

P = ParamSpec("P")


async def run_guarded(work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> Exception | None:
    """Run an admission step, a hook, a validator and return what it raised, None when all went well."""
    try:
        await work(*args, **kwargs)
    except Exception as error:
        return error
    return None


def call_guarded(hook: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Exception | None:
    """Call a hook or a gater and return what it raised, None when all went well."""
    try:
        hook(*args, **kwargs)
    except Exception as error:
        return error
    return None
