"""What a switch speaks when it is not told: everything that is installed, what is most common first.

Rules: TCP, Noise and both muxers are always there. TLS needs the extra `tls`, WebSocket `ws` and QUIC `quic`; `Tls`,
`WebSocket` and `Quic` are None without.
"""

from __future__ import annotations

from collections.abc import Callable

from pyp2p.muxers.base import MuxerFactory
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.security.base import Security
from pyp2p.security.noise import Noise
from pyp2p.transports.base import Transport
from pyp2p.transports.tcp import Tcp

try:
    from pyp2p.quic.transport import Quic
except ImportError:
    Quic = None  # type: ignore[assignment,misc]  # mypy has no type for "a class or None"
try:
    from pyp2p.security.tls import Tls
except ImportError:
    Tls = None  # type: ignore[assignment,misc]
try:
    from pyp2p.transports.ws import WebSocket
except ImportError:
    WebSocket = None  # type: ignore[assignment,misc]

__all__ = ["Quic", "Tls", "WebSocket", "default_muxers", "default_securities", "default_transports"]


def default_transports() -> list[Transport]:
    """TCP, WebSocket over it, and QUIC: which address is tried first is the ranker's matter."""
    installed: list[Callable[[], Transport] | None] = [Tcp, WebSocket, Quic]
    return [made() for made in installed if made is not None]


def default_securities() -> list[Security]:
    """Noise, then TLS: a dialler proposes the first alone, and the rest to who declines it."""
    return [Noise()] if Tls is None else [Noise(), Tls()]


def default_muxers() -> list[MuxerFactory]:
    """Yamux, then Mplex."""
    return [Yamux(), Mplex()]
