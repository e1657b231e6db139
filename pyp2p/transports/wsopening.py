"""The HTTP exchange that opens a WebSocket, as a `Handshake`: RFC 6455, section 4, by wsproto and h11.

Rules: pure. Only the head of a request or answer is given to wsproto; what follows it are frames, and the `leftover`.
No subprotocol and no extension is offered or agreed to. Bounds: h11's, 16 KiB of a head that is not complete.
"""

from __future__ import annotations

import re
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from pyp2p.errors import WebSocketError, printable

_BLANK_LINE = re.compile(rb"\n\r?\n")  # as h11 finds the end of a head
_SHOWN = 60  # characters of the first line in an error


class Opening:
    """One end of the exchange: a dialler asks for a WebSocket at `authority`, a listener (None) answers."""

    def __init__(self, authority: str | None) -> None:
        self.dialler = authority is not None
        self._http = WSConnection(ConnectionType.CLIENT if self.dialler else ConnectionType.SERVER)
        self._out = b"" if authority is None else self._http.send(Request(host=authority, target="/"))
        self._seen = b""  # the last bytes, where a blank line may have begun
        self._first = b""
        self._done = False
        self._leftover = b""

    @property
    def done(self) -> bool:
        """True when both have agreed; a listener's answer may still have to be sent."""
        return self._done

    @property
    def result(self) -> None:
        """Nothing: there is nothing to choose."""
        return

    @property
    def leftover(self) -> bytes:
        """The first frames."""
        return self._leftover

    def feed(self, data: bytes) -> None:
        """Take what came. Raises `WebSocketError` for who asks or answers otherwise; a refusal is then to be sent."""
        while data and not self._done:
            blank = _BLANK_LINE.search(self._seen + data)
            end = blank.end() - len(self._seen) if blank else len(data)
            head, data = data[:end], data[end:]
            self._seen = b"" if blank else (self._seen + head)[-2:]
            self._first += head[: _SHOWN - len(self._first)]
            try:
                self._http.receive_data(head)
                for event in self._http.events():
                    self._judge(event)
            except (RemoteProtocolError, UnicodeError) as error:  # wsproto takes headers for ASCII
                raise self._wrong(error) from error
        self._leftover = data

    def take_output(self) -> bytes:
        """The request, or the answer."""
        out, self._out = self._out, b""
        return out

    def _judge(self, event: Event) -> None:
        if isinstance(event, RejectConnection):
            where = next((value for name, value in event.headers if name.lower() == b"location"), None)
            leads = "" if where is None else f", which leads to {printable(where)}: no redirect is followed"
            raise WebSocketError(f"the server answered the WebSocket request with HTTP {event.status_code}{leads}")
        if isinstance(event, Request):
            self._out = self._http.send(AcceptConnection())
        self._done = True

    def _wrong(self, error: RemoteProtocolError | UnicodeError) -> WebSocketError:
        line = printable(self._first.partition(b"\n")[0].rstrip(), _SHOWN)
        why = printable(str(error), 200)
        if self.dialler:
            return WebSocketError(f'no WebSocket answers there, but "{line}": {why}')
        hint = error.event_hint if isinstance(error, RemoteProtocolError) else RejectConnection()
        if isinstance(hint, RejectConnection):
            with suppress(LocalProtocolError):  # nothing can be answered to what is no HTTP
                self._out = self._http.send(hint)
        return WebSocketError(f'no WebSocket request, but "{line}": {why}')
