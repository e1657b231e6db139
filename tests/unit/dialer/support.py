"""A core with networks, and made-up peers and calls."""

import random

from pyp2p.dialer.core import Dial, Dialer
from pyp2p.dialer.tables import DialerConfig
from pyp2p.peer.address import parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.store import Source
from pyp2p.trace import Stage

A, B = "alpha", "beta"


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


def address(number: int, port: int = 4001):
    return parse_multiaddr(f"/ip4/50.0.{number // 250}.{number % 250 + 1}/tcp/{port}")


def dialer(*nets: str, seed: int = 1, **config: float) -> Dialer:
    made = Dialer(DialerConfig(**config), random.Random(seed))  # type: ignore[arg-type]
    for net in nets or (A,):
        made.add_network(net)
    return made


def tell(core: Dialer, *numbers: int, net: str = A, now: float = 0, source: Source = Source.DISCOVERY, **options):
    return [core.candidate(net, peer(number), [address(number)], source, now, **options) for number in numbers]


def dials(core: Dialer, now: float) -> list[tuple[str, PeerId]]:
    return [(effect.network, effect.peer) for effect in core.poll(now) if isinstance(effect, Dial)]


def dialled(core: Dialer, now: float) -> list[PeerId]:
    return [each for _, each in dials(core, now)]


def fail(core: Dialer, number: int, now: float, net: str = A):
    return core.attempt_failed(net, peer(number), Stage.CONNECT, "refused", now)
