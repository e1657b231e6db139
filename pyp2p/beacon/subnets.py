"""Which subnets and custody groups a node serves, from its node id (consensus-specs).

Rules: pure functions of the id that discovery knows the node by; every node computes the same of every other, so whom
to ask is known before anybody is asked (phase0 p2p-interface, "Attestation subnet subscription"; fulu das-core,
"get_custody_groups"). Subnets as bits, for node records and metadata: `containers.ATTNETS` and `SYNCNETS`.
"""

from __future__ import annotations

import hashlib
from typing import Final

from pyp2p.beacon.containers import ATTESTATION_SUBNET_COUNT, FAR_FUTURE_EPOCH, NUMBER_OF_COLUMNS
from pyp2p.errors import LocalProtocolError, WireError

SUBNETS_PER_NODE: Final = 2
EPOCHS_PER_SUBNET_SUBSCRIPTION: Final = 256
NUMBER_OF_CUSTODY_GROUPS: Final = 128
CUSTODY_REQUIREMENT: Final = 4  # groups that a node keeps at least
DATA_COLUMN_SIDECAR_SUBNET_COUNT: Final = 128
NODE_ID_BYTES: Final = 32
_NODE_ID_BITS: Final = 8 * NODE_ID_BYTES
_PREFIX_BITS: Final = 6  # ATTESTATION_SUBNET_PREFIX_BITS
_SHUFFLE_ROUNDS: Final = 90  # SHUFFLE_ROUND_COUNT


def attestation_subnets(node_id: bytes, epoch: int) -> frozenset[int]:
    """The `SUBNETS_PER_NODE` attestation subnets of a node in an epoch (0 <= epoch < 2**64), one after the other.

    They change every `EPOCHS_PER_SUBNET_SUBSCRIPTION` epochs, see `subnets_end`. Raises `LocalProtocolError` for a node
    id that has not 32 bytes, or another epoch.
    """
    number = _number(node_id)
    _check_epoch(epoch)
    period = (epoch + number % EPOCHS_PER_SUBNET_SUBSCRIPTION) // EPOCHS_PER_SUBNET_SUBSCRIPTION
    seed = hashlib.sha256(period.to_bytes(8, "little")).digest()
    first = _shuffled(number >> (_NODE_ID_BITS - _PREFIX_BITS), 1 << _PREFIX_BITS, seed)
    return frozenset((first + index) % ATTESTATION_SUBNET_COUNT for index in range(SUBNETS_PER_NODE))


def subnets_end(node_id: bytes, epoch: int) -> int:
    """The first epoch after this one in which the node has other attestation subnets. Raises as they do."""
    number = _number(node_id)
    _check_epoch(epoch)
    return epoch + EPOCHS_PER_SUBNET_SUBSCRIPTION - (epoch + number) % EPOCHS_PER_SUBNET_SUBSCRIPTION


def custody_groups(node_id: bytes, count: int) -> frozenset[int]:
    """The `count` custody groups that a node keeps, at most 128; those for a smaller count are among them.

    The count is what the node claims (`cgc` in its record, `custody_group_count` in its metadata): raises `WireError`
    for more groups than there are, `LocalProtocolError` for a node id that has not 32 bytes.
    """
    number = _number(node_id)
    if not 0 <= count <= NUMBER_OF_CUSTODY_GROUPS:
        raise WireError(f"custody group count: {count}, there are {NUMBER_OF_CUSTODY_GROUPS} groups")
    if count == NUMBER_OF_CUSTODY_GROUPS:  # found one by one, the last of them take some 700 hashes
        return frozenset(range(count))
    found: set[int] = set()
    while len(found) < count:
        hashed = hashlib.sha256(number.to_bytes(NODE_ID_BYTES, "little")).digest()
        found.add(int.from_bytes(hashed[:8], "little") % NUMBER_OF_CUSTODY_GROUPS)
        number = (number + 1) % (1 << _NODE_ID_BITS)
    return frozenset(found)


def custody_columns(groups: frozenset[int]) -> frozenset[int]:
    """The data columns of custody groups (das-core, "compute_columns_for_custody_group")."""
    each = NUMBER_OF_COLUMNS // NUMBER_OF_CUSTODY_GROUPS
    return frozenset(NUMBER_OF_CUSTODY_GROUPS * at + group for group in groups for at in range(each))


def data_column_subnet(column: int) -> int:
    """The gossip subnet of a data column (fulu p2p-interface, "compute_subnet_for_data_column_sidecar")."""
    return column % DATA_COLUMN_SIDECAR_SUBNET_COUNT


def _number(node_id: bytes) -> int:
    if len(node_id) != NODE_ID_BYTES:
        raise LocalProtocolError(f"node id of {len(node_id)} bytes instead of {NODE_ID_BYTES}")
    return int.from_bytes(node_id, "big")


def _check_epoch(epoch: int) -> None:
    if not 0 <= epoch <= FAR_FUTURE_EPOCH:
        raise LocalProtocolError(f"epoch {epoch} is no number of 64 bits")


def _shuffled(index: int, count: int, seed: bytes) -> int:
    """Where the shuffle of `count` things puts the one at `index` (phase0 beacon-chain, "compute_shuffled_index")."""
    for turn in range(_SHUFFLE_ROUNDS):
        start = seed + bytes((turn,))
        pivot = int.from_bytes(hashlib.sha256(start).digest()[:8], "little") % count
        flip = (pivot - index) % count
        position = max(index, flip)
        source = hashlib.sha256(start + (position // 256).to_bytes(4, "little")).digest()
        if source[position % 256 // 8] >> position % 8 & 1:
            index = flip
    return index
