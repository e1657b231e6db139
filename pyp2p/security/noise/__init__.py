"""libp2p Noise: `Noise` is what a switch offers; core.py has the rules."""

from pyp2p.security.noise.core import Noise

__all__ = ["Noise"]
