"""Node records as facts: read from what the user gives, shown as fields, turned into targets. Needs the extra `discv5`.

Rules: what is in a record was said by others: text of it is escaped here, or by those who show it (render.py, json).
An entry of another form than its name has counts as unknown, and is shown in hex as every unknown one.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from pyp2p.cli.failure import UsageError, clean
from pyp2p.cli.target import Target
from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import Enr, bits
from pyp2p.discv5.node import Endpoint, endpoints
from pyp2p.errors import InvalidEnr, printable
from pyp2p.peer.address import components, text, with_peer
from pyp2p.switch.defaults import Quic

FAR_FUTURE: Final = (1 << 64) - 1  # the epoch of a fork that is not planned
_PORTS: Final = ("tcp", "tcp6", "udp", "udp6", "quic", "quic6")
_NAMED: Final = ("id", "secp256k1", "ip", "ip6", *_PORTS, "eth2", "attnets", "syncnets", "cgc", "nfd")
_FORM = "A record is one text without spaces, like enr:-IS4Q..; quotes of a shell are no part of it."


def read(given: str) -> Enr:
    """The record that `given` writes. Raises `UsageError`, which names the rule broken."""
    try:
        return Enr.from_text(given.strip())
    except InvalidEnr as error:
        raise UsageError(f"not a node record: {clean(str(error))}", _FORM) from None


def target(given: str) -> Target:
    """The addresses of a record that can be dialled, with its peer id. Raises `UsageError`."""
    record = read(given)
    spoken = ("tcp",) if Quic is None else ("tcp", "quic-v1")
    found = [address for address in record.multiaddrs() if components(address)[-1].name in spoken]
    if not found:
        what = "no TCP or QUIC port" if record.ip or record.ip6 else "no address at all"
        raise UsageError(
            f"the record of {record.peer_id} has {what}, so it cannot be dialled",
            "`pyp2p enr read` tells what is in it; `pyp2p discv5 ping` asks the node over UDP.",
        )
    return Target(found[0], record.peer_id, tuple(found[1:]))


def where(record: Enr) -> Endpoint:
    """Where a node takes part in discovery. Raises `UsageError` for a record that does not say."""
    found = endpoints(record)
    if not found:
        raise UsageError(
            f"the record of node {record.node_id.hex()} has no address with a UDP port",
            "Nobody can be asked over discv5 whose record does not say where: see `pyp2p enr read`.",
        )
    return found[0]


def shown(endpoint: Endpoint) -> str:
    """`1.2.3.4:9000` or `[::1]:9000`."""
    return f"[{endpoint.ip}]:{endpoint.port}" if ":" in endpoint.ip else f"{endpoint.ip}:{endpoint.port}"


def client(record: Enr) -> str | None:
    """Name and version of the program, where the record says so (EIP-7636); text of others."""
    said = record.pairs.get(b"client")
    if not isinstance(said, tuple):
        return None
    words = [word.decode("utf-8", "replace") for word in said if isinstance(word, bytes)]
    return " ".join(words[:3]) or None


def fork_digest(record: Enr) -> str | None:
    """The eth2 fork digest in hex."""
    return None if record.eth2 is None else record.eth2[:4].hex()


def facts(record: Enr) -> dict[str, Any]:
    """Everything in a record; null where it says nothing, or not in the form that the specification wants."""
    return {
        "enr": record.text,
        "seq": record.seq,
        "size": len(record.raw),
        "node_id": record.node_id.hex(),
        "peer_id": str(record.peer_id),
        "public_key": record.public_key.hex(),
        "addresses": [text(with_peer(address, record.peer_id)) for address in record.multiaddrs()],
        "ip": _text(record.ip),
        "ip6": _text(record.ip6),
        **{name: getattr(record, name) for name in _PORTS},
        "eth2": _fork(record.eth2),
        "attnets": None if record.attnets is None else bits(record.attnets, 64),
        "syncnets": None if record.syncnets is None else bits(record.syncnets, 4),
        "cgc": record.cgc,
        "nfd": None if record.nfd is None else record.nfd.hex(),
        "client": client(record),
        "unknown": [{"key": printable(key), "value": _raw(value)} for key, value in _unknown(record)],
    }


def rows(sheet: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The same as labelled rows."""
    fork = sheet["eth2"]
    found: list[tuple[str, object]] = [
        ("node id", sheet["node_id"]),
        ("peer id", sheet["peer_id"]),
        ("seq", sheet["seq"]),
        ("size", f"{sheet['size']} of 300 bytes"),
        ("addresses", sheet["addresses"] or None),
        *((name, sheet[name]) for name in ("ip", "ip6", *_PORTS)),
        ("client", sheet["client"]),
    ]
    if fork is not None:
        planned = fork["next_fork_epoch"] is not None
        when = f"version {fork['next_fork_version']} at epoch {fork['next_fork_epoch']}" if planned else "none planned"
        found += [("fork digest", fork["fork_digest"]), ("next fork", when)]
    for name in ("attnets", "syncnets"):
        if sheet[name] is not None:
            found.append((name, ", ".join(map(str, sheet[name])) or "none"))
    found += [("cgc", sheet["cgc"]), ("nfd", sheet["nfd"])]
    found += [(pair["key"], f"0x{pair['value']}") for pair in sheet["unknown"]]
    return found


def _text(ip: IPv4Address | IPv6Address | None) -> str | None:
    return None if ip is None else str(ip)


def _fork(raw: bytes | None) -> dict[str, Any] | None:
    """ENRForkID; the epoch is null when no fork is planned. eth2 p2p-interface, ENR structure."""
    if raw is None:
        return None
    epoch = int.from_bytes(raw[8:], "little")
    return {
        "fork_digest": raw[:4].hex(),
        "next_fork_version": raw[4:8].hex(),
        "next_fork_epoch": None if epoch == FAR_FUTURE else epoch,
    }


def _unknown(record: Enr) -> list[tuple[bytes, rlp.Item]]:
    """The entries that no field tells of."""
    told = {"id": True, "secp256k1": True}
    found = []
    for key, value in record.pairs.items():
        name = printable(key)
        if name in _NAMED and (name in told or getattr(record, name) is not None):
            continue
        if key == b"client" and client(record) is not None:
            continue
        found.append((key, value))
    return found


def _raw(value: rlp.Item) -> str:
    """Bytes as they are, a list as its RLP."""
    return (value if isinstance(value, bytes) else rlp.encode(value)).hex()
