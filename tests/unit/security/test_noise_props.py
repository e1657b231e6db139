"""Properties of the Noise handshake: no split of the bytes matters, and no bytes give anything but RemoteError."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyp2p.errors import NoiseError, RemoteError
from pyp2p.io.handshake import Direction
from pyp2p.security.noise.wire import MAX_PAYLOAD, decode_payload
from tests.unit.security.noise_tools import RecordedIdentity, field, transcript_cores
from tests.vectors import load

TRANSCRIPT = load("noise_libp2p")["transcripts"][2]
FRAMES = [bytes.fromhex(f) for f in TRANSCRIPT["frames"]]


def feed(core, data, sizes):
    """Feed `data` in pieces; returns (output, what follows the handshake)."""
    sent = core.take_output()
    for size in [*sizes, len(data)]:
        if core.done or not data:
            break
        core.feed(data[:size])
        data = data[size:]
        sent += core.take_output()
    return sent, (core.leftover if core.done else b"") + data


@settings(max_examples=40)
@given(st.lists(st.integers(1, 200), max_size=10), st.binary(max_size=50))
def test_any_split_gives_the_same_handshake(sizes, trailing):
    dialer, listener = transcript_cores(TRANSCRIPT)
    assert feed(dialer, FRAMES[1] + trailing, sizes) == (FRAMES[0] + FRAMES[2], trailing)
    assert feed(listener, FRAMES[0] + FRAMES[2] + trailing, sizes) == (FRAMES[1], trailing)
    for core in (dialer, listener):
        assert core.result.early_muxer == "/yamux/1.0.0"


@settings(max_examples=40)
@given(st.binary(max_size=400), st.sampled_from([b"", FRAMES[0], FRAMES[1][:100]]))
def test_junk_gives_nothing_but_remote_errors(data, start):
    for side, direction in (("initiator", Direction.OUTBOUND), ("responder", Direction.INBOUND)):
        core = RecordedIdentity(TRANSCRIPT[side]).handshake(direction)
        try:
            core.feed(start + data)
        except RemoteError:
            continue
        assert not core.done


def test_a_payload_over_its_bound_is_not_decoded():
    valid = bytes.fromhex(TRANSCRIPT["initiator"]["payload"])
    padding = field(100, bytes(MAX_PAYLOAD - len(valid) - 4))
    assert len(valid + padding) == MAX_PAYLOAD
    assert decode_payload(valid + padding) == decode_payload(valid)
    with pytest.raises(NoiseError):
        decode_payload(valid + padding + b"\x18\x00")


@given(st.binary(max_size=400))
def test_payloads_give_nothing_but_remote_errors(data):
    try:
        decode_payload(data)
    except RemoteError:
        return
