"""Every seed, every kept finding and plain noise through each fuzz target, without the fuzzer."""

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.hostile
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_only_remote_errors(target: Target) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]
    rng = random.Random(target.name)
    noise = [rng.randbytes(rng.randrange(200)) for _ in range(target.noise)]
    cut = [seed[: rng.randrange(len(seed) + 1)] for seed in target.seeds]
    flipped = [bytes(byte ^ (rng.random() < 0.02) * rng.randrange(256) for byte in seed) for seed in target.seeds]
    for data in (*target.seeds, *kept, *noise, *cut, *flipped):
        target.one(data)
