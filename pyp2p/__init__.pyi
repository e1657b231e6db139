"""The public names, for type checkers; `__init__.py` imports them when they are used."""

from pyp2p.errors import (
    AdmissionRefused as AdmissionRefused,
    Attempt as Attempt,
    BackingOff as BackingOff,
    ConnectFailed as ConnectFailed,
    DialFailed as DialFailed,
    DialSelf as DialSelf,
    IdentifyError as IdentifyError,
    InvalidKey as InvalidKey,
    InvalidMultiaddr as InvalidMultiaddr,
    InvalidPeerId as InvalidPeerId,
    LimitExceeded as LimitExceeded,
    LocalProtocolError as LocalProtocolError,
    MultistreamError as MultistreamError,
    MuxerError as MuxerError,
    NoAddresses as NoAddresses,
    NoCommonProtocol as NoCommonProtocol,
    NoiseError as NoiseError,
    NotAllowed as NotAllowed,
    NotConnected as NotConnected,
    P2PError as P2PError,
    PeerIdMismatch as PeerIdMismatch,
    RecordError as RecordError,
    Refused as Refused,
    RemoteClosed as RemoteClosed,
    RemoteError as RemoteError,
    ResolveError as ResolveError,
    SecurityError as SecurityError,
    StageTimeout as StageTimeout,
    Stopping as Stopping,
    WireError as WireError,
)
from pyp2p.io.handshake import (
    Direction as Direction,
)
from pyp2p.muxers.mplex import (
    Mplex as Mplex,
)
from pyp2p.muxers.yamux import (
    Yamux as Yamux,
)
from pyp2p.peer.address import (
    AddressKind as AddressKind,
    parse_multiaddr as parse_multiaddr,
)
from pyp2p.peer.id import (
    PeerId as PeerId,
)
from pyp2p.peer.keys import (
    Identity as Identity,
    KeyType as KeyType,
    PublicKey as PublicKey,
)
from pyp2p.peer.store import (
    PeerStore as PeerStore,
)
from pyp2p.platform import (
    Platform as Platform,
)
from pyp2p.security.noise import (
    Noise as Noise,
)
from pyp2p.switch.config import (
    Backoff as Backoff,
    Limits as Limits,
    SwitchConfig as SwitchConfig,
    Timeouts as Timeouts,
)
from pyp2p.switch.connection import (
    CloseReason as CloseReason,
    Connection as Connection,
)
from pyp2p.switch.events import (
    Connected as Connected,
    Disconnected as Disconnected,
    Identified as Identified,
    ListenAddrAdded as ListenAddrAdded,
    ListenAddrRemoved as ListenAddrRemoved,
)
from pyp2p.switch.service import (
    Service as Service,
)
from pyp2p.switch.stream import (
    MuxedStream as MuxedStream,
    StreamReset as StreamReset,
)
from pyp2p.switch.switch import (
    Switch as Switch,
    open_switch as open_switch,
)
from pyp2p.trace import (
    Stage as Stage,
    Step as Step,
    Trace as Trace,
)
from pyp2p.transports.memory import (
    Memory as Memory,
)
from pyp2p.transports.tcp import (
    Tcp as Tcp,
)

__version__: str
