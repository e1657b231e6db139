"""Settings that make no sense are told when they are made: else the first datagram of a stranger would find out."""

from __future__ import annotations


def at_least(name: str, value: int, least: int) -> None:
    """Raise `ValueError` for a number below `least`."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def above_zero(name: str, value: float) -> None:
    """Raise `ValueError` unless a number is above zero."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")
