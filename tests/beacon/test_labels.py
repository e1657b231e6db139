"""Labels of connections and attempts that were really made."""

import random
import socket

import pytest
import trio

from pyp2p.beacon import labels
from pyp2p.errors import DialFailed
from pyp2p.peer.keys import Identity
from pyp2p.switch.switch import open_switch


async def test_a_refused_dial_and_a_connection_get_the_labels_of_go() -> None:
    with trio.fail_after(20), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        nobody = Identity.generate(entropy=random.Random(1).randbytes).peer
        async with open_switch(listen="/ip4/127.0.0.1/tcp/0") as b, open_switch(listen="/ip4/127.0.0.1/tcp/0") as a:
            with pytest.raises(DialFailed) as raised:
                await a.connect(nobody, [f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}"])
            (attempt,) = raised.value.attempts
            assert labels.dial_error(attempt) == ("tcp", "connection refused", "ip4")
            connection = await a.connect(b.peer, b.addresses)
            assert labels.connection(connection) == ("outbound", "tcp", "/noise", "/yamux/1.0.0", "true", "ip4")
            assert labels.key_type(connection) == ("outbound", "Ed25519")
