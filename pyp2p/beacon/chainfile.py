"""The configuration of a chain as a file: TOML, with the names of the consensus specs.

Rules: every key is known and of its type, or the `ValueError` names the file and the key, for bad TOML the line. Byte
strings are hex with `0x`. What is left out has the default of `Chain`; `limits` of a fork names only what it changes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pyp2p.beacon.chain import BlobParameters, Chain, Fork
from pyp2p.discv5.enr import Enr
from pyp2p.errors import printable

SHIPPED: Final = ("mainnet",)  # the names that `load_chain` takes instead of a path
MAX_BYTES: Final = 1024 * 1024

_CHAIN: Final[Mapping[str, type]] = {
    "name": str,
    "genesis_time": int,
    "genesis_validators_root": str,
    "slot_duration_ms": int,
    "slots_per_epoch": int,
    "forks": list,
    "blob_schedule": list,
    "bootnodes": list,
}
_CHAIN_NEEDS: Final = ("name", "genesis_time", "genesis_validators_root", "forks")
_FORK: Final[Mapping[str, type]] = {"name": str, "version": str, "epoch": int, "limits": dict}
_FORK_NEEDS: Final = ("name", "version", "epoch")
_BLOBS: Final[Mapping[str, type]] = {"epoch": int, "max_blobs_per_block": int}
_KINDS: Final = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}


def load_chain(where: str | Path) -> Chain:
    """The chain of a file, or one that comes with the package by its name.

    Raises `OSError` for a file that cannot be read and `ValueError` for one that describes no chain; both name it.
    """
    if where in SHIPPED:
        source = f"{where}.toml"
        return parse_chain(resources.files("pyp2p.beacon").joinpath("chains", source).read_text("utf-8"), source)
    with open(where, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{where}: over {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{where}: line {line} is no UTF-8") from None
    return parse_chain(text, str(where))


def parse_chain(text: str, source: str = "chain") -> Chain:
    """The chain that a text describes. Raises `ValueError`: `source`, then the line or the key, then what is wrong."""
    try:
        return _chain(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # lists within lists without end are a RecursionError
        raise ValueError(f"{source}: {error}") from None


def chain_text(chain: Chain) -> str:
    """The text that `parse_chain` makes this very chain of."""
    return "\n".join(_lines(chain)) + "\n"


def _lines(chain: Chain) -> Iterator[str]:
    yield f'name = "{chain.name}"'
    yield f"genesis_time = {chain.genesis_time}"
    yield f'genesis_validators_root = "0x{chain.genesis_validators_root.hex()}"'
    yield f"slot_duration_ms = {chain.slot_duration_ms}"
    yield f"slots_per_epoch = {chain.slots_per_epoch}"
    yield from ("bootnodes = [", *(f'    "{each.text}",' for each in chain.bootnodes), "]")
    for fork in chain.forks:
        yield from ("", "[[forks]]", f'name = "{fork.name}"', f'version = "0x{fork.version.hex()}"')
        yield f"epoch = {fork.epoch}"
        if fork.limits:
            yield f"limits = {{ {', '.join(f'{name} = {value}' for name, value in fork.limits.items())} }}"
    for blobs in chain.blob_schedule:
        yield from ("", "[[blob_schedule]]", f"epoch = {blobs.epoch}")
        yield f"max_blobs_per_block = {blobs.max_blobs_per_block}"


def _chain(said: dict[str, Any]) -> Chain:
    _check(said, _CHAIN, _CHAIN_NEEDS, "")
    made: dict[str, Any] = dict(said)
    made["genesis_validators_root"] = _hex(said["genesis_validators_root"], "genesis_validators_root")
    made["forks"] = tuple(_fork(each, f"forks[{at}]") for at, each in enumerate(said["forks"]))
    made["blob_schedule"] = tuple(
        _blobs(each, f"blob_schedule[{at}]") for at, each in enumerate(said.get("blob_schedule", ()))
    )
    made["bootnodes"] = tuple(_enr(each, f"bootnodes[{at}]") for at, each in enumerate(said.get("bootnodes", ())))
    return Chain(**made)


def _fork(said: object, where: str) -> Fork:
    table = _check(said, _FORK, _FORK_NEEDS, where)
    limits = MappingProxyType(dict(table.get("limits", {})))
    version = _hex(table["version"], f"{where}.version")
    with _named(where):
        return Fork(table["name"], version, table["epoch"], limits)


def _blobs(said: object, where: str) -> BlobParameters:
    table = _check(said, _BLOBS, tuple(_BLOBS), where)
    with _named(where):
        return BlobParameters(table["epoch"], table["max_blobs_per_block"])


def _enr(said: object, where: str) -> Enr:
    if not isinstance(said, str):
        raise ValueError(f"{where}: must be a text")
    with _named(where):
        return Enr.from_text(said)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Puts the place before what is wrong there."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check(said: object, known: Mapping[str, type], needed: tuple[str, ...], where: str) -> dict[str, Any]:
    """A table whose keys are known, of their types, and all there that must be."""
    dot = f"{where}." if where else ""
    if not isinstance(said, dict):
        raise ValueError(f"{where}: must be a table")
    for key, value in said.items():
        if key not in known:
            raise ValueError(f"{dot}{printable(key)}: no such key; known are {', '.join(known)}")
        if type(value) is not known[key]:
            raise ValueError(f"{dot}{key}: must be {_KINDS[known[key]]}")
    for key in needed:
        if key not in said:
            raise ValueError(f"{dot}{key}: is missing")
    return said


def _hex(text: str, where: str) -> bytes:
    digits = text.removeprefix("0x")
    try:
        if digits == text or len(digits) != len(digits.strip()):
            raise ValueError
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"{where}: must be hex that begins with 0x, not '{printable(text)}'") from None
