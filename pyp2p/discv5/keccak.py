"""Keccak-256, the hash of Ethereum before SHA-3 was padded otherwise: the one file that knows which library does it.

Needs pycryptodome, which the extra `discv5` installs.
"""

from __future__ import annotations

try:
    from Crypto.Hash import keccak
except ImportError as error:
    raise ImportError("pyp2p.discv5.keccak needs the package pycryptodome: install pyp2p[discv5]") from error


def keccak256(data: bytes) -> bytes:
    """The digest of 32 bytes."""
    return keccak.new(data=data, digest_bits=256).digest()
