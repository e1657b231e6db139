"""Everything about a beacon network that its user may choose, with sane defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.beacon.subnets import CUSTODY_REQUIREMENT, NUMBER_OF_CUSTODY_GROUPS
from pyp2p.discv5.candidates import Known
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.types import Discv5Config
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.reqresp.declare import Limits
from pyp2p.switch.config import SwitchConfig, Timeouts

ADMISSION = 30.0  # seconds for all handshakes together: the status alone may take 10
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Advertised:
    """Where others reach us: an IP address and its ports, which need not be those that we listen on.

    `quic` None: the port on which QUIC is listened on, if it is.
    """

    ip: str
    tcp: int
    udp: int
    quic: int | None = None


@dataclass(frozen=True, slots=True)
class BeaconConfig:
    """How a `BeaconNetwork` is to be.

    `listen` are IP addresses and ports, of TCP and of discovery alike (0: any free ones), one of each IP version at
    most; QUIC has the UDP port `quic_port` of each (0: any free one), or the one after that of `listen`. `advertise`
    are those that our record names for good, else they are found out. `data` is the folder where key, numbers, nodes
    and peers are kept; None keeps nothing. `identity` (secp256k1) goes before the key of the folder.
    """

    chain: Chain
    data: Path | None = None
    identity: Identity | None = None
    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),)
    quic: bool = True  # listen on it and dial it, where it is installed (extra `quic`)
    quic_port: int | None = None
    advertise: tuple[Advertised, ...] | None = None
    discovery: bool = True
    bootnodes: tuple[Enr, ...] = ()  # beside those of the chain
    static_peers: tuple[Known, ...] = ()  # reconnected for ever, never pruned
    trusted_peers: tuple[Known, ...] = ()  # these as well, and not judged either
    agent: str = "pyp2p/0.1.0"
    long_lived_subnets: bool = True  # be on the attestation subnets that follow from our node id
    custody_group_count: int = CUSTODY_REQUIREMENT
    peers: PeerConfig = field(default_factory=PeerConfig)
    requests: Limits = field(default_factory=Limits)
    # Its `agent` is the one above; handshakes have deadlines of their own, within that of admission.
    switch: SwitchConfig = field(default_factory=lambda: SwitchConfig(timeouts=Timeouts(admission=ADMISSION)))
    discv5: Discv5Config = field(default_factory=Discv5Config)
    dials: int = 16  # attempts under way at once
    events: int = 64  # that a slow watcher may lag before it slows the network

    def __post_init__(self) -> None:
        """Raise `ValueError` that names the field that makes no sense."""
        if not self.listen:
            raise ValueError("listen: one address at least")
        versions = [":" in ip for ip, _ in self.listen]
        if len(set(versions)) < len(versions):
            raise ValueError("listen: one address of an IP version")
        self._check_quic()
        if not 0 <= self.custody_group_count <= NUMBER_OF_CUSTODY_GROUPS:
            raise ValueError(f"custody_group_count is 0 to {NUMBER_OF_CUSTODY_GROUPS}, not {self.custody_group_count}")
        if self.identity is not None and self.identity.public_key.type is not KeyType.SECP256K1:
            raise ValueError("identity: a beacon node has a key of type secp256k1")
        if not self.switch.identify:
            raise ValueError("switch.identify: a beacon node asks its peers who they are")
        for name in ("dials", "events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def quic_beside(self, port: int) -> int:
        """The UDP port of QUIC where `port` is that of TCP and discovery; 0: any free one."""
        if self.quic_port is not None:
            return self.quic_port
        return port + 1 if port else 0

    def _check_quic(self) -> None:
        if not self.quic:
            if self.quic_port is not None:
                raise ValueError(f"quic_port is {self.quic_port}, and quic is off")
            if any(each.quic is not None for each in self.advertise or ()):
                raise ValueError("advertise: a port of QUIC is named, and quic is off")
            return
        if self.quic_port is not None and not 0 <= self.quic_port <= _MAX_PORT:
            raise ValueError(f"quic_port is 0 to {_MAX_PORT}, not {self.quic_port}")
        for _, port in self.listen:
            if self.quic_beside(port) > _MAX_PORT:
                raise ValueError(f"listen: no port for QUIC comes after {port}: choose another, or a quic_port")
            if port and self.quic_beside(port) == port and self.discovery:
                raise ValueError(f"quic_port: UDP port {port} is that of discovery")
