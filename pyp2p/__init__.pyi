"""The public names, for type checkers; `__init__.py` imports them when they are used."""

from pyp2p.errors import (
    AdmissionRefused,
    AlreadyPublished,
    AnswerLate,
    Attempt,
    BackingOff,
    CertificateRefused,
    ConnectFailed,
    DataInUse,
    Decline,
    DialFailed,
    DialSelf,
    DiscoveryError,
    IdentifyError,
    InvalidEnr,
    InvalidKey,
    InvalidMultiaddr,
    InvalidPeerId,
    InvalidRlp,
    JoinFailed,
    LimitExceeded,
    LocalProtocolError,
    MessageTooLarge,
    MultistreamError,
    MuxerError,
    NetworkFailure,
    NoAddresses,
    NoAnswer,
    NobodyListens,
    NoCommonProtocol,
    NoEndpoint,
    NoiseError,
    NotAllowed,
    NotSpoken,
    NotTried,
    P2PError,
    PeerDeclined,
    PeerIdMismatch,
    ProtocolViolation,
    PubsubError,
    RecordError,
    Refused,
    RemoteClosed,
    RemoteError,
    RequestFailed,
    RequestNotSendable,
    ResolveError,
    SecurityError,
    StageTimeout,
    Stopping,
    TlsError,
    WireError,
)
from pyp2p.io.handshake import Direction
from pyp2p.muxers.base import MuxerLimits
from pyp2p.muxers.mplex import Mplex
from pyp2p.muxers.yamux import Yamux
from pyp2p.peer.address import AddressKind, parse_multiaddr
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity, KeyType, PublicKey
from pyp2p.peer.store import PeerStore
from pyp2p.platform import Platform
from pyp2p.pubsub.params import GossipParams, ScoreParams, Thresholds, TopicScoreParams
from pyp2p.pubsub.publication import Published
from pyp2p.pubsub.service import Pubsub, open_pubsub
from pyp2p.pubsub.signing import StrictNoSign, StrictSign
from pyp2p.pubsub.types import Message, Verdict
from pyp2p.quic.transport import Quic
from pyp2p.security.noise import Noise
from pyp2p.security.tls import Tls
from pyp2p.switch.config import Backoff, Limits, SwitchConfig, Timeouts
from pyp2p.switch.connection import Connection
from pyp2p.switch.events import Connected, Disconnected, Identified, ListenAddrAdded, ListenAddrRemoved
from pyp2p.switch.facts import CloseReason
from pyp2p.switch.gater import AllowAll, BlockList, ConnectionGater
from pyp2p.switch.limits import Budget
from pyp2p.switch.service import Service
from pyp2p.switch.stream import MuxedStream, StreamReset
from pyp2p.switch.switch import Switch, open_switch
from pyp2p.trace import Stage, Step, Trace
from pyp2p.transports.memory import Memory
from pyp2p.transports.tcp import Tcp
from pyp2p.transports.ws import WebSocket

__version__: str

__all__ = [
    "AddressKind",
    "AdmissionRefused",
    "AllowAll",
    "AlreadyPublished",
    "AnswerLate",
    "Attempt",
    "BackingOff",
    "Backoff",
    "BlockList",
    "Budget",
    "CertificateRefused",
    "CloseReason",
    "ConnectFailed",
    "Connected",
    "Connection",
    "ConnectionGater",
    "DataInUse",
    "Decline",
    "DialFailed",
    "DialSelf",
    "Direction",
    "Disconnected",
    "DiscoveryError",
    "GossipParams",
    "Identified",
    "IdentifyError",
    "Identity",
    "InvalidEnr",
    "InvalidKey",
    "InvalidMultiaddr",
    "InvalidPeerId",
    "InvalidRlp",
    "JoinFailed",
    "KeyType",
    "LimitExceeded",
    "Limits",
    "ListenAddrAdded",
    "ListenAddrRemoved",
    "LocalProtocolError",
    "Memory",
    "Message",
    "MessageTooLarge",
    "Mplex",
    "MultistreamError",
    "MuxedStream",
    "MuxerError",
    "MuxerLimits",
    "NetworkFailure",
    "NoAddresses",
    "NoAnswer",
    "NoCommonProtocol",
    "NoEndpoint",
    "NobodyListens",
    "Noise",
    "NoiseError",
    "NotAllowed",
    "NotSpoken",
    "NotTried",
    "P2PError",
    "PeerDeclined",
    "PeerId",
    "PeerIdMismatch",
    "PeerStore",
    "Platform",
    "ProtocolViolation",
    "PublicKey",
    "Published",
    "Pubsub",
    "PubsubError",
    "Quic",
    "RecordError",
    "Refused",
    "RemoteClosed",
    "RemoteError",
    "RequestFailed",
    "RequestNotSendable",
    "ResolveError",
    "ScoreParams",
    "SecurityError",
    "Service",
    "Stage",
    "StageTimeout",
    "Step",
    "Stopping",
    "StreamReset",
    "StrictNoSign",
    "StrictSign",
    "Switch",
    "SwitchConfig",
    "Tcp",
    "Thresholds",
    "Timeouts",
    "Tls",
    "TlsError",
    "TopicScoreParams",
    "Trace",
    "Verdict",
    "WebSocket",
    "WireError",
    "Yamux",
    "__version__",
    "open_pubsub",
    "open_switch",
    "parse_multiaddr",
]
