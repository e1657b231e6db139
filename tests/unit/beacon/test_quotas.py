"""Quotas of the beacon chain: what peers have a right to, all of them together have as well."""

import pytest

from pyp2p.beacon.exchange import PING_INTERVAL
from pyp2p.beacon.methods import QUOTAS
from pyp2p.beacon.peer_types import PeerConfig
from pyp2p.reqresp.rate import Bucket
from pyp2p.switch.config import Limits


def test_a_full_house_that_pings_as_it_should_is_answered_at_once() -> None:
    """Else pings wait longer each minute, fail, and peers are sent away for it."""
    peers, total = PeerConfig().most, Bucket(QUOTAS["ping"].quota(1).total, 0.0)
    waits = [total.reserve(1, number * PING_INTERVAL / peers) for number in range(40 * peers)]
    assert max(waits) == 0


@pytest.mark.hostile
@pytest.mark.parametrize("name", ["status", "ping", "metadata", "goodbye"])
def test_hostile_080_nobody_waits_for_admission_because_others_use_their_quotas_up(name: str) -> None:
    """As many as may be connected ask as often as each may; one more, who asks once in a while, is answered at once."""
    quota = QUOTAS[name].quota(1)
    total = Bucket(quota.total, 0.0)
    for second in range(600):
        waited = total.reserve(1, float(second))
        assert waited == 0
        total.reserve(int(quota.peer.per_second * (Limits().connections - 1)), float(second))
