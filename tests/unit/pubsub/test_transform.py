"""Data transforms: snappy blocks of the vectors, bounds that are judged before anything is decompressed."""

import subprocess
import sys
import tracemalloc

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import LocalProtocolError
from pyp2p.io.varint import encode
from pyp2p.pubsub import snappy
from pyp2p.pubsub.snappy import MAX_PAYLOAD, Snappy
from pyp2p.pubsub.transform import DataTransform, Plain
from tests.vectors import load

VECTORS = load("snappy")
SNAPPY: DataTransform = Snappy()


class NoDecompression:
    """cramjam's snappy, where only lengths may be asked for."""

    decompress_raw_len = staticmethod(cramjam.snappy.decompress_raw_len)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that decompresses fails."""

    class Patched:
        snappy = NoDecompression
        DecompressionError = cramjam.DecompressionError

    monkeypatch.setattr(snappy, "cramjam", Patched)


@pytest.mark.parametrize("entry", VECTORS["block_valid"], ids=lambda entry: entry["name"])
def test_a_valid_block_of_the_vectors(entry: dict) -> None:
    expected = bytes(1024) if entry["data"] is None else bytes.fromhex(entry["data"])
    assert SNAPPY.inbound("t", bytes.fromhex(entry["compressed"])) == expected


@pytest.mark.parametrize("entry", VECTORS["block_invalid"], ids=lambda entry: entry["name"])
def test_an_invalid_block_of_the_vectors(entry: dict) -> None:
    assert SNAPPY.inbound("t", bytes.fromhex(entry["compressed"])) is None


@given(
    st.binary(max_size=2000) | st.builds(lambda part, times: part * times, st.binary(max_size=9), st.integers(0, 999))
)
def test_what_goes_out_comes_in(payload: bytes) -> None:
    for transform in (SNAPPY, Plain()):
        assert transform.inbound("t", transform.outbound("t", payload)) == payload


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_none(data: bytes) -> None:
    payload = SNAPPY.inbound("t", data)
    assert payload is None or type(payload) is bytes


def test_plain_changes_nothing() -> None:
    data = b"data"
    assert Plain().outbound("t", data) is data and Plain().inbound("t", data) is data


@pytest.mark.hostile
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("ffffffff0f"),
        bytes.fromhex("ffffffff0f") + bytes(1000),
        b"\xff" * 9 + b"\x01",
        encode(MAX_PAYLOAD + 1) + bytes(MAX_PAYLOAD),
        encode(MAX_PAYLOAD) + bytes(1000),
        encode(1000),
        b"\x80",
        b"\xff" * 20,
        bytes(32 + MAX_PAYLOAD + MAX_PAYLOAD // 6 + 1),
    ],
    ids=[
        "4 GiB of nothing",
        "4 GiB",
        "2**64",
        "one byte over",
        "10 MiB of 1000 bytes",
        "no body",
        "half a header",
        "long header",
        "data over",
    ],
)
def test_hostile_070_a_header_over_the_bounds_ends_there(data: bytes) -> None:
    assert SNAPPY.inbound("t", data) is None


@pytest.mark.hostile
@pytest.mark.usefixtures("untouched")
def test_hostile_071_zeros_are_not_inflated() -> None:
    data = bytes(cramjam.snappy.compress_raw(bytes(64 << 20)))
    assert len(data) < 4 << 20
    tracemalloc.start()
    try:
        assert SNAPPY.inbound("t", data) is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_bounds_are_exact() -> None:
    small = Snappy(1000)
    for payload in (bytes(1000), bytes(range(250)) * 4, b"\x00\x01" * 500):
        assert small.inbound("t", small.outbound("t", payload)) == payload
    assert small.inbound("t", bytes(cramjam.snappy.compress_raw(bytes(1001)))) is None
    with pytest.raises(LocalProtocolError):
        small.outbound("t", bytes(1001))


def test_ten_mib_of_the_best_case_for_compression_is_taken() -> None:
    """Copies of 64 bytes only: what the bound on growth has to let through."""
    payload = bytes(MAX_PAYLOAD)
    data = SNAPPY.outbound("t", payload)
    assert len(data) < MAX_PAYLOAD // 20
    assert SNAPPY.inbound("t", data) == payload
    shortest = encode(1 + 64 * 1000) + b"\x00a" + b"\xfe\x01\x00" * 1000
    assert SNAPPY.inbound("t", shortest) == b"a" * (1 + 64 * 1000)


def test_data_that_nobody_compressed_well_is_taken() -> None:
    """A literal for each byte is within the bound of compressed data only when it is small."""
    for size, taken in ((6, True), (1000, False)):
        data = encode(size) + b"\x00x" * size
        assert (Snappy(size).inbound("t", data) == b"x" * size) is taken


def test_without_cramjam_only_snappy_is_missing() -> None:
    program = (
        "import sys\nsys.modules['cramjam'] = None\n"
        "import pyp2p.pubsub.transform, pyp2p.pubsub.wire, pyp2p.pubsub.ids\n"
        "try:\n    import pyp2p.pubsub.snappy\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "pyp2p[eth2]" in done.stdout


def test_each_topic_may_have_a_bound_of_its_own() -> None:
    limited = Snappy({"small": 10}.__getitem__)
    data = Snappy().outbound("small", bytes(11))
    assert limited.inbound("small", data) is None
    assert limited.inbound("small", Snappy().outbound("small", bytes(10))) == bytes(10)
    with pytest.raises(LocalProtocolError, match="over the limit of 10"):
        limited.outbound("small", bytes(11))
