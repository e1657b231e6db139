"""What a request costs the core of discv5, in calls: a measure that is the same on every machine."""

import gc
import sys
from collections.abc import Callable

import pytest

from tests.bench.discovery_core import FEW, FULL, Couple

REQUESTS = 20


def calls(work: Callable[[], None]) -> float:
    """Functions called for one request, by Python and by C."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()  # what the first one sets up is not counted
    gc.disable()  # what is collected would count
    sys.setprofile(seen)
    try:
        for _ in range(REQUESTS):
            work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count / REQUESTS


@pytest.mark.parametrize("kind", ["ping", "talk", "find_node"])
def test_the_cost_of_a_request_does_not_depend_on_the_size_of_the_table(kind: str) -> None:
    few, full = (calls(getattr(Couple(nodes), kind)) for nodes in (FEW, FULL))
    assert full == pytest.approx(few, rel=0.05)  # shuffling an answer takes a number of calls that is random
