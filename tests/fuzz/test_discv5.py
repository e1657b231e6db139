"""Mutated datagrams in great number through one node of discv5 that lives on, without the fuzzer.

`python -m tests.fuzz SECONDS discv5_datagram discv5_message` does the same for as long as one likes, a new node for
each input.
"""

import tracemalloc

import pytest

from tests.fuzz import datagrams, discovery


def test_the_datagrams_of_the_corpus_are_taken() -> None:
    """Else mutants of them would test the first check only."""
    counters = []
    for data in discovery.datagrams():
        here, friend, stranger, _ = discovery.world()
        for sender in discovery.senders(friend, stranger):
            here.feed(data, sender)
        counters.append(here.node.counters)
    assert not any(counter["bad packets"] or counter["bad messages"] for counter in counters)
    assert sum(counter["sessions"] for counter in counters) == 1
    assert sum(counter["handshakes refused"] for counter in counters) == 2
    assert any(counter["answers unasked"] for counter in counters)


@pytest.mark.hostile
@pytest.mark.slow
def test_a_node_that_lives_on() -> None:
    """Thirty thousand: no exception, no growth after the first third, few signature checks.

    `scripts/test` runs a million, without measuring each allocation, and ten million are a matter of minutes.
    """
    tracemalloc.start()
    try:
        fed, checks, held = datagrams.flood(3, 1, lambda: tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert fed >= 30_000 and 0 < checks <= fed / 100
    assert held[-1] - held[0] < 100_000
