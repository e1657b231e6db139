"""What went wrong, as an exit code, a stage and one paragraph: what was tried, what came back, what to try next.

Rules: pure, and chosen by the type of the error and the stage it happened at, never by its text. Texts of errors hold
remote words only escaped and bounded (pyp2p/errors.py); `clean` makes sure once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyp2p.errors import (
    Attempt,
    CertificateRefused,
    ConnectFailed,
    DialFailed,
    DialSelf,
    NoAddresses,
    NoCommonProtocol,
    P2PError,
    PeerIdMismatch,
    Refused,
    RemoteClosed,
    ResolveError,
    StageTimeout,
)
from pyp2p.trace import Stage, Trace

OK: Final = 0
USAGE: Final = 2
WRONG_PEER: Final = 13
TIMEOUT: Final = 16
LIMITS: Final = 17
INTERRUPTED: Final = 130
STAGE_CODES: Final = {
    Stage.RESOLVE: 10,
    Stage.CONNECT: 11,
    Stage.SECURITY_SELECT: 12,
    Stage.HANDSHAKE: 12,
    Stage.MUXER_SELECT: 14,
    Stage.IDENTIFY: 15,
    Stage.ADMISSION: 15,
    Stage.PROTOCOL: 15,
}

_REACHED = {
    Stage.RESOLVE: "the name could not be resolved",
    Stage.CONNECT: "the connection could not be opened",
    Stage.SECURITY_SELECT: "the connection was opened, but no security protocol was agreed on",
    Stage.HANDSHAKE: "a security protocol was agreed on, but its handshake did not succeed",
    Stage.MUXER_SELECT: "the peer proved who it is, but no stream multiplexer was agreed on",
    Stage.IDENTIFY: "the connection was made, but the peer did not say what it is",
    Stage.ADMISSION: "the connection was made, but not admitted",
    Stage.PROTOCOL: "the connection was made, but the protocol did not succeed",
}
_HANG_ADVICE = {
    Stage.RESOLVE: "Check the name and this machine's DNS, or give an IP address.",
    Stage.CONNECT: "A firewall or NAT may drop the packets, or the host is down: check the address.",
    Stage.SECURITY_SELECT: "What listens there accepts connections and says nothing: it may be no libp2p node, or one "
    "that is stuck or over its limits.",
    Stage.HANDSHAKE: "The peer began and stopped: it may be overloaded. Try again, or raise --timeout.",
    Stage.MUXER_SELECT: "The peer stopped answering after the handshake. Try --muxer yamux or --muxer mplex.",
    Stage.IDENTIFY: "The connection itself works: try `pyp2p ping`, or ask the peer's operator.",
}
_OTHER_ADVICE = {
    Stage.CONNECT: "Check the address and the port, and that this machine has a route to it.",
    Stage.SECURITY_SELECT: "Check the port: something else than a libp2p node may be serving it.",
    Stage.HANDSHAKE: "The two implementations disagree about the handshake, or something on the way changes the "
    "bytes: see --trace and -vv.",
    Stage.MUXER_SELECT: "Try --muxer yamux or --muxer mplex; see --trace.",
    Stage.IDENTIFY: "The connection itself works: try `pyp2p ping`.",
}
# In Noise the dialer learns that the peer does not accept its key only by what comes next: nothing.
_HUNG_UP_ADVICE = {
    Stage.MUXER_SELECT: "The peer hung up after our part of the handshake: it may not accept our kind of key (try "
    "without --key, or an ed25519 one), or have no multiplexer in common with us (leave --muxer out).",
    Stage.IDENTIFY: "The peer hung up as soon as the connection was made: it may not accept our kind of key (try "
    "without --key, or an ed25519 one), or take no more connections.",
}
_DECLINED_ADVICE = {
    Stage.SECURITY_SELECT: "It speaks another security protocol: leave --security out to offer Noise and TLS (which "
    "needs `pip install pyp2p[tls]`).",
    Stage.MUXER_SELECT: "It speaks another multiplexer: leave --muxer out to offer all that pyp2p has.",
}

# Of these errors the type alone says it; the first that fits.
_ANYWHERE_ADVICE: Final[tuple[tuple[type[P2PError], str], ...]] = (
    (DialSelf, "Use another --key, or none."),
    (Refused, "A limit or rule of this node said no, not the peer."),
    (
        NoAddresses,
        "pyp2p speaks TCP, WebSocket and QUIC (the last two with `pip install pyp2p[ws,quic]`): look for an "
        "address of the peer like /ip4/IP/tcp/PORT or /ip4/IP/udp/PORT/quic-v1, and leave --transport out.",
    ),
    (ResolveError, _HANG_ADVICE[Stage.RESOLVE]),
    (
        CertificateRefused,
        "--insecure goes on without judging it: the peer proves itself inside. Or its operator gives it a certificate "
        "for this name, from an authority that this machine trusts (`pyp2p listen --web-cert`).",
    ),
    (ConnectFailed, "Check that the node runs and listens on this address and port (`pyp2p listen` starts one)."),
)


def clean(text: str) -> str:
    """Printable ASCII as it is, everything else escaped; for text whose remote parts are escaped already."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


