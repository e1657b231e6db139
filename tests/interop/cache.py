"""The folders in which programs for the interop tests are kept: filled once, by one process at a time."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class PeerUnavailable(Exception):
    """The program cannot be had here: no toolchain, or its build or its download failed."""


def cache_folder() -> Path:
    """Where all of them are."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return base / "pyp2p" / "peers"


def cached(name: str, version: str, fill: Callable[[Path, Path], None]) -> Path:
    """The folder of this version; without one `fill(work, finished)` makes it, with `work` to work in.

    What was made is renamed into its place: half of it is never seen. Whatever `fill` raises goes to the caller.
    """
    place = cache_folder() / f"{name}-{version}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place.parent) as temporary:
                work, finished = Path(temporary, "work"), Path(temporary, "finished")
                work.mkdir()
                finished.mkdir()
                fill(work, finished)
                finished.rename(place)
    return place


def run_step(
    said: str, words: Sequence[str], seconds: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a step of getting a program. Raises `PeerUnavailable` with the end of what it printed, or when it is late."""
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"{said} took more than {seconds:g} s") from error
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-2_000:]
        raise PeerUnavailable(f"{said} ended with {done.returncode}\n{tail}")
