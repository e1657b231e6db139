"""libp2p TLS 1.3: `Tls` is what a switch offers; core.py has the rules. Needs the extra `tls`."""

from pyp2p.security.tls.core import Tls

__all__ = ["Tls"]
