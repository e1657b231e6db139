"""Mplex, the deprecated multiplexer without flow control, for peers that have nothing else."""

from pyp2p.muxers.mplex.core import Mplex, MplexSession

__all__ = ["Mplex", "MplexSession"]
