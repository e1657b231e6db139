"""pyp2p against go-, rust- and js-libp2p, both ways; the peers' sources lie beside, `peers.py` builds and runs them."""
