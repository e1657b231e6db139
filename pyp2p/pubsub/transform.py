"""Data transforms: between what the application publishes and what stands in a message.

Rules: pure, and bounded in what an inbound message can become. `snappy.py` has the one of eth2.
"""

from __future__ import annotations

from typing import Protocol


class DataTransform(Protocol):
    """Changes the data of messages on their way out and in."""

    def outbound(self, topic: str, payload: bytes) -> bytes:
        """The data of a message. Raises `LocalProtocolError` when the payload is over a bound."""
        ...

    def inbound(self, topic: str, data: bytes) -> bytes | None:
        """The payload; None when the data is malformed or over a bound. Raises nothing."""
        ...


class Plain:
    """The data is the payload."""

    def outbound(self, topic: str, payload: bytes) -> bytes:
        """`payload` itself."""
        return payload

    def inbound(self, topic: str, data: bytes) -> bytes | None:
        """`data` itself."""
        return data
