"""A libp2p node for trio: `open_switch` is the way in.

    async with pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as switch: ...

Rule: names are imported when they are first used (PEP 562), so that what needs no network does not load trio.
`__init__.pyi` beside this file says the same to type checkers.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_ERRORS = (
    "AdmissionRefused",
    "AlreadyPublished",
    "AnswerLate",
    "Attempt",
    "BackingOff",
    "CertificateRefused",
    "ConnectFailed",
    "DataInUse",
    "Decline",
    "DialFailed",
    "DiscoveryError",
    "DialSelf",
    "IdentifyError",
    "InvalidEnr",
    "InvalidKey",
    "InvalidMultiaddr",
    "InvalidPeerId",
    "InvalidRlp",
    "JoinFailed",
    "LimitExceeded",
    "LocalProtocolError",
    "MessageTooLarge",
    "MultistreamError",
    "MuxerError",
    "NetworkFailure",
    "NoAddresses",
    "NoAnswer",
    "NoCommonProtocol",
    "NoEndpoint",
    "NobodyListens",
    "NoiseError",
    "NotSpoken",
    "NotAllowed",
    "NotTried",
    "P2PError",
    "PeerDeclined",
    "PeerIdMismatch",
    "ProtocolViolation",
    "PubsubError",
    "RecordError",
    "Refused",
    "RemoteClosed",
    "RemoteError",
    "RequestFailed",
    "RequestNotSendable",
    "ResolveError",
    "SecurityError",
    "StageTimeout",
    "Stopping",
    "TlsError",
    "WireError",
)
_PLACES = dict.fromkeys(_ERRORS, "pyp2p.errors") | {
    "AddressKind": "pyp2p.peer.address",
    "AllowAll": "pyp2p.switch.gater",
    "Backoff": "pyp2p.switch.config",
    "BlockList": "pyp2p.switch.gater",
    "Budget": "pyp2p.switch.limits",
    "CloseReason": "pyp2p.switch.facts",
    "Connected": "pyp2p.switch.events",
    "Connection": "pyp2p.switch.connection",
    "ConnectionGater": "pyp2p.switch.gater",
    "Direction": "pyp2p.io.handshake",
    "Disconnected": "pyp2p.switch.events",
    "Identified": "pyp2p.switch.events",
    "Identity": "pyp2p.peer.keys",
    "KeyType": "pyp2p.peer.keys",
    "Limits": "pyp2p.switch.config",
    "MuxerLimits": "pyp2p.muxers.base",
    "ListenAddrAdded": "pyp2p.switch.events",
    "ListenAddrRemoved": "pyp2p.switch.events",
    "Memory": "pyp2p.transports.memory",
    "Mplex": "pyp2p.muxers.mplex",
    "MuxedStream": "pyp2p.switch.stream",
    "Noise": "pyp2p.security.noise",
    "PeerId": "pyp2p.peer.id",
    "PeerStore": "pyp2p.peer.store",
    "Platform": "pyp2p.platform",
    "PublicKey": "pyp2p.peer.keys",
    "Quic": "pyp2p.quic.transport",
    "Service": "pyp2p.switch.service",
    "Stage": "pyp2p.trace",
    "Step": "pyp2p.trace",
    "StreamReset": "pyp2p.switch.stream",
    "Switch": "pyp2p.switch.switch",
    "SwitchConfig": "pyp2p.switch.config",
    "Tcp": "pyp2p.transports.tcp",
    "Timeouts": "pyp2p.switch.config",
    "Tls": "pyp2p.security.tls",
    "Trace": "pyp2p.trace",
    "WebSocket": "pyp2p.transports.ws",
    "Yamux": "pyp2p.muxers.yamux",
    "GossipParams": "pyp2p.pubsub.params",
    "ScoreParams": "pyp2p.pubsub.params",
    "TopicScoreParams": "pyp2p.pubsub.params",
    "Thresholds": "pyp2p.pubsub.params",
    "StrictSign": "pyp2p.pubsub.signing",
    "StrictNoSign": "pyp2p.pubsub.signing",
    "Message": "pyp2p.pubsub.types",
    "Verdict": "pyp2p.pubsub.types",
    "Pubsub": "pyp2p.pubsub.service",
    "Published": "pyp2p.pubsub.publication",
    "open_pubsub": "pyp2p.pubsub.service",
    "open_switch": "pyp2p.switch.switch",
    "parse_multiaddr": "pyp2p.peer.address",
}

__all__ = ["__version__", *sorted(_PLACES)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'pyp2p' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
