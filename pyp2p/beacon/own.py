"""What we say of ourselves: which subnets we are on, and the entries of our node record.

Rules: pure; the slot is an argument. Subnets that follow from the node id change every 256 epochs; those that the
application asks for last until the slot it names. Consensus-specs, phase0/p2p-interface.md, "Attestation subnet
subscription", "ENR structure"; fulu/p2p-interface.md.
"""

from __future__ import annotations

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.containers import ATTESTATION_SUBNET_COUNT, ATTNETS, FAR_FUTURE_EPOCH, SYNCNETS, ENRForkID
from pyp2p.beacon.subnets import attestation_subnets
from pyp2p.discv5.enr import Enr, Value
from pyp2p.errors import LocalProtocolError


class OwnSubnets:
    """The attestation subnets that we are on."""

    def __init__(self, chain: Chain, node_id: bytes, long_lived: bool) -> None:
        self._chain = chain
        self._node_id = node_id
        self._long_lived = long_lived
        self._wishes: dict[int, int] = {}  # subnet to the first slot without it

    def want(self, subnet: int, until: int) -> int:
        """Be on a subnet until a slot, the later of those that were named: returns it. Raises `LocalProtocolError`."""
        if type(subnet) is not int or not 0 <= subnet < ATTESTATION_SUBNET_COUNT:
            raise LocalProtocolError(f"attestation subnets are 0 to {ATTESTATION_SUBNET_COUNT - 1}, not {subnet!r}")
        if type(until) is not int or not 0 <= until <= FAR_FUTURE_EPOCH:
            raise LocalProtocolError(f"a slot is a number of 64 bits, not {until!r}")
        self._wishes[subnet] = max(until, self._wishes.get(subnet, until))
        return self._wishes[subnet]

    def at(self, slot: int) -> frozenset[int]:
        """Those of a slot; wishes that are over are forgotten."""
        self._wishes = {subnet: until for subnet, until in self._wishes.items() if until > slot}
        epoch = max(0, self._chain.epoch_of(slot))
        chosen = attestation_subnets(self._node_id, epoch) if self._long_lived else frozenset[int]()
        return chosen.union(self._wishes)


def record_entries(
    chain: Chain, epoch: int, attnets: frozenset[int], syncnets: frozenset[int], groups: int
) -> dict[str, Value]:
    """The entries of our record that say which chain we are on and what we serve."""
    entries: dict[str, Value] = {
        "eth2": chain.enr_fork_id(epoch).encode(),
        "attnets": ATTNETS.encode(attnets),
        "syncnets": SYNCNETS.encode(syncnets),
    }
    if any(fork.name == "fulu" for fork in chain.forks):
        entries |= {"cgc": groups, "nfd": chain.next_fork_digest(epoch)}
    return entries


def same_network(record: Enr, chain: Chain, epoch: int) -> bool:
    """True for a node whose record names the digest of now, whatever it thinks of forks to come."""
    said = record.eth2  # of 16 bytes where there is one: any are an ENRForkID
    return said is not None and ENRForkID.decode(said).fork_digest == chain.at_epoch(epoch).digest
