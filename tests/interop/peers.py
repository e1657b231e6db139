"""Builds and runs the reference peers: go-, rust- and js-libp2p behind one set of sub-commands and flags.

A peer is built from the sources beside this file, once, into
`${XDG_CACHE_HOME:-~/.cache}/pyp2p/peers/<language>-<hash of sources>`. Its sub-commands:

- `listen [--port N]` prints `LISTEN <multiaddr>` and serves identify, ping, `/perf/1.0.0` and `/echo/1.0.0` until its
  standard input closes;
- `identify|perf|ping|handshakes|streams|idle ADDR` dial it and print JSON lines (`--upload --download --runs`,
  `--count`, `--concurrency`, `--hold`); go also has `hold ADDR` (keeps a connection and tells what push taught it);
- `pubsub-listen --topic T --count N` prints `LISTEN` and counts; `pubsub ADDR --topic T --count N --size S` publishes
  incompressible messages as fast as it can: for the benchmarks;
- `mesh --topic T [--connect ADDR]...` is a gossipsub node: prints `LISTEN`, dials, joins the topic and tells what
  happens, until its standard input ends or says `quit`. See below.

All three take `--sign strict|eth2` (StrictSign with the id from||seqno; StrictNoSign with the altair id and a snappy
block as data), `--max-size BYTES` (of an RPC, 10 MiB by default) and `--heartbeat-ms N`. `mesh --no-push` sends nothing
in full that was not asked for: it grafts nobody, so that what it has is found by IHAVE and IWANT alone.

`mesh` publishes what a line of its standard input stands for: hex, `size:N:SEED` (byte i is (i*31 + SEED) mod 251, the
first eight are the SEED, big endian) or `random:N:SEED` (SHA-256 of the SEED and a counter, eight bytes each, cut to N:
incompressible). Its output is one JSON object a line and has to be read, or the peer stops at a full pipe:

- `{"event": "published", "size", "sha256"}`, or `failed` with `error`;
- `{"event": "message", "topic", "from", "received_from", "size", "sha256"}` for every delivery (`from` is null without
  an author; size and hash are of the payload, decompressed);
- `{"event": "peers", "topic", "count", "mesh"}` whenever the number of the topic's peers or of mesh peers changes;
- `{"event": "ihave"|"iwant"|"idontwant", "dir": "in"|"out", "peer", "count"}` and
  `{"event": "graft"|"prune", "dir", "peer", "topic"}` for the control messages of each RPC;
- `{"event": "rejected"|"dropped", "peer", "reason"}` where the implementation tells it (go, rust).

Flags of both sides: `--transport tcp|ws|wss|quic`, `--security noise|tls`, `--muxer yamux|mplex|both`, `--key TYPE`
(see `KEY_TYPES`); go's `listen` takes `--push-after DURATION`. `wss` needs `--web-cert FILE`, a certificate and its key
as PEM, which a listener shows; as a dialler rust takes this one, go and js any. All of them talk to loopback only.

Two more speak discv5 (go-discv5: go-ethereum, js-discv5: @chainsafe/discv5): `listen` prints `LISTEN <record>` and does
what lines of its standard input ask for; `ping|enr|findnode|talkreq|lookup|sessions RECORD` print a JSON line each.
Their flags and lines are in docs/interop.md.

Programs that the tests need besides are got from Debian (debian.py): a redis server, and a
Chromium for the page in `browser` (browser_support.py).

    python -m tests.interop.peers build     builds every peer whose toolchain is here and says how it went
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pytest
import trio

from tests.interop import debian
from tests.interop.cache import PeerUnavailable, cached, run_step
from tests.interop.debian import Program

HERE = Path(__file__).parent
BUILD_SECONDS = 1_500  # a cold rust build takes five minutes on two cores
START_SECONDS = 30
STOP_SECONDS = 5
LINE_LIMIT = 1 << 20  # a peer that prints a longer line is broken


class PeerFailed(Exception):
    """The peer ended with an error, printed something unexpected or did not start in time."""


@dataclass(frozen=True)
class Recipe:
    """How one peer is built, in a copy of its sources, and started."""

    tools: tuple[str, ...]
    sources: tuple[str, ...]
    build: tuple[str, ...]
    environment: dict[str, str]
    keep: tuple[str, ...]  # what of the build folder goes to the cache
    command: tuple[str, ...]  # `{}` is the cached folder


RECIPES = {
    "go": Recipe(
        tools=("go",),
        sources=("go.mod", "go.sum", "main.go", "mesh.go", "pb.go", "wss.go"),
        build=("go", "build", "-buildvcs=false", "-trimpath", "-o", "gopeer", "."),
        environment={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        keep=("gopeer",),
        command=("{}/gopeer",),
    ),
    "rust": Recipe(
        tools=("cargo",),
        sources=("Cargo.toml", "src/main.rs", "src/mesh.rs", "src/proto.rs"),
        build=("cargo", "build", "--release", "--quiet"),
        environment={"CARGO_TARGET_DIR": "target", "CARGO_TERM_COLOR": "never"},
        keep=("target/release/peer",),
        command=("{}/peer",),
    ),
    "js": Recipe(
        tools=("node", "npm"),
        sources=("package.json", "mesh.mjs", "peer.mjs"),
        build=(
            "npm",
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ),
        environment={},
        keep=("package.json", "mesh.mjs", "peer.mjs", "node_modules"),
        command=("node", "{}/peer.mjs"),
    ),
}
RECIPES["go-discv5"] = replace(
    RECIPES["go"],
    sources=("go.mod", "go.sum", "main.go"),
    build=("go", "build", "-buildvcs=false", "-trimpath", "-o", "discv5peer", "."),
    keep=("discv5peer",),
    command=("{}/discv5peer",),
)
RECIPES["go-devp2p"] = replace(  # go-ethereum's own command, which has a conformance suite for discv5
    RECIPES["go"],
    sources=("go.mod", "go.sum"),
    build=(*RECIPES["go"].build[:-3], "-o", "devp2p", "github.com/ethereum/go-ethereum/cmd/devp2p"),
    keep=("devp2p",),
    command=("{}/devp2p",),
)
RECIPES["js-discv5"] = replace(
    RECIPES["js"],
    sources=("package.json", "peer.mjs"),
    keep=("package.json", "peer.mjs", "node_modules"),
)
_ETH2 = (
    "package.json",
    *(f"{name}.mjs" for name in ("peer", "bench", "chain", "exchange", "gossip", "methods", "misbehave", "wire")),
)
RECIPES["js-eth2"] = replace(RECIPES["js"], sources=_ETH2, keep=(*_ETH2, "node_modules"))
RECIPES["browser"] = replace(  # a page
    RECIPES["js"],
    sources=("package.json", "package-lock.json", "index.html", "page.mjs"),
    build=("npm", "run", "build", "--loglevel=error"),
    keep=("index.html", "page.js"),
    command=("{}",),
)
# Programs that are no peers.
PROGRAMS = {
    "redis-server": Program(("redis-server",), ("redis-server",), "usr/bin/redis-server"),
    "chromium": Program(  # the package's own command names its folder below `/`
        ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
        ("chromium-headless-shell",),
        "usr/lib/chromium/chromium-headless-shell",
    ),
}
LANGUAGES = ("go", "rust", "js")  # the peers that speak libp2p
DISCV5 = ("go-discv5", "js-discv5")

# What the peers cannot do is part of the matrix (matrix.py): rust-libp2p is built without ECDSA and RSA and sends no
# early muxer list, js-libp2p has no ECDSA peer ids; only go can be told to change its protocols while it runs.
KEY_TYPES = {
    "go": ("ed25519", "secp256k1", "ecdsa", "rsa"),
    "rust": ("ed25519", "secp256k1"),
    "js": ("ed25519", "secp256k1", "rsa"),
}
EARLY_MUXER = {"go": True, "rust": False, "js": True}
PUSHES_ON_DEMAND = {"go": True, "rust": False, "js": False}


def _source_hash(language: str) -> str:
    recipe = RECIPES[language]
    digest = hashlib.sha256(repr(recipe).encode())
    for name in recipe.sources:
        content = (HERE / language / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _run_build(language: str, work: Path) -> None:
    recipe = RECIPES[language]
    said = f"{language}: {' '.join(recipe.build)}"
    run_step(said, recipe.build, BUILD_SECONDS, cwd=work, env=os.environ | recipe.environment)


def _build(language: str) -> Path:
    """The folder of the built peer. Raises `PeerUnavailable`."""
    recipe = RECIPES[language]
    missing = [tool for tool in recipe.tools if shutil.which(tool) is None]
    if missing:
        raise PeerUnavailable(f"{language}: {' and '.join(missing)} not found")

    def fill(work: Path, finished: Path) -> None:
        for source in recipe.sources:
            (work / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HERE / language / source, work / source)
        _run_build(language, work)
        for kept in recipe.keep:
            shutil.move(work / kept, finished / Path(kept).name)

    return cached(language, _source_hash(language), fill)


@functools.cache
def _ensure(name: str) -> list[str] | PeerUnavailable:
    """The command line, or why there is none: remembered, so that a failing build is tried once per run."""
    try:
        if name in PROGRAMS:
            return debian.command(PROGRAMS[name])
        place = _build(name)
    except PeerUnavailable as error:
        return error
    return [part.format(place) for part in RECIPES[name].command]


def command(name: str) -> list[str]:
    """The command line of a built peer or of a program, to which flags are added; builds it when needed (minutes).

    Raises `PeerUnavailable`.
    """
    words = _ensure(name)
    if isinstance(words, PeerUnavailable):
        raise words
    return list(words)


def require(name: str) -> None:
    """For fixtures: builds the peer; without it the test is skipped, or fails when PYP2P_REQUIRE_INTEROP=1."""
    try:
        command(name)
    except PeerUnavailable as error:
        if os.environ.get("PYP2P_REQUIRE_INTEROP") == "1":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def _tail(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2_000))
    return errors.read().decode(errors="replace").strip()


@dataclass
class Peer:
    """A running peer program. `address` is what it printed, with its peer id; of a discv5 peer it is its record."""

    language: str
    process: trio.Process
    _errors: IO[bytes] = field(repr=False)  # a file: a pipe that nobody reads fills up
    address: str = ""
    _received: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def peer_id(self) -> str:
        """The text after `/p2p/`."""
        return self.address.rpartition("/p2p/")[2]

    @property
    def pid(self) -> int:
        """For measuring its memory."""
        return self.process.pid

    def kill(self) -> None:
        """Ends the program at once, as a crash would: its kernel closes its sockets."""
        self.process.kill()

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        return _tail(self._errors)

    async def line(self) -> str:
        """The next line of its standard output. Raises `PeerFailed` at its end."""
        stdout = self.process.stdout
        assert stdout is not None
        while b"\n" not in self._received:
            data = await stdout.receive_some(65_536)
            if not data or len(self._received) > LINE_LIMIT:
                raise PeerFailed(f"{self.language} peer: no further line\n{self.errors()}")
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line.decode()

    async def write_line(self, line: str) -> None:
        """Gives it a line of standard input: what `mesh` is to publish."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line.encode() + b"\n")

    async def ask(self, line: str) -> dict[str, Any]:
        """Gives it a line and reads the JSON line that answers: for `listen` of the discv5 peers."""
        await self.write_line(line)
        return dict(json.loads(await self.line()))

    async def _stop(self) -> None:
        """Closes its standard input, waits a little, kills what is left; runs also when the test was cancelled."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with trio.CancelScope(shield=True):
            await self.process.stdin.aclose()
            with trio.move_on_after(STOP_SECONDS):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            await self.process.stdout.aclose()
        self._errors.close()


@asynccontextmanager
async def open_peer(language: str, *flags: str, subcommand: str = "listen") -> AsyncIterator[Peer]:
    """A listening peer for the time of the block. Raises `PeerUnavailable`, or `PeerFailed` when it does not start.

    Ask for the peer in a fixture first (`require`): building it takes minutes.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by Peer._stop
    try:
        process = await trio.lowlevel.open_process(
            [*command(language), subcommand, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.fileno(),
        )
    except BaseException:
        errors.close()
        raise
    peer = Peer(language, process, errors)
    try:
        with trio.move_on_after(START_SECONDS) as deadline:
            while not peer.address:
                line = await peer.line()
                if line.startswith("LISTEN "):
                    peer.address = line.removeprefix("LISTEN ").strip()
        if deadline.cancelled_caught:
            raise PeerFailed(f"{language} peer did not listen within {START_SECONDS} s\n{peer.errors()}")
        yield peer
    finally:
        await peer._stop()


async def run_peer(language: str, *arguments: str, seconds: float = 90) -> list[dict[str, Any]]:
    """Runs a dialling sub-command to its end: the JSON objects it printed. Raises `PeerFailed`, with its stderr."""
    asked = f"{language} peer {' '.join(arguments)}"
    with tempfile.TemporaryFile() as errors:
        with trio.move_on_after(seconds) as deadline:
            done = await trio.run_process(
                [*command(language), *arguments], stdin=b"", capture_stdout=True, stderr=errors.fileno(), check=False
            )
        if deadline.cancelled_caught:
            raise PeerFailed(f"{asked}: not done within {seconds} s\n{_tail(errors)}")
        if done.returncode:
            raise PeerFailed(f"{asked}: ended with {done.returncode}\n{_tail(errors)}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def main(arguments: list[str]) -> int:
    """`build [NAME...]`: 0 unless a peer or program is missing and PYP2P_REQUIRE_INTEROP=1."""
    every = [*RECIPES, *PROGRAMS]
    if not arguments or arguments[0] != "build" or not set(arguments[1:]) <= set(every):
        print(f"usage: python -m tests.interop.peers build [{'|'.join(every)}]...", file=sys.stderr)
        return 2
    missing = 0
    for name in arguments[1:] or every:
        start = time.monotonic()
        try:
            print(f"{name}: {command(name)[-1]} ({time.monotonic() - start:.0f} s)", flush=True)
        except PeerUnavailable as error:
            missing += 1
            print(f"not built: {error}", flush=True)
    return 1 if missing and os.environ.get("PYP2P_REQUIRE_INTEROP") == "1" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
