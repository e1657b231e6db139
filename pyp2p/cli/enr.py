"""`pyp2p enr read`, `make` and `update`: node records (EIP-778). Needs the extra `discv5`.

Rules: a record is checked whole before anything of it is shown as true; what can be read of a wrong one goes with the
error (enr_wrong.py). Where several are read, one that is wrong does not keep the others from being shown. What `make`
and `update` print is the record alone, so that a shell can take it.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pyp2p.cli import enr_wrong, records, render
from pyp2p.cli.failure import OK, UsageError, clean
from pyp2p.cli.key import load, load_or_create
from pyp2p.cli.output import Output
from pyp2p.discv5.enr import MAX_TEXT, SIGNED_BY, Enr, Value
from pyp2p.errors import LocalProtocolError, printable
from pyp2p.peer.keys import Identity, KeyType

_MAX_LINE = 4096  # bytes: a record and what is around it in a list
_PORTS = ("udp", "udp6", "tcp", "tcp6", "quic", "quic6")


def read(options: argparse.Namespace, out: Output) -> int:
    """`enr read ENR|FILE|-`."""
    given = options.text.strip()
    if given.startswith("enr:"):
        try:
            record = records.read(given)
        except UsageError as failure:
            _tell_wrong(failure, given, out)
            return failure.code
        _show(record, out)
        return OK
    code = OK
    shown = 0
    for number, line in _lines(given):
        try:
            record = records.read(line)
        except UsageError as failure:
            failure.reason = f"line {number}: {failure.reason}"
            failure.facts = {"line": number}
            _tell_wrong(failure, line, out)
            code = failure.code
            continue
        if shown and not out.as_json:
            out.emit("", {}, [""])
        _show(record, out)
        shown += 1
    if not shown and code == OK:
        raise UsageError(f"{_name(given)} holds no record", "A record begins with enr: and stands in a line alone.")
    return code


def _tell_wrong(failure: UsageError, text: str, out: Output) -> None:
    """Show why a record is wrong, and what can be read of it."""
    decoded = enr_wrong.decoded(text)
    failure.facts["decoded"] = decoded
    out.fail(failure, "enr read")
    if decoded is not None and not out.as_json:
        out.error("\n".join(enr_wrong.lines(decoded)))


def _lines(given: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, without what lists in YAML and shells put around a record. Raises `UsageError`."""
    if given == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed, so there is no record to read from it")
        yield from _records_of(sys.stdin.buffer)
        return
    try:
        with Path(given).open("rb") as file:
            yield from _records_of(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(
            f"{_name(given)} is no record (enr:...), and cannot be read as a file: {why}",
            "Give the record itself, a file with one in each line, or - for standard input.",
        ) from None


def _records_of(file: BinaryIO) -> Iterator[tuple[int, str]]:
    number = 0
    while raw := file.readline(_MAX_LINE + 1):
        number += 1
        if len(raw) > _MAX_LINE:
            raise UsageError(f"line {number} has more than {_MAX_LINE} bytes: a record takes {MAX_TEXT} at most")
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        line = raw.decode("utf-8", "replace").strip().removeprefix("- ").strip(" \t\"',")
        if line and not line.startswith("#"):
            yield number, line


def make(options: argparse.Namespace, out: Output) -> int:
    """`enr make --key FILE`."""
    who = load_or_create(_key(options, "--key FILE; a file that is missing is made."), out, KeyType.SECP256K1)
    seq = 1 if options.seq is None else options.seq
    return _print(_signed(who, seq, entries(options), options.key), out)


def update(options: argparse.Namespace, out: Output) -> int:
    """`enr update ENR --key FILE`."""
    record = records.read(options.node)
    who = load(Path(_key(options, "--key FILE, with the key that signed the record.")))
    if who.public_key.data != record.public_key:
        raise UsageError(
            f"the key in {_name(options.key)} is of {who.peer}, and the record of {record.peer_id}",
            "Only the key that signed a record can sign a newer one.",
        )
    seq = record.seq + 1 if options.seq is None else options.seq
    if seq <= record.seq:
        raise UsageError(f"--seq {seq} is not above {record.seq}, that of the record: others would ignore the new one")
    given = entries(options)
    changed: dict[bytes, Value] = {**record.pairs, **given}
    for name in map(os.fsencode, options.unset):
        if name in SIGNED_BY:
            raise UsageError(f"--unset {printable(name)}: no record is without it, since it says who signed")
        if name in given:
            raise UsageError(f"the entry '{printable(name, 60)}' is both set and removed")
        if changed.pop(name, None) is None:
            raise UsageError(f"--unset {printable(name, 60)}: the record has no such entry")
    return _print(_signed(who, seq, changed, options.key), out)


def entries(options: argparse.Namespace) -> dict[bytes, Value]:
    """What --ip, --udp, --set and the like put in a record. Raises `UsageError` for an entry that is given twice."""
    found: dict[bytes, Value] = {}
    for name in ("ip", "ip6", *_PORTS):
        value = getattr(options, name)
        if value is not None:
            found[name.encode()] = value
    for name, value in options.set:
        if name.encode() in found:
            raise UsageError(f"the entry '{printable(name, 60)}' is given twice")
        found[name.encode()] = value
    return found


def secp256k1_only(who: Identity, name: str) -> Identity:
    """The identity of a key file, if it can sign records. Raises `UsageError`."""
    if who.key_type is KeyType.SECP256K1:
        return who
    raise UsageError(
        f"the key in {_name(name)} is of type {who.key_type.name.lower()}; a node record needs secp256k1",
        "`pyp2p key new --type secp256k1 FILE` makes one; so does this command when the file is missing.",
    )


def _signed(who: Identity, seq: int, pairs: dict[bytes, Value], name: str) -> Enr:
    secp256k1_only(who, name)
    try:
        return Enr.sign(who, seq, pairs)
    except LocalProtocolError as error:
        raise UsageError(f"no such record can be made: {clean(str(error))}") from None


def _key(options: argparse.Namespace, advice: str) -> str:
    if options.key is None:
        raise UsageError("a record is signed: --key is missing", advice)
    name: str = options.key
    return name


def _show(record: Enr, out: Output) -> None:
    sheet = records.facts(record)
    out.emit("record", sheet, render.fields(records.rows(sheet), out.style))


def _print(record: Enr, out: Output) -> int:
    out.emit("record", records.facts(record), [record.text])
    return OK


def _name(given: str) -> str:
    return "standard input" if given == "-" else printable(given, 200)
