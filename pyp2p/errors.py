"""The whole error tree.

Rules: `RemoteError` means the peer broke a rule, `Refused` means we declined, `NoCommonProtocol` is nobody's fault,
`LocalProtocolError` is a bug of ours or of the caller. Callers tell them apart by type; texts are for people only.
Reading and writing streams raises trio's own errors (`switch/stream.py` adds `StreamReset`). No trio here: the
command line shows keys and addresses without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyp2p.trace import Stage, Trace

_SHOWN = 128  # characters of remote text that an error or a log line repeats


def printable(text: str | bytes, limit: int = _SHOWN) -> str:
    """Remote text made safe for a terminal or a log: control, bidi and non-ASCII characters escaped, cut at `limit`."""
    head = text[: limit + 1]
    if isinstance(head, bytes):
        try:
            shown = head.decode("utf-8")
        except UnicodeDecodeError:
            shown = head.decode("latin-1")
    else:
        shown = head
    escaped = shown[:limit].encode("unicode_escape").decode("ascii")
    return escaped if len(shown) <= limit else escaped + "..."


def describe(error: BaseException, limit: int = 300) -> str:
    """An error as one line for a log. Its text holds remote words escaped already: what is printable stays as it is."""
    text = f"{type(error).__name__}: {error}"
    shown = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return shown if len(text) <= limit else shown + "..."


def innermost(error: BaseException) -> BaseException:
    """What is wrapped in groups of one, as nurseries make them; a group of several as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Let what the block raises through without the groups of one that nurseries wrap it in."""
    try:
        yield
    except BaseExceptionGroup as group:
        alone = innermost(group)
        if alone is group:
            raise
        raise alone from alone.__cause__


class P2PError(Exception):
    """Base of every error that pyp2p raises on purpose."""


class RemoteError(P2PError):
    """The other side broke a rule of the protocol: the connection or stream ends, the peer is to blame."""


class WireError(RemoteError):
    """Bytes that are no value: a bad varint, a message over its bound, a malformed protobuf."""


class MultistreamError(RemoteError):
    """A violation of multistream-select."""


class WebSocketError(RemoteError):
    """A request or an answer by HTTP that opens no WebSocket; the text says what came in its place."""


class SecurityError(RemoteError):
    """A failed proof of identity or a broken secure channel."""


class NoiseError(SecurityError):
    """A violation of Noise or of the libp2p payload inside it."""


class TlsError(SecurityError):
    """A violation of TLS or a certificate that proves nothing; also the peer's refusal of ours."""


class PeerIdMismatch(SecurityError):
    """Somebody else answered: the proven peer id is not the one that was dialled."""

    def __init__(self, expected: object, got: object) -> None:
        super().__init__(f"expected peer {expected}, but {got} answered")
        self.expected = expected
        self.got = got


class MuxerError(RemoteError):
    """A violation of the stream multiplexer; `goaway_code` is what the peer is told (yamux: 1 protocol error)."""

    def __init__(self, reason: str, goaway_code: int = 1) -> None:
        super().__init__(reason)
        self.goaway_code = goaway_code


class IdentifyError(RemoteError):
    """An identify message that is malformed or over its bounds."""


class PubsubError(RemoteError):
    """A pubsub RPC or message that is malformed or over its bounds; the text names the bound."""


class PacketError(RemoteError):
    """A discv5 datagram that breaks a rule of the packet format; the text names the rule."""


class MessageError(RemoteError):
    """A decrypted discv5 message that is malformed or over its bounds; the text names the rule."""


class RequestIdTooLong(MessageError):
    """A discv5 message whose request id has more than 8 bytes: it can be neither answered nor matched."""


class RecordError(RemoteError):
    """A signed envelope or peer record that does not verify; the text names the rule."""


class InvalidKey(RemoteError):
    """A key protobuf or key material that is malformed, unsupported or out of bounds."""


class KeyFileError(P2PError):
    """A key file that cannot be read, written or understood; the text names it and why."""


class NoKeyInFile(KeyFileError):
    """A key file that was read and holds no private key."""


