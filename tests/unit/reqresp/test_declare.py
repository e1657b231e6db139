"""What a declaration says, and which declarations make no sense."""

import dataclasses
import math
import subprocess
import sys

import pytest

from pyp2p.errors import WireError
from pyp2p.reqresp.codec import Bounds, ByContext, Plain
from pyp2p.reqresp.declare import Deadlines, Limits, describe_methods
from pyp2p.reqresp.rate import Quota, Rate
from tests.unit.reqresp.support import BY_RANGE, GOODBYE, METADATA, PING, PROTOBUF


def test_the_protocol_id_follows_from_the_declaration():
    assert PING.protocol == "/eth2/beacon_chain/req/ping/1/ssz_snappy"
    assert PROTOBUF.protocol == "/test/proto/1"
    assert dataclasses.replace(PROTOBUF, version=2, framing=Plain("pb")).protocol == "/test/proto/2/pb"


def test_the_documentation_follows_from_the_declarations():
    ping = dataclasses.replace(PING, quota=Quota(Rate(0.2, 2), Rate(100, 100)), deadlines=Deadlines(response=5))
    assert describe_methods([ping, METADATA, BY_RANGE, GOODBYE]) == "\n".join(
        [
            "| protocol | request, bytes | chunk, bytes | chunks | quota per peer | deadline |",
            "|---|---|---|---|---|---|",
            "| `/eth2/beacon_chain/req/ping/1/ssz_snappy` | Ping, 8 | Ping, 8 | 1 | 0.2/s, burst 2 | 5 s |",
            "| `/eth2/beacon_chain/req/metadata/2/ssz_snappy` | nothing | MetaData, 17 | 1 | none | 30 s |",
            "| `/eth2/beacon_chain/req/beacon_blocks_by_range/2/ssz_snappy` | Range, 24 | by 4 context bytes "
            "| 0 to 128 | none | 30 s |",
            "| `/eth2/beacon_chain/req/goodbye/1/ssz_snappy` | Goodbye, 8 | Goodbye, 8 | 0 to 1 | none | 30 s |",
            "",
        ]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"family": "eth2"},
        {"family": "/eth2/"},
        {"name": ""},
        {"name": "a/b"},
        {"least": -1},
        {"least": 3, "ceiling": 2},
        {"least": 0, "ceiling": 0},
    ],
    ids=str,
)
def test_a_declaration_that_nobody_can_keep_is_refused(change):
    with pytest.raises(ValueError):
        dataclasses.replace(PING, **change)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("name", ["request", "response"])
def test_deadlines_are_finite_and_leave_time(name, seconds):
    with pytest.raises(ValueError):
        Deadlines(**{name: seconds})


@pytest.mark.parametrize("change", [{"concurrent": 0}, {"waiting": -1}, {"buckets": 0}], ids=str)
def test_limits_that_let_nothing_through_are_refused(change):
    with pytest.raises(ValueError):
        Limits(**change)


@pytest.mark.parametrize(("least", "most"), [(-1, 1), (2, 1)])
def test_bounds_that_nothing_keeps_are_refused(least, most):
    with pytest.raises(ValueError):
        Bounds(least, most)
    with pytest.raises(ValueError):
        ByContext(0, bytes, lambda _: None)


@pytest.mark.parametrize(("bounds", "shown"), [(Bounds(8, 8), "8"), (Bounds(0, 10), "0 to 10")])
def test_a_size_out_of_bounds_is_named_with_them(bounds, shown):
    bounds.check(8, "Ping")
    with pytest.raises(WireError) as caught:
        bounds.check(11, "Ping")
    assert str(caught.value) == f"Ping of 11 bytes, where {shown} are allowed"


def test_the_room_works_without_cramjam_and_says_what_snappy_needs():
    script = (
        "import sys; sys.modules['cramjam'] = None\n"
        "import pyp2p.reqresp.service\n"
        "try:\n    import pyp2p.reqresp.frames\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("install pyp2p[eth2]")