class CommandFailed(Exception):
    """A command's failure, ready to be shown: `stage`, exit `code`, `reason` and `advice` in words, every attempt."""

    def __init__(
        self,
        stage: str,
        code: int,
        reason: str,
        advice: str = "",
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(reason)
        self.stage = stage
        self.code = code
        self.reason = reason
        self.advice = advice
        self.attempts = list(attempts)
        self.facts: dict[str, object] = {}  # further fields of the error line

    def as_json(self) -> dict[str, object]:
        """The fields of the error line."""
        return {
            "stage": self.stage,
            "reason": self.reason,
            "advice": self.advice,
            "code": self.code,
            "attempts": [
                {
                    "address": attempt.address,
                    "stage": attempt.stage.value,
                    "reason": clean(attempt.reason),
                    "trace": attempt.trace.as_json(),
                }
                for attempt in self.attempts
            ],
            **self.facts,
        }


class UsageError(CommandFailed):
    """The command was asked for something that makes no sense."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__("usage", USAGE, reason, advice)


def exit_code(stage: Stage, error: BaseException) -> int:
    """The exit code for an error at a stage."""
    match error:
        case StageTimeout():
            return TIMEOUT
        case PeerIdMismatch():
            return WRONG_PEER
        case Refused():
            return LIMITS
    return STAGE_CODES[stage]


def dial_failure(error: BaseException, target: str) -> CommandFailed:
    """What `Switch.connect(target)` raised."""
    if not isinstance(error, DialFailed):
        return step_failure(Stage.CONNECT, error, f"Tried {target}")
    furthest = error.furthest
    if furthest is None:
        return CommandFailed(Stage.RESOLVE.value, STAGE_CODES[Stage.RESOLVE], f"Tried {target}: it has no address")
    where = furthest.address or target
    if len(error.attempts) == 1:
        tried = f"Tried {where}"
    else:
        tried = f"Tried {len(error.attempts)} addresses of {target}; the attempt that got furthest was {where}"
    return step_failure(furthest.stage, furthest.error, tried, error.attempts)


def step_failure(stage: Stage, error: BaseException, tried: str, attempts: Sequence[Attempt] = ()) -> CommandFailed:
    """An error at a stage; `tried` is the beginning of the paragraph."""
    code = exit_code(stage, error)
    trace = next((attempt.trace for attempt in attempts if attempt.error is error), None)
    reason = clean(f"{tried}: {_happened(stage, error, trace)}.")
    failure = CommandFailed(stage.value, code, reason, _advice(stage, error, trace), attempts)
    if isinstance(error, PeerIdMismatch):
        failure.facts = {"expected": str(error.expected), "got": str(error.got)}
    return failure


def _is_on_top(stage: Stage, trace: Trace | None) -> bool:
    """True when connecting failed at a further step, of TLS or a WebSocket: what they go over is open."""
    return trace is not None and stage is Stage.CONNECT and [step.stage for step in trace.steps].count(stage) > 1


def _happened(stage: Stage, error: BaseException, trace: Trace | None) -> str:
    """`trace`: of the attempt that failed, where it is known."""
    reached = _REACHED[stage]
    came = trace.current.bytes_in if trace is not None else 0
    if trace is not None and _is_on_top(stage, trace):
        reached = f"the connection was opened, but {trace.current.detail} did not come about"
    text = str(error) or type(error).__name__
    match error:
        case StageTimeout():
            what = f"only {came} bytes came back" if came else "nothing came back"
            return f"{reached}; {what} within {error.seconds:g} s"
        case PeerIdMismatch():
            return f"somebody else answered: expected peer {error.expected}, but {error.got} proved to be there"
        case DialSelf():
            return "the node at the other end has our own peer id"
        case Refused():
            return f"we declined ourselves: {text}"
        case RemoteClosed():
            return f"{reached}; the peer closed it"
        case NoAddresses() | ResolveError() | ConnectFailed():
            return text
    return f"{reached}: {text}"


def _advice(stage: Stage, error: BaseException, trace: Trace | None) -> str:
    advice = _OTHER_ADVICE.get(stage, "See --trace and -vv for what happened on the way.")
    match error:
        case StageTimeout():
            hung = Stage.SECURITY_SELECT if _is_on_top(stage, trace) else stage
            advice = _HANG_ADVICE.get(hung, "Try again, or raise --timeout.")
        case PeerIdMismatch():
            advice = (
                f"If this is the node you mean, it has a new key: use /p2p/{error.got}, or leave /p2p out. "
                "Otherwise the address is out of date, or somebody pretends to be it."
            )
        case NoCommonProtocol():
            advice = _DECLINED_ADVICE.get(stage, "`pyp2p identify` shows which protocols the peer speaks.")
        case _ if isinstance(error, RemoteClosed) or not isinstance(error, P2PError):
            advice = _HUNG_UP_ADVICE.get(stage, advice)
    return next((always for kind, always in _ANYWHERE_ADVICE if isinstance(error, kind)), advice)
