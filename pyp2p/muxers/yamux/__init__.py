"""Yamux, the stream multiplexer of choice: flow control per stream, half-close, ping, GoAway."""

from pyp2p.muxers.yamux.core import Yamux, YamuxSession

__all__ = ["Yamux", "YamuxSession"]
