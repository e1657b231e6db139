"""What changes with time, and with what the application reads: topics, our subnets, our record, our metadata.

Rules: subnets that we are on are in the record and in the metadata. Attestation subnets follow from our node id and
from what the application asked for; sync committee subnets from what it reads. Peers are looked for on the subnets that
it asked for or reads; those of our node id come as others look for theirs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from math import inf

import trio

from pyp2p.beacon.chain import Chain
from pyp2p.beacon.clock import SlotClock
from pyp2p.beacon.containers import MetaDataV3
from pyp2p.beacon.events import ForkChanged, NetworkEvent, SubnetsChanged
from pyp2p.beacon.gossip import Gossip
from pyp2p.beacon.local import MetadataSeq
from pyp2p.beacon.own import OwnSubnets, record_entries, same_network
from pyp2p.beacon.peer_types import Subnet, SubnetKind
from pyp2p.beacon.status import LATE
from pyp2p.beacon.subnets import (
    CUSTODY_REQUIREMENT,
    NUMBER_OF_CUSTODY_GROUPS,
    custody_columns,
    custody_groups,
    data_column_subnet,
)
from pyp2p.discv5.candidates import Candidate, random_nodes, subnet_nodes
from pyp2p.discv5.enr import Enr, Value
from pyp2p.discv5.service import Discv5

logger = logging.getLogger("pyp2p.beacon")

_READ = {"sync_committee": SubnetKind.SYNC_COMMITTEE, "data_column_sidecar": SubnetKind.DATA_COLUMN}


class Upkeep:
    """Keeps what we say and subscribe to true.

    `wants(subnet, until)` is told of which subnets peers are wanted, `say` of what watchers should hear, `ask_again` is
    called when everybody's status should be asked for anew.
    """

    def __init__(
        self,
        chain: Chain,
        clock: SlotClock,
        gossip: Gossip,
        *,
        subnets: OwnSubnets,
        seq: MetadataSeq,
        groups: int,
        wants: Callable[[Subnet, float], None],
        say: Callable[[NetworkEvent], None],
        ask_again: Callable[[], None],
    ) -> None:
        self.discovery: Discv5 | None = None  # whose record is to say the same, once there is one
        self._chain = chain
        self._clock = clock
        self._gossip = gossip
        self._subnets = subnets
        self._seq = seq
        self._groups = groups
        self._wants = wants
        self._say = say
        self._ask_again = ask_again
        self._attnets = subnets.at(clock.slot)
        self._read: dict[Subnet, None] = {}  # what is read of the kinds that follow from it
        self._served: dict[int, trio.CancelScope] = {}
        self._said: MetaDataV3 | None = None
        self._changed = trio.Event()
        gossip.on_change = self.poke

    @property
    def metadata(self) -> MetaDataV3:
        """What we say we serve; its number grows with each change, and is kept before anybody hears of it."""
        if self._said is None:  # each ping asks
            said = MetaDataV3(0, self._attnets, self._syncnets, self._groups)
            self._said = replace(said, seq_number=self._seq.of(said.encode()[8:]))
        return self._said

    @property
    def _syncnets(self) -> frozenset[int]:
        return frozenset(each.number for each in self._read if each.kind is SubnetKind.SYNC_COMMITTEE)

    def entries(self) -> dict[str, Value]:
        """The entries of our record that say the same."""
        return record_entries(self._chain, self._clock.epoch, self._attnets, self._syncnets, self._groups)

    def want(self, subnet: int, until: int) -> None:
        """Be on an attestation subnet until a slot. Raises `LocalProtocolError`."""
        last = self._subnets.want(subnet, until)
        self._wants(Subnet(SubnetKind.ATTESTATION, subnet), trio.current_time() + self._clock.seconds_until(last))
        self.poke()

    def poke(self) -> None:
        """What is read has changed."""
        self._changed.set()

    async def run(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Look at each slot, and whenever something changes, until cancelled; topics are served in `nursery`."""
        epoch = self._clock.epoch
        task_status.started()
        while True:
            self._change_subnets(nursery)
            with trio.move_on_after(self._clock.seconds_to_next):
                await self._changed.wait()
            self._changed = trio.Event()
            if self._clock.epoch != epoch:
                self._change_epoch(epoch, self._clock.epoch)
                epoch = self._clock.epoch

    def _change_epoch(self, before: int, epoch: int) -> None:
        self._gossip.epoch_began()
        period = self._chain.at_epoch(epoch)
        if self._chain.at_epoch(before) is not period:
            self._change_record()
            logger.info("fork epoch=%d fork=%s digest=%s", epoch, period.title, period.digest.hex())
            self._say(ForkChanged(epoch, period.fork, period.digest))
        if self._chain.at_epoch(max(0, before - LATE)) is not self._chain.at_epoch(max(0, epoch - LATE)):
            self._ask_again()  # whoever has not followed has to go

    def _change_subnets(self, nursery: trio.Nursery) -> None:
        attnets = self._subnets.at(self._clock.slot)
        for subnet in sorted(self._served.keys() - attnets):
            self._served.pop(subnet).cancel()
        for subnet in sorted(attnets - self._served.keys()):
            self._served[subnet] = trio.CancelScope()
            nursery.start_soon(self._serve, subnet, self._served[subnet])
        before = self._attnets, self._syncnets
        self._attnets = attnets
        self._change_read()
        if (self._attnets, self._syncnets) != before:
            self._said = None
            self._change_record()
            attnets_now, syncnets_now = tuple(sorted(self._attnets)), tuple(sorted(self._syncnets))
            self._say(SubnetsChanged(attnets_now, syncnets_now, self.metadata.seq_number))

    def _change_read(self) -> None:
        """Peers are wanted on what is read, and no longer on what is not."""
        read = {
            Subnet(_READ[name], number): None
            for name, number in self._gossip.followed
            if name in _READ and number is not None
        }
        for subnet in [subnet for subnet in self._read if subnet not in read]:
            self._wants(subnet, -inf)
        for subnet in [subnet for subnet in read if subnet not in self._read]:
            self._wants(subnet, inf)
        self._read = read

    def _change_record(self) -> None:
        if self.discovery is not None:
            self.discovery.set_record(**self.entries())

    async def _serve(self, subnet: int, scope: trio.CancelScope) -> None:
        """Be in the topic for others, whether or not the application reads it."""
        with scope:
            async with self._gossip.subscribe("beacon_attestation", subnet) as messages:
                async for _ in messages:
                    pass

    # --- whom to look for

    def of_our_network(self, record: Enr) -> bool:
        """True for a node whose record names the fork digest of now."""
        return same_network(record, self._chain, self._clock.epoch)

    def nodes(self, discovery: Discv5) -> AsyncIterator[Candidate]:
        """Nodes of our network."""
        return random_nodes(discovery, self.of_our_network)

    def nodes_on(self, discovery: Discv5, subnet: Subnet) -> AsyncIterator[Candidate]:
        """Nodes of our network that are on a subnet, as their record or their node id says."""
        if subnet.kind is SubnetKind.DATA_COLUMN:
            return random_nodes(discovery, lambda record: self.of_our_network(record) and _keeps(record, subnet.number))
        attnets = [subnet.number] if subnet.kind is SubnetKind.ATTESTATION else []
        syncnets = [subnet.number] if subnet.kind is SubnetKind.SYNC_COMMITTEE else []
        return subnet_nodes(discovery, attnets=attnets, syncnets=syncnets, wanted=self.of_our_network)


def _keeps(record: Enr, subnet: int) -> bool:
    """True for a node that keeps a column of this subnet: without a claim, as many groups as all have to."""
    count = min(CUSTODY_REQUIREMENT if record.cgc is None else record.cgc, NUMBER_OF_CUSTODY_GROUPS)
    return subnet in map(data_column_subnet, custody_columns(custody_groups(record.node_id, count)))
