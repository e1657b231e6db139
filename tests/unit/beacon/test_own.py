"""What we say of ourselves: our subnets over time, and the entries of our record."""

from dataclasses import replace

import pytest

from pyp2p.beacon.chainfile import load_chain
from pyp2p.beacon.containers import ENRForkID
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.own import OwnSubnets, record_entries, same_network
from pyp2p.beacon.subnets import attestation_subnets
from pyp2p.discv5.enr import Enr
from pyp2p.errors import LocalProtocolError
from tests.beacon.support import identity

CHAIN = dev_chain(0, epochs_per_fork=10)
NODE = bytes(range(32))


def test_a_wish_lasts_until_its_slot_and_the_longest_counts() -> None:
    own = OwnSubnets(CHAIN, NODE, long_lived=False)
    assert own.at(0) == frozenset()
    own.want(5, 10)
    own.want(6, 12)
    own.want(5, 20)
    own.want(5, 11)
    assert [sorted(own.at(slot)) for slot in (9, 11, 12, 19, 20)] == [[5, 6], [5, 6], [5], [5], []]
    own.want(7, 20)
    assert own.at(20) == frozenset()


@pytest.mark.parametrize("subnet", [-1, 64, 1 << 70])
def test_a_subnet_that_does_not_exist_is_refused(subnet: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"attestation subnets are 0 to 63, not {subnet}"):
        OwnSubnets(CHAIN, NODE, long_lived=True).want(subnet, 10)


def test_those_of_the_node_id_are_there_all_the_time_and_move_on() -> None:
    chain = load_chain("mainnet")
    own = OwnSubnets(chain, NODE, long_lived=True)
    own.want(5, 100)
    assert own.at(0) == attestation_subnets(NODE, 0) | {5}
    days = {own.at(epoch * 32) for epoch in range(300, 3000, 256)}
    assert len(days) > 3
    assert {len(each) for each in days} == {2}
    assert own.at(-10) == attestation_subnets(NODE, 0)


def test_the_entries_of_a_record() -> None:
    entries = record_entries(CHAIN, 9, frozenset({0, 9}), frozenset({3}), 8)
    assert entries == {
        "eth2": CHAIN.enr_fork_id(9).encode(),
        "attnets": b"\x01\x02\0\0\0\0\0\0",
        "syncnets": b"\x08",
        "cgc": 8,
        "nfd": CHAIN.at_epoch(10).digest,
    }
    said = ENRForkID.decode(entries["eth2"])
    assert (said.fork_digest, said.next_fork_epoch) == (CHAIN.at_epoch(9).digest, 10)


def test_a_chain_without_fulu_says_nothing_of_custody() -> None:
    chain = replace(CHAIN, forks=CHAIN.forks[:-1], blob_schedule=())  # fulu is the last of them
    assert record_entries(chain, 0, frozenset(), frozenset(), 8).keys() == {"eth2", "attnets", "syncnets"}


def record(**pairs) -> Enr:
    return Enr.sign(identity("somebody"), 1, pairs)


def test_whoever_names_the_digest_of_now_is_of_our_network() -> None:
    there = record(**record_entries(CHAIN, 9, frozenset(), frozenset(), 4))
    assert same_network(there, CHAIN, 9)
    assert not same_network(there, CHAIN, 10)
    assert not same_network(there, dev_chain(1), 9)


@pytest.mark.hostile
@pytest.mark.parametrize("eth2", [None, bytes(16), b"\xff" * 16])
def test_hostile_085_who_names_none_or_another_is_not(eth2: bytes | None) -> None:
    assert not same_network(record(**({} if eth2 is None else {"eth2": eth2})), CHAIN, 0)
