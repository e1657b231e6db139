"""Multibase: bytes as text whose first character names the base (multiformats/multibase).

Rules: 16, 32, 36, 58 and 64 in their variants, which is what peer ids and certificate hashes are written in. Bases
whose decoding takes quadratic time are bounded here; the caller bounds the others. Every failure is a ValueError.
"""

from __future__ import annotations

import base64

import base58

MAX_POSITIONAL = 128  # characters of base58 and base36: 10,000 take 56 ms, 100,000 more than 5 s
_HEX32 = bytes.maketrans(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567!!!!")


def decode(text: str) -> bytes:
    """The bytes of `text`; letters of bases without upper and lower case may be either."""
    if not text.isascii() or len(text) < 2:
        raise ValueError("no multibase text")
    base, digits = text[0], text[1:]
    if base in "fF" and digits.isalnum():  # fromhex would skip white space
        return bytes.fromhex(digits)
    if base in "bB":
        return decode_base32(digits)
    if base in "cC":
        return base64.b32decode(digits.upper())
    if base in "vV":
        return decode_base32(digits.upper().encode("ascii").translate(_HEX32).decode("ascii"))
    if base in "kK":
        return _base36(digits)
    if base == "z":
        return decode_base58(digits)
    if base in "mu" and "=" not in digits:
        return _base64(digits + "=" * (-len(digits) % 4), url=base == "u")
    if base in "MU":
        return _base64(digits, url=base == "U")
    raise ValueError("unknown multibase")


def decode_base58(digits: str) -> bytes:
    """Base58 in the Bitcoin alphabet, at most 128 characters. White space is refused (the library would strip it)."""
    if not digits.isascii() or not digits.isalnum() or len(digits) > MAX_POSITIONAL:
        raise ValueError("no base58 text of bounded length")
    return base58.b58decode(digits)


def decode_base32(digits: str) -> bytes:
    """RFC 4648 base32 without padding, either case; spare bits at the end are ignored."""
    if "=" in digits:
        raise ValueError("unpadded base32 with padding")
    return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))


def encode_base32(data: bytes) -> str:
    """RFC 4648 base32, lower case, without padding; without the multibase letter."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def encode_base64url(data: bytes) -> str:
    """RFC 4648 base64url without padding; without the multibase letter."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _base64(digits: str, url: bool) -> bytes:
    return base64.b64decode(digits, altchars=b"-_" if url else b"+/", validate=True)


def _base36(digits: str) -> bytes:
    if not digits.isalnum() or len(digits) > MAX_POSITIONAL:
        raise ValueError("no base36 text of bounded length")
    value = int(digits, 36)
    zeros = len(digits) - len(digits.lstrip("0"))
    return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")


def hex_of(given: str) -> bytes | None:
    """The bytes that `given` writes in hex (with or without 0x), if it does."""
    digits = given.removeprefix("0x")
    if not digits or len(digits) % 2 or not digits.isascii() or digits.strip("0123456789abcdefABCDEF"):
        return None
    return bytes.fromhex(digits)
