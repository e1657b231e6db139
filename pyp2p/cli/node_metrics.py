"""`--metrics`: a node's values for Prometheus. Needs the extra `metrics`."""

from __future__ import annotations

import trio

from pyp2p.beacon.metrics import node_registry
from pyp2p.beacon.network import BeaconNetwork
from pyp2p.beacon.scrape import serve_metrics


async def serve(net: BeaconNetwork, host: str, port: int, nursery: trio.Nursery) -> str:
    """Serve in `nursery`, and return the address of it. Raises `OSError` that names the address."""
    at = await nursery.start(serve_metrics, host, port, node_registry(net.stats))
    ip, taken = at[0]
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{taken}/metrics"
