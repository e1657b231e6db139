"""`python -m tests.fuzz SECONDS [TARGET...]` fuzzes each target for its share of the time; 1 when one of them broke.

`python -m tests.fuzz datagrams COUNT` sends so many to one node of discv5 (datagrams.py).
`python -m tests.fuzz --replay TARGET FILE` runs one input again. Inputs worth keeping between runs are in
`.fuzz/<target>/`, a failing one in `.fuzz/<target>-crash-*`; move what is instructive to `tests/fuzz/corpus/<target>/`,
from where every run starts and which `test_corpus.py` replays. Without atheris, inputs are mutated blindly.
"""

import hashlib
import io
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

try:
    import atheris
except ImportError:  # no wheel for this platform
    atheris = None

HERE = Path(__file__).parent
KEPT = Path(".fuzz")
WATCHED = ["pyp2p", "aioquic", "wsproto", "h11"]  # whose code is to be reached
REPLAY = "--replay"
DATAGRAMS = "datagrams"


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A seed after one to four random changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randrange(4):
            case 0:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
            case _:
                other = rng.choice(seeds)
                data[at:] = other[rng.randint(0, len(other)) :]
    return bytes(data)


def fuzz_blindly(name: str, seconds: int) -> None:
    """Mutates the seeds without looking at what they reach, for platforms that atheris has no wheel for."""
    from tests.fuzz.targets import MAX_INPUT, TARGETS

    seeds = [*TARGETS[name].seeds, *(path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*")))]
    rng = random.Random()
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = mutated(rng, seeds)[:MAX_INPUT]
        fine = False
        try:
            TARGETS[name].one(data)
            fine = True
        finally:
            if not fine:
                KEPT.mkdir(exist_ok=True)
                (KEPT / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
        count += 1
    print(f"number_of_executed_units: {count}")


def replay(name: str, path: str) -> int:
    """Runs one input, as the fuzzer did."""
    from tests.fuzz.targets import TARGETS

    TARGETS[name].one(Path(path).read_bytes())
    print(f"{name}: {path} is fine")
    return 0


def fuzz(name: str, seconds: int) -> None:
    """Mutates what reaches new code, and ends the process, as libFuzzer does."""
    from tests.fuzz.targets import MAX_INPUT, TARGETS

    new, seeds = KEPT / name, KEPT / f"{name}.seeds"
    for folder in (new, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (seeds / str(number)).write_bytes(seed)
    committed = [str(folder) for folder in (HERE / "corpus" / name,) if folder.is_dir()]
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-artifact_prefix={KEPT}/{name}-", "-timeout=5"]
    arguments = [sys.argv[0], str(new), str(seeds), *committed, *options, "-rss_limit_mb=1024", "-print_final_stats=1"]
    atheris.Setup(arguments, TARGETS[name].one)
    atheris.Fuzz()


def forked(work: Callable[[str, int], None], name: str, seconds: int) -> tuple[int, str]:
    """How a process of its own ended and what it said; it begins with all that is loaded here, which takes seconds."""
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        process = os.fork()
        if not process:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            work(name, seconds)
            sys.exit(0)  # as what libFuzzer raises: on the way out it keeps the input that failed
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        said.seek(0)
        return code, said.read().decode(errors="replace")


def main(arguments: list[str]) -> int:
    """Runs the targets one after the other and prints a line for each."""
    if arguments[:1] == [DATAGRAMS] and len(arguments) > 1:
        from tests.fuzz import datagrams

        return datagrams.main(arguments[1:])
    if arguments[:1] == [REPLAY] and len(arguments) == 3:
        return replay(*arguments[1:])
    with redirect_stderr(io.StringIO()), nullcontext() if atheris is None else atheris.instrument_imports(WATCHED):
        from tests.fuzz.targets import TARGETS  # which atheris has a line about for each module

    names = arguments[1:] or list(TARGETS)
    if not arguments or not arguments[0].isdecimal() or not set(names) <= set(TARGETS):
        print(f"usage: python -m tests.fuzz SECONDS [{'|'.join(TARGETS)}]... or datagrams COUNT", file=sys.stderr)
        return 2
    if atheris is None:
        print("atheris has no wheel for this Python: inputs are mutated blindly")
    share = max(1, int(arguments[0]) // len(names))
    failed = False
    for name in names:
        known = set(KEPT.glob(f"{name}-*"))
        code, said = forked(fuzz_blindly if atheris is None else fuzz, name, share)
        runs = re.search(r"number_of_executed_units: (\d+)", said)
        print(
            f"{name}: {runs[1] if runs else '?'} inputs in {share} s{', FAILED' if code else ''}",
            flush=True,
        )
        if code:
            failed = True
            print(said[-4_000:])
            for found in sorted(set(KEPT.glob(f"{name}-*")) - known):
                print(f"again: python -m tests.fuzz {REPLAY} {name} {found}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
