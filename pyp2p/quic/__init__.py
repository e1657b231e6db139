"""QUIC v1: a transport, TLS and a multiplexer in one. `base.py` is what a switch knows of it; the rest needs the extra
`quic`."""
