"""The session after a TLS handshake: OpenSSL's records, both ways, without I/O.

Rules: pure. All that came is opened at once, so OpenSSL never holds more than the beginning of one record. What OpenSSL
has to say by itself (answers to key updates, alerts) leaves with the next bytes of ours. RFC 8446, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from OpenSSL import SSL

from pyp2p.errors import LocalProtocolError, TlsError
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import PublicKey
from pyp2p.security.base import Buffer

_RECORD: Final = 16384  # the most that one record holds
_OVERHEAD: Final = 22  # header, type and tag
_ROOM: Final = 1024  # for what OpenSSL has to say beside


class TlsChannel:
    """Seals and opens records for a proven `peer`; `early_muxer` is what ALPN agreed on, or None."""

    __slots__ = ("_broken", "_closed", "_connection", "_ended", "early_muxer", "peer", "peer_key")

    def __init__(self, connection: SSL.Connection, peer: PeerId, peer_key: PublicKey, early_muxer: str | None) -> None:
        self.peer = peer
        self.peer_key = peer_key
        self.early_muxer = early_muxer
        self._connection = connection
        self._broken = ""
        self._closed = False
        self._ended = False

    def seal(self, chunks: Sequence[Buffer]) -> bytes:
        """Encrypt the chunks, joined, into as few records as possible, ready for one write; nothing for no bytes.

        Raises `TlsError` when the channel is dead, `LocalProtocolError` after `close`.
        """
        if self._broken:
            raise TlsError(self._broken)
        if self._closed:
            raise LocalProtocolError("the channel is closed: nothing is sealed any more")
        size = sum(map(len, chunks))
        if not size:
            return b""
        try:
            self._connection.send(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        except SSL.Error as error:
            raise self._dies(error) from None
        return drain(self._connection, size + (size // _RECORD + 1) * _OVERHEAD + _ROOM)

    def open(self, data: bytes) -> list[bytes]:
        """Decrypt every complete record of what came so far, in order; keeps an incomplete tail.

        Raises `TlsError` for a record that does not authenticate and for an alert, and again on each later call; what
        stood before it in the same `data` is not delivered. After the peer's closing alert nothing more comes.
        """
        if self._broken:
            raise TlsError(self._broken)
        plaintexts: list[bytes] = []
        if self._ended:
            return plaintexts
        connection = self._connection
        if data:
            connection.bio_write(data)
        try:
            while True:
                plaintexts.append(connection.recv(_RECORD))
        except SSL.WantReadError:
            return plaintexts
        except SSL.ZeroReturnError:
            self._ended = True
            return plaintexts
        except SSL.Error as error:
            raise self._dies(error) from None

    def close(self) -> bytes:
        """The closing alert, or the one that says what was wrong; nothing is sealed afterwards."""
        if not self._closed and not self._broken:
            self._connection.shutdown()
        self._closed = True
        return drain(self._connection)

    def _dies(self, error: SSL.Error) -> TlsError:
        self._broken = f"TLS: {words(error)}"
        return TlsError(self._broken)


def drain(connection: SSL.Connection, size: int = 4096) -> bytes:
    """All that OpenSSL wants sent; `size` is what to expect."""
    parts: list[bytes] = []
    try:
        while True:
            part = connection.bio_read(size)
            if len(part) < size and not parts:
                return part
            parts.append(part)
    except SSL.WantReadError:
        return b"".join(parts)


def words(error: SSL.Error) -> str:
    """OpenSSL's reasons, the first one first."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(reason for _, _, reason in reasons) or repr(error)
