"""Public tools to test protocols and nodes: what pyp2p's own tests are written with.

- `simulated`, `run_sim`, `Sim`: a test in virtual time that one seed repeats exactly; it gets a network (`sim.net`) and
  platforms (`sim.platform("a")`) for its nodes.
- `SimNet`, `SimHost`, `LinkQuality`: the network; a host's `transport` goes into `open_switch(transports=[...])`.
- `pump`: two negotiations back to back, without a stream.
- `check_stream`, `check_raw_stream`, `LeakCheck`: contracts for streams, and for what is left behind.
- `Misbehaviour`, `misbehave`: a stack that is slow, silent, cut off, corrupting, or shows another key.
"""

from pyp2p.testing.contract import LeakCheck, check_raw_stream, check_stream
from pyp2p.testing.misbehave import Misbehaviour, misbehave
from pyp2p.testing.pump import Pumped, Stuck, pump
from pyp2p.testing.run import SeededEntropy, Sim, run_sim, simulated
from pyp2p.testing.simlink import LinkQuality, TraceLine
from pyp2p.testing.simnet import SimHost, SimNet

__all__ = [
    "LeakCheck",
    "LinkQuality",
    "Misbehaviour",
    "Pumped",
    "SeededEntropy",
    "Sim",
    "SimHost",
    "SimNet",
    "Stuck",
    "TraceLine",
    "check_raw_stream",
    "check_stream",
    "misbehave",
    "pump",
    "run_sim",
    "simulated",
]
