"""Properties of multistream-select: splits change nothing, two cores agree on what a set says they should."""

from hypothesis import given
from hypothesis import strategies as st

from pyp2p.errors import MultistreamError, NoCommonProtocol, RemoteError
from pyp2p.multistream.core import Dialer, Listener
from pyp2p.multistream.wire import HEADER, NA, encode_line

ids = st.sampled_from([f"/p/{n}" for n in range(6)])
lines = st.one_of(
    ids.map(encode_line), st.sampled_from([HEADER, NA, encode_line("ls"), b"\x01\n", b"\x00"]), st.binary()
)
inputs = st.tuples(st.sampled_from([HEADER, b""]), st.lists(lines, max_size=8)).map(lambda t: t[0] + b"".join(t[1]))
cuts = st.lists(st.integers(1, 12), max_size=12)


def run(core, data, sizes):
    """(kind of end, result, leftover, output) after feeding `data` in pieces of `sizes`."""
    sent = core.take_output()
    end = "open"
    sizes = iter(sizes)
    try:
        while data and not core.done:
            size = next(sizes, len(data))
            core.feed(data[:size])
            data = data[size:]
            sent += core.take_output()
    except (MultistreamError, NoCommonProtocol) as error:
        end = type(error).__name__
        sent += core.take_output()
    if core.done:
        return "done", core.result, core.leftover + data, sent
    return end, None, b"", sent


@given(inputs, cuts, st.lists(ids, min_size=1, max_size=4))
def test_any_split_gives_the_dialer_the_same_end(data, sizes, offers):
    assert run(Dialer(offers), data, sizes) == run(Dialer(offers), data, ())


@given(inputs, cuts, st.sets(ids))
def test_any_split_gives_the_listener_the_same_end(data, sizes, ours):
    def make():
        return Listener(ours.__contains__, lambda: sorted(ours))

    assert run(make(), data, sizes) == run(make(), data, ())


@given(st.lists(ids, min_size=1, max_size=6), st.sets(ids))
def test_two_cores_agree_on_the_first_offer_that_is_known(offers, ours):
    dialer = Dialer(offers)
    listener = Listener(ours.__contains__, lambda: sorted(ours))
    common = next((offer for offer in offers if offer in ours), None)
    try:
        while not dialer.done:
            listener.feed(dialer.take_output())
            dialer.feed(listener.take_output())
    except NoCommonProtocol:
        assert common is None
        assert not listener.done
    else:
        assert dialer.result == listener.result == common


@given(st.binary(max_size=3000))
def test_noise_after_the_header_gives_nothing_but_remote_errors(data):
    for core in (Dialer(["/p/1"]), Listener({"/p/1"}.__contains__)):
        try:
            core.feed(HEADER + data)
        except (RemoteError, NoCommonProtocol):
            continue
