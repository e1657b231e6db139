"""What `open_discv5` is given: what cannot be meant is refused, and the reason says what can."""

from ipaddress import ip_address
from typing import Any

import pytest

from pyp2p.discv5.enr import Enr
from pyp2p.discv5.service import open_discv5
from pyp2p.errors import LocalProtocolError
from pyp2p.testing import Sim, simulated
from tests.discv5.support import PORT, identity, node, nodes

FORM = r"like \[\('127.0.0.1', 9000\)\]"
RECORD = Enr.sign(identity("other"), 1, {})
HERE = {"ip": ip_address("50.0.0.1"), "udp": 9}

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "bootnodes_text": ({"bootnodes": RECORD.text}, TypeError, "bootnodes takes a list"),
    "bootnodes_record": ({"bootnodes": RECORD}, TypeError, "bootnodes takes a list"),
    "listen_port": ({"listen": [("127.0.0.1", 70000)]}, ValueError, "listen: port 70000"),
    "listen_port_negative": ({"listen": [("127.0.0.1", -1)]}, ValueError, "listen: port -1"),
    "listen_one": ({"listen": ("127.0.0.1", 9000)}, ValueError, f"listen: .* {FORM}, not"),
    "listen_text": ({"listen": "127.0.0.1"}, ValueError, f"listen: .* {FORM}, not"),
    "listen_port_text": ({"listen": [("127.0.0.1", "9000")]}, ValueError, f"listen: .* {FORM}, not"),
    "listen_port_missing": ({"listen": ["127.0.0.1"]}, ValueError, f"listen: .* {FORM}, not"),
    "advertise_one": ({"advertise": ("50.0.0.1", 9000)}, ValueError, f"advertise: .* {FORM}, not"),
    "advertise_port": ({"advertise": [("50.0.0.1", 70000)]}, ValueError, "advertise: port 70000"),
    "advertise_name": ({"advertise": [("localhost", 7)]}, ValueError, "localhost"),
    "advertise_two": ({"advertise": [("50.0.0.1", 1), ("50.0.0.2", 1)]}, ValueError, "one address of an IP version"),
    "pairs_ip": ({"pairs": HERE}, ValueError, r"'ip' .* advertise=\[\(IP, PORT\)\], or advertise=\(\)"),
    "pairs_udp6": ({"pairs": {"udp6": 9}}, ValueError, "'udp6' says where we are"),
    "pairs_and_advertise": ({"pairs": HERE, "advertise": [("50.0.0.1", 9)]}, ValueError, "'ip' says where we are"),
    "pairs_port_text": ({"pairs": {"tcp": "9000"}}, LocalProtocolError, "the entry 'tcp'.* not str"),
}


@pytest.mark.parametrize(("given", "error", "why"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_meant_is_refused(given: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        async with open_discv5(identity("a"), **given):
            pass


@simulated(seeds=(1,))
async def test_entries_say_where_we_are_when_nothing_else_does(sim: Sim) -> None:
    async with node(sim, "a", "50.0.0.9", pairs=HERE, advertise=()) as a:
        assert (a.record.ip, a.record.udp) == (HERE["ip"], 9)
    both = [("50.0.0.7", 5), ("2600::1", 6)]
    async with node(sim, "b", "50.0.1.9", pairs={"tcp": 3}, advertise=both) as b:
        assert [(each.ip, each.port) for each in (b.record.udp_endpoint(4), b.record.udp_endpoint(6)) if each] == both
    async with node(sim, "c", "50.0.2.9", listen=(place for place in [("50.0.2.9", PORT)])) as c:
        assert c.record.udp == PORT


@simulated(seeds=(1,))
async def test_a_text_in_place_of_bytes_is_refused(sim: Sim) -> None:
    async with nodes(sim, 2) as (a, b):
        with pytest.raises(LocalProtocolError, match="not str"):
            await a.talk(b.record, "echo", b"x")  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="not str"):
            await a.talk(b.record, b"echo", "x")  # type: ignore[arg-type]
        before = a.record
        for wrong in ({"client": ["a"]}, {"udp": "99"}, {"x": {}}, {"id": None}):
            with pytest.raises(LocalProtocolError, match=f"entry '{next(iter(wrong))}'"):
                a.set_record(**wrong)  # type: ignore[arg-type]
        assert a.record == before