class KeyFileExists(KeyFileError):
    """A key file that is there already and was not to be replaced: whoever loses a key loses the peer id."""


class InvalidPeerId(RemoteError, ValueError):
    """A text or byte string that is no peer id."""


class InvalidMultiaddr(RemoteError, ValueError):
    """A text or byte string that is no multiaddr; `position` is the character or byte where it goes wrong."""

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason if position is None else f"{reason} (at position {position})")
        self.reason = reason
        self.position = position


class InvalidRlp(WireError):
    """Bytes that are not the one RLP encoding of a value; the text names the rule and the byte."""


class InvalidEnr(RemoteError, ValueError):
    """A text or byte string that is no valid node record; the text names the rule."""


class RemoteClosed(RemoteError):
    """The peer ended the connection where it still owed us bytes."""


class Refused(P2PError):
    """We declined: a limit, a gate, a backoff or an admission step said no. `code` is the name of its counter."""

    code = "refused"


class LimitExceeded(Refused):
    """A resource limit is reached; `limit` names the field of `Limits`."""

    def __init__(self, limit: str, detail: str) -> None:
        super().__init__(f"{detail} (limit {limit})")
        self.limit = limit
        self.detail = detail
        self.code = f"limit.{limit}"


class NotAllowed(Refused):
    """The connection gater said no at `stage` (dial, accept, secured, upgraded), perhaps with a reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"gater refused at {stage}: {reason}")
        self.stage = stage
        self.reason = reason
        self.code = f"gater.{stage}"


class BackingOff(Refused):
    """The address failed before; it is not dialled again until `until` (monotonic seconds)."""

    code = "backoff"

    def __init__(self, address: str, seconds: float, until: float) -> None:
        super().__init__(f"{address} failed lately; next try in {seconds:.1f} s")
        self.until = until


class DialSelf(Refused):
    """The target is this very node."""

    code = "dial_self"


class AdmissionRefused(Refused):
    """An admission step, ours or one whose handshake the peer failed, declined the connection; `reason` says why."""

    code = "admission"

    def __init__(self, reason: str) -> None:
        super().__init__(f"not admitted: {reason}")
        self.reason = reason


class Stopping(Refused):
    """The switch is stopping and starts nothing new."""

    code = "stopping"


class DataInUse(Refused):
    """Another process runs with this data folder; `pid` is that process, None when it did not say."""

    code = "data_in_use"

    def __init__(self, folder: str, pid: int | None) -> None:
        whom = "another process" if pid is None else f"process {pid}"
        super().__init__(f"the data folder {printable(folder, 200)} is in use by {whom}")
        self.pid = pid


class NoCommonProtocol(P2PError):
    """An honest disagreement: the peer speaks none of the protocols that were `offered`."""

    def __init__(self, offered: Sequence[str], detail: str = "") -> None:
        names = ", ".join(printable(name) for name in offered[:8])
        super().__init__(f"the peer speaks none of: {names}" + (f" ({detail})" if detail else ""))
        self.offered = tuple(offered)


class StageTimeout(P2PError):
    """A total deadline passed while the connection was at `stage`; `why` says what was waited for, if that is known."""

    def __init__(self, stage: Stage, seconds: float, why: str = "") -> None:
        passed = f"no progress at {stage.value}: the deadline of {seconds:g} s passed"
        super().__init__(f"{passed}: {why}" if why else passed)
        self.stage = stage
        self.seconds = seconds


class ResolveError(P2PError):
    """A DNS name gave no usable address."""


class ConnectFailed(P2PError):
    """The operating system could not open the connection (refused, unreachable, no route)."""


class CertificateRefused(ConnectFailed):
    """The certificate of a `/wss` server is not trusted, or is for another name; the text has OpenSSL's words."""


class NoAddresses(P2PError):
    """There is nothing to dial: the peer has no address that any transport handles."""


class NotTried(P2PError):
    """An address whose turn did not come before the dial was over."""


