"""Ping, `/ipfs/ping/1.0.0`: 32 bytes there and back, for a round-trip time and as a sign of life.

Rules of the specification: the dialer loops over one stream and has at most one ping stream per peer (the caller's
matter, which over QUIC ends each stream after one ping: see cli/ping.py); the listener echoes until the dialer ends,
and accepts at most two streams per peer (the mount's budget).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from pyp2p.errors import WireError

PING_PROTOCOL = "/ipfs/ping/1.0.0"
PING_SIZE = 32
PING_TIMEOUT = 10.0  # seconds that a listener waits for the rest of a ping, and for us to take the echo


async def serve_ping(stream: trio.abc.HalfCloseableStream) -> None:
    """Echo 32-byte pings until the peer ends its direction.

    Raises `WireError` when it ends inside a ping, `trio.TooSlowError` when a begun ping is not completed or its echo
    not taken within `PING_TIMEOUT` seconds. Waiting for the next ping has no deadline: a ping stream may idle.
    """
    while chunk := await stream.receive_some():
        with trio.fail_after(PING_TIMEOUT):
            begun = len(chunk) % PING_SIZE
            whole, part = chunk[: len(chunk) - begun], chunk[len(chunk) - begun :]
            if whole:
                await stream.send_all(whole)
            while 0 < len(part) < PING_SIZE:
                # Never more than the rest of one ping: whoever ends each write inside a ping must not make us collect.
                more = await stream.receive_some(PING_SIZE - len(part))
                if not more:
                    raise WireError(f"a ping of {len(part)} bytes")
                part += more
            if part:
                await stream.send_all(part)


async def ping(stream: trio.abc.HalfCloseableStream, entropy: Callable[[int], bytes]) -> float:
    """Send one ping over an open ping stream and return the seconds until its echo was complete.

    Raises `WireError` when something else comes back or the stream ends early. The deadline is the caller's;
    cancelling leaves the stream unusable for further pings.
    """
    sent = entropy(PING_SIZE)
    started = trio.current_time()
    await stream.send_all(sent)
    echo = b""
    while len(echo) < PING_SIZE:
        chunk = await stream.receive_some(PING_SIZE - len(echo))
        if not chunk:
            raise WireError("the peer ended the ping stream without an answer")
        echo += chunk
    if echo != sent:
        raise WireError("the peer answered a ping with other bytes")
    return trio.current_time() - started
