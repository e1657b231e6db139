"""`python -m tests.fuzz SECONDS [TARGET...]` fuzzes each target for its share of the time; 1 when one of them broke.

Inputs worth keeping between runs are in `.fuzz/<target>/`, a failing one in `.fuzz/<target>-crash-*`; move what is
instructive to `tests/fuzz/corpus/<target>/`, from where every run starts and which `test_corpus.py` replays.
"""

import re
import subprocess
import sys
from pathlib import Path

try:
    import atheris
except ImportError:  # no wheel for this platform
    atheris = None

HERE = Path(__file__).parent
KEPT = Path(".fuzz")
CHILD = "--child"


def fuzz(name: str, seconds: int) -> None:
    """In a process of its own, because libFuzzer ends it."""
    with atheris.instrument_imports(include=["pyp2p"]):
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


def main(arguments: list[str]) -> int:
    """Runs the targets one after the other and prints a line for each."""
    if arguments[:1] == [CHILD]:
        fuzz(arguments[1], int(arguments[2]))
        return 0
    from tests.fuzz.targets import TARGETS

    names = arguments[1:] or list(TARGETS)
    if not arguments or not arguments[0].isdecimal() or not set(names) <= set(TARGETS):
        print(f"usage: python -m tests.fuzz SECONDS [{'|'.join(TARGETS)}]...", file=sys.stderr)
        return 2
    if atheris is None:
        print("not fuzzed: atheris has no wheel for this Python")
        return 0
    share = max(1, int(arguments[0]) // len(names))
    failed = False
    for name in names:
        command = [sys.executable, "-m", "tests.fuzz", CHILD, name, str(share)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        runs = re.search(r"number_of_executed_units: (\d+)", done.stdout)
        print(
            f"{name}: {runs[1] if runs else '?'} inputs in {share} s{'' if not done.returncode else ', FAILED'}",
            flush=True,
        )
        if done.returncode:
            failed = True
            print(done.stdout[-4_000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
