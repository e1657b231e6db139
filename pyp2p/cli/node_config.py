"""From options to the chain and the configuration of a beacon node. Needs the extras `discv5` and `eth2`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.chainfile import SHIPPED, load_chain
from pyp2p.beacon.config import Advertised, BeaconConfig
from pyp2p.beacon.devchain import DEV_FORKS, dev_chain
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.cli.discv5 import bootnodes, listen_on
from pyp2p.cli.failure import UsageError, clean
from pyp2p.discv5.candidates import Known, named_peer
from pyp2p.discv5.node import endpoints
from pyp2p.errors import InvalidEnr, InvalidMultiaddr, printable
from pyp2p.switch.defaults import Quic

_DEV: Final = "dev"
_MAX_AGENT: Final = 256  # characters; others show it
_MAX_PORT: Final = 65535
_LATEST: Final = 1 << 40  # seconds: a genesis after that is a mistake
_FORMS = "A chain is mainnet, the name of a file, or dev:SECONDS, made up and beginning then."


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What `pyp2p node` runs: `made_up` chains are followed, `blocks` is where theirs are kept."""

    beacon: BeaconConfig
    made_up: bool
    blocks: Path | None


def node_config(options: argparse.Namespace, wall: Callable[[], float] = time.time) -> NodeConfig:
    """What the options ask for. Raises `UsageError` that names the option."""
    chain = chain_of(options.chain, wall)
    made_up = is_made_up(chain)
    data = _folder(options, "data")
    blocks = _folder(options, "blocks")
    for name in ("produce", "blocks"):
        if getattr(options, name) and not made_up:
            raise UsageError(f"--{name}: the blocks of {chain.name} are not made up", _FORMS)
    if blocks is None and data is not None:
        blocks = data / "blocks"
    nodes = bootnodes(options)
    if options.no_discovery and options.advertise:
        raise UsageError("--advertise is for the record of discovery, and --no-discovery does without")
    more = _quic(options)
    if options.agent is not None:
        more["agent"] = _agent(options.agent)
    if options.target_peers is not None:
        more["peers"] = PeerConfig(target=options.target_peers)
    if options.advertise:
        more["advertise"] = _advertised(options.advertise)
    beacon = BeaconConfig(
        chain,
        data=data,
        listen=tuple(listen_on(options, [each for each in (*nodes, *chain.bootnodes) if endpoints(each)])),
        discovery=not options.no_discovery,
        bootnodes=tuple(nodes),
        static_peers=_peers(options, "static_peer"),
        trusted_peers=_peers(options, "trusted_peer"),
        **more,
    )
    return NodeConfig(beacon, made_up, blocks if made_up else None)


def chain_of(given: str, wall: Callable[[], float] = time.time) -> Chain:
    """The chain that `given` names. Raises `UsageError`."""
    name, colon, seconds = given.partition(":")
    if name == _DEV:
        if not colon:
            return dev_chain(int(wall()))
        if len(seconds) > 20 or not (seconds.isascii() and seconds.isdigit()) or int(seconds) > _LATEST:
            raise UsageError(f"--chain {printable(given, 60)}: no number of seconds since 1970", _FORMS)
        return dev_chain(int(seconds))
    if not given:
        raise UsageError("--chain: the name is empty", _FORMS)
    try:
        return load_chain(given)
    except OSError as error:
        names = ", ".join(SHIPPED)
        why = f"--chain {printable(given, 200)}: no such chain ({names}), and as a file: {error.strerror or error}"
        raise UsageError(why, _FORMS) from None
    except ValueError as error:
        raise UsageError(f"--chain: {clean(str(error))}", "`docs/beacon.md` tells what is in such a file.") from None


def is_made_up(chain: Chain) -> bool:
    """True for a chain whose blocks say nothing, as `dev_chain` makes them: a file of one may differ in its times."""
    forks = all(fork.name in DEV_FORKS for fork in chain.forks)
    return forks and chain.genesis_validators_root == dev_chain(chain.genesis_time).genesis_validators_root


def chain_name(chain: Chain) -> str:
    """What others may give as --chain, as far as that is a name."""
    same = is_made_up(chain) and chain == dev_chain(chain.genesis_time)
    return f"{_DEV}:{chain.genesis_time}" if same else chain.name


def _quic(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of `BeaconConfig` for --quic-port and --no-quic."""
    names = [f"--quic-port {options.quic_port}"] if options.quic_port is not None else []
    names += [f"--advertise: port {each[3]}" for each in options.advertise if each[3] is not None]
    if names and options.no_quic:
        raise UsageError(f"{names[0]} is for QUIC, and --no-quic does without")
    if names and Quic is None:
        raise UsageError(f"{names[0]}: QUIC needs an extra: aioquic is not installed", "Try `pip install pyp2p[quic]`.")
    if options.port and options.quic_port == options.port and not options.no_discovery:
        raise UsageError(f"--quic-port {options.quic_port}: discovery has this UDP port, by --port")
    if options.port == _MAX_PORT and options.quic_port is None and not options.no_quic:
        raise UsageError(f"--port {options.port}: no port for QUIC comes after it", "Name one by --quic-port.")
    return {"quic": not options.no_quic, "quic_port": options.quic_port}


def _folder(options: argparse.Namespace, name: str) -> Path | None:
    given: str | None = getattr(options, name)
    if given == "":
        raise UsageError(f"--{name}: the name of the folder is empty")
    return None if given is None else Path(given)


def _agent(given: str) -> str:
    if len(given) > _MAX_AGENT or not given.isprintable():
        shown = printable(given, 40)
        raise UsageError(f"--agent: '{shown}' is no name of at most {_MAX_AGENT} printable characters")
    return given


def _advertised(given: list[tuple[str, int, int, int | None]]) -> tuple[Advertised, ...]:
    """One address of each IP version, as a record can name."""
    found = {":" in ip: Advertised(ip, tcp, udp, quic) for ip, tcp, udp, quic in given}
    if len(found) < len(given):
        places = ", ".join(ip for ip, *_ in given)
        raise UsageError(f"--advertise: a record names one address of an IP version, and {places} are given")
    return tuple(found.values())


def _peers(options: argparse.Namespace, name: str) -> tuple[Known, ...]:
    """Peers that can be dialled."""
    flag = "--" + name.replace("_", "-")
    for given in getattr(options, name):
        try:
            if not named_peer(given.strip()).addrs:
                raise UsageError(f"{flag} {printable(given, 60)}: the record names no address to dial")
        except (InvalidEnr, InvalidMultiaddr) as error:
            raise UsageError(
                f"{flag} {clean(str(error))}", "Give a record (enr:...) or a multiaddr that ends with /p2p/ID."
            ) from None
    return tuple(each.strip() for each in getattr(options, name))
