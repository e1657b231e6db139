"""A libp2p node for trio: `open_switch` is the way in."""