class MessageTooLarge(P2PError):
    """A message of ours would make an RPC of `size` bytes where `limit` are allowed: nothing was sent."""

    def __init__(self, topic: str, size: int, limit: int) -> None:
        super().__init__(f"a message for topic {printable(topic)} takes {size} bytes, at most {limit} are allowed")
        self.topic = topic
        self.size = size
        self.limit = limit


class AlreadyPublished(P2PError):
    """A message with the same id was seen or published within the time that ids are remembered: it was not sent."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"the same message of topic {printable(topic)} was published before")
        self.topic = topic


class NobodyListens(P2PError):
    """No peer is there to take a message of `topic`: it was sent to nobody."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"no peer listens to topic {printable(topic)}")
        self.topic = topic


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that was tried: how far it came, why it ended, and its trace."""

    address: str
    stage: Stage
    error: BaseException
    trace: Trace

    @property
    def reason(self) -> str:
        """The error as one line."""
        return str(self.error) or type(self.error).__name__


class DialFailed(P2PError):
    """No address of the peer led to a connection; `attempts` holds each address, the stage it reached and why."""

    def __init__(self, peer: object | None, attempts: Sequence[Attempt]) -> None:
        self.peer = peer
        self.attempts = list(attempts)
        lines = [f"  {a.address + ': ' if a.address else ''}at {a.stage.value}: {a.reason}" for a in self.attempts]
        super().__init__("\n".join([f"could not connect to {'peer' if peer is None else peer}", *lines]))

    @property
    def furthest(self) -> Attempt | None:
        """The attempt that reached the latest stage (the newest of equals); None when nothing was tried."""
        best: Attempt | None = None
        for attempt in self.attempts:
            if best is None or attempt.stage.order >= best.stage.order:
                best = attempt
        return best


class JoinFailed(P2PError):
    """No bootstrap node was reached within `seconds`; `bootstraps` tells of each how far it came, as its text does."""

    def __init__(self, bootstraps: Sequence[object], seconds: float) -> None:
        self.bootstraps = tuple(bootstraps)
        lines = "".join(f"\n  {each}" for each in self.bootstraps)
        super().__init__(f"none of {len(self.bootstraps)} bootstrap nodes was reached within {seconds:g} s{lines}")


class RequestFailed(P2PError):
    """A request to `peer` over `protocol` without a whole answer; the type says whose doing that was."""

    def __init__(self, peer: object, protocol: str, reason: str) -> None:
        super().__init__(f"{printable(protocol)} of {peer}: {reason}")
        self.peer = peer
        self.protocol = protocol
        self.reason = reason


class NetworkFailure(RequestFailed):
    """No connection, no answer in time, a stream that was reset: nobody broke a rule."""


class AnswerLate(NetworkFailure):
    """No whole answer within the deadline."""


class NotSpoken(NetworkFailure):
    """The peer does not speak the protocol that was asked for."""


class ProtocolViolation(RequestFailed, RemoteError):
    """The peer sent what the declaration of the protocol does not allow; of the failures of requests the only one that
    may cost a peer its score."""


class PeerDeclined(RequestFailed):
    """A legal error chunk: the result `code` that the peer gave, and its `text`, escaped."""

    def __init__(self, peer: object, protocol: str, code: int, text: str) -> None:
        super().__init__(peer, protocol, f"declined with code {code}" + (f": {text}" if text else ""))
        self.code = code
        self.text = text


class RequestNotSendable(RequestFailed):
    """A request that is out of its bounds, or too many wait already: nothing was sent."""


class Decline(P2PError):
    """Raised by a handler of requests: the asker is answered with an error chunk of result `code` and `text`."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(f"declined with code {code}" + (f": {printable(text)}" if text else ""))
        self.code = code
        self.text = text


class LocalProtocolError(ValueError):
    """Misuse of a protocol object: a bug in pyp2p or in the caller, never caught by pyp2p."""


class DiscoveryError(P2PError):
    """A request of discv5 that failed; the text says which node and why."""


class NoAnswer(DiscoveryError):
    """The node did not answer in time, however often it was asked."""


class TooManyRequests(DiscoveryError):
    """As many requests are under way as may be; nothing was sent."""


class NoEndpoint(DiscoveryError):
    """The node's record names no address that we can send to."""
