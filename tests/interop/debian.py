"""Programs that the interop tests need and Debian has: the one on PATH, else unpacked from packages into the cache.

Nothing is installed and nobody has to be root: apt is given folders of its own for its lists and for what it downloads.
It takes what this machine lacks of the packages and of all that they depend on; the rest is there already.
"""

import functools
import hashlib
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.cache import PeerUnavailable, cached, run_step

TOOLS = ("apt-get", "dpkg-deb")
APT_SECONDS = 600  # for one step
# What is installed is read from the usual place, so that only the rest is taken. `{}` is a folder of ours.
APT = (
    "Dir::State::lists={}/lists",
    "Dir::Cache={}/cache",
    "Dir::Cache::archives={}/cache/archives",
    "Debug::NoLocking=true",
    "APT::Sandbox::User=",
    "APT::Update::Error-Mode=any",
    "Acquire::Languages=none",
)


@dataclass(frozen=True)
class Program:
    """The names that a program may have on PATH, the best first; else the packages that have it, and where."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    file: str  # in the unpacked folder


def command(program: Program) -> list[str]:
    """The command line of a program, to which flags are added: the one on PATH, else that of its packages.

    Raises `PeerUnavailable`.
    """
    found = next((path for name in program.names if (path := shutil.which(name))), None)
    if found is not None:
        return [found]
    root = unpacked(program.packages)
    if not (root / program.file).exists():
        raise PeerUnavailable(f"{program.file}: not in the packages {' '.join(program.packages)}")
    return ["env", f"LD_LIBRARY_PATH={library_path(root)}", str(root / program.file)]


def unpacked(packages: Sequence[str]) -> Path:
    """The folder in which `packages` lie as they would below `/`, with those of their dependencies that this machine
    lacks (recommended ones left out). Takes seconds to minutes the first time. Raises `PeerUnavailable`.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise PeerUnavailable(f"{packages[0]}: {' and '.join(missing)} not found")
    told = (repr(sorted(packages)), platform.machine(), _release(), *APT)
    version = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return cached(packages[0], version, functools.partial(_fill, packages))


def library_path(root: Path) -> str:
    """LD_LIBRARY_PATH for the programs of an unpacked folder: every folder of it that has shared libraries."""
    folders = {file.parent for top in ("lib", "usr/lib") for file in (root / top).rglob("lib*.so*")}
    return ":".join(map(str, sorted(folders)))


def _release() -> str:
    """The release that runs here: packages of another one do not fit."""
    try:
        return platform.freedesktop_os_release().get("VERSION", "")
    except OSError:
        return ""


def _fill(packages: Sequence[str], work: Path, finished: Path) -> None:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    apt = ["apt-get", "-qq", *(word for option in APT for word in ("-o", option.format(work)))]
    _run(packages[0], *apt, "update")
    _run(packages[0], *apt, "--yes", "--no-install-recommends", "--download-only", "install", *packages)
    for archive in sorted((work / "cache" / "archives").glob("*.deb")):
        _run(packages[0], "dpkg-deb", "--extract", str(archive), str(finished))


def _run(name: str, *words: str) -> None:
    run_step(f"{name}: {words[0]} {words[-1]}", words, APT_SECONDS)
