"""`--eth2`: pubsub as a beacon node speaks it. Needs the extra `eth2`."""

from __future__ import annotations

from typing import Any

from pyp2p.pubsub.ids import eth2_altair_message_id
from pyp2p.pubsub.params import eth2_params
from pyp2p.pubsub.signing import StrictNoSign
from pyp2p.pubsub.snappy import Snappy


def settings() -> dict[str, Any]:
    """The keyword arguments of `open_pubsub`: unsigned, snappy, ids and parameters of the consensus specs."""
    return {
        "params": eth2_params(),
        "policy": StrictNoSign(),
        "message_id": eth2_altair_message_id,
        "transform": Snappy(),
    }
