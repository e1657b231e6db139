"""Measure pyp2p beside go-, rust- and js-libp2p on this machine: `scripts/bench [--quick] [--only NAME] [--json FILE]`.

Each measure runs listener and dialer of one implementation in two processes over loopback, the implementations in turn,
round after round; the first round is thrown away and medians of the others are printed. Go runs with GOMAXPROCS=1: one
core, as Python has. discv5 is measured beside go-ethereum and @chainsafe/discv5, a whole beacon node beside the eth2
peer on js-libp2p. Every child has a deadline, so the whole ends by itself.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.bench import beacon, discovery_core
from tests.interop.peers import DISCV5, LANGUAGES, PeerUnavailable, command

PYP2P = [sys.executable, "-m", "tests.bench.peer"]
PYP2P_BEACON = [sys.executable, "-m", "tests.bench.beacon"]
PYP2P_DISCV5 = [sys.executable, "-m", "tests.bench.discovery"]
GB = 1_000_000_000
PATIENCE = 120.0  # seconds for one child


@dataclass
class Peer:
    """One implementation: how to start it."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def listening(self, *flags: str, subcommand: str = "listen") -> Iterator[tuple[str, int]]:
        """A listener: its address and process id."""
        with self.started(subcommand, "--muxer", "yamux", *flags) as (address, process):
            yield address, process.pid

    @contextmanager
    def started(self, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """A listener of any kind: its address and process."""
        with subprocess.Popen(
            [*self.argv, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.env},
        ) as process:
            try:
                line = process.stdout.readline()
                if not line.startswith("LISTEN "):
                    raise SystemExit(f"{self.name} did not listen: {line!r}")
                yield line.split()[1], process
            finally:
                process.stdin.close()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run(self, *arguments: str) -> tuple[dict[str, float], float]:
        """Run a dialling sub-command; its last JSON line and the CPU seconds it took."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*self.argv, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **self.env},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.stderr[-500:]}")
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return json.loads(done.stdout.strip().splitlines()[-1]), cpu

    @contextmanager
    def holding(self, address: str, count: int, *stack: str) -> Iterator[None]:
        """Hold so many idle connections to `address`."""
        arguments = [*self.argv, "idle", address, "--count", str(count), "--muxer", "yamux", *stack]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                if "held" not in process.stdout.readline():
                    raise RuntimeError("the idle connections were not made")
                yield
            finally:
                process.stdin.close()
                process.wait(30)


@dataclass
class Pair:
    """One implementation asks, another (or another process of the same) listens."""

    name: str
    asker: Peer
    listener: Peer


def peers(pyp2p: list[str] = PYP2P, languages: Iterable[str] = LANGUAGES) -> list[Peer]:
    """pyp2p and those others that can be built here."""
    found = [Peer("pyp2p", pyp2p)]
    for language in languages:
        try:
            env = {"GOMAXPROCS": "1"} if language.startswith("go") else {}
            found.append(Peer(language, command(language), env))
        except PeerUnavailable as error:
            print(f"without {language}: {error}", file=sys.stderr)
    return found


def pairs() -> list[Pair]:
    """Each implementation of discv5 with itself, and pyp2p with geth both ways."""
    ours, *others = peers(PYP2P_DISCV5, DISCV5)
    found = [Pair(peer.name, peer, peer) for peer in (ours, *others)]
    for geth in others:
        if geth.name == "go-discv5":
            found += [Pair("pyp2p asks go", ours, geth), Pair("go asks pyp2p", geth, ours)]
    return found


def pair(asker: Peer, listener: Peer) -> Pair:
    """Named by who takes part."""
    return Pair(asker.name if asker is listener else f"{asker.name} asks {listener.name}", asker, listener)


def eth2_pairs() -> list[Pair]:
    """A beacon node of ours and the eth2 peer, each with itself and each with the other."""
    found = peers(PYP2P_BEACON, ["js-eth2"])
    return [pair(asker, listener) for asker in found for listener in found]


def pairs_with_ours(found: list[Peer]) -> list[Pair]:
    """Each with itself, and pyp2p with each other both ways."""
    ours, *others = found
    alone = [pair(peer, peer) for peer in found]
    return alone + [pair(*both) for other in others for both in ((ours, other), (other, ours))]


Sample = dict[str, float]


def sample_perf(asker: Peer, listener: Peer, size: int, *stack: str) -> Sample:
    with listener.listening(*stack) as (address, _):
        sizes = ["--upload", str(size), "--download", str(size), "--runs", "1"]
        result, cpu = asker.run("perf", address, "--muxer", "yamux", *stack, *sizes)
    return {"up MB/s": result["up_MBps"], "down MB/s": result["down_MBps"], "dialer CPU s/GB": cpu / (2 * size / GB)}


def sample_ping(peer: Peer, count: int) -> Sample:
    with peer.listening() as (address, _):
        result, _cpu = peer.run("ping", address, "--count", str(count))
    return {"median us": result["median_us"]}


def sample_raw_ping(count: int) -> Sample:
    raw = Peer("raw trio TCP", PYP2P)
    with raw.listening(subcommand="rawlisten") as (address, _):
        result, _cpu = raw.run("rawping", address, "--count", str(count))
    return {"median us": result["median_us"]}


def sample_rate(peer: Peer, what: str, sizes: dict[int, int], *stack: str) -> Sample:
    """`what` per second, at each concurrency of `sizes` with its count."""
    rates = {}
    for concurrency, count in sizes.items():
        with peer.listening(*stack) as (address, _):
            flags = ["--count", str(count), "--concurrency", str(concurrency)]
            result, _cpu = peer.run(what, address, *flags, *stack)
        rates[f"{concurrency} at a time /s"] = result["per_sec"]
    return rates


def rss_kib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def sample_memory(peer: Peer, counts: list[int], *stack: str) -> Sample:
    """Growth of the listener per idle, identified connection; the dialer is always ours."""
    holder = Peer("pyp2p", PYP2P)
    grown = {}
    for count in counts:
        with peer.listening(*stack) as (address, pid):
            with holder.holding(address, 5, *stack):
                pass  # what the first connections load is not theirs
            before = rss_kib(pid)
            with holder.holding(address, count, *stack):
                grown[f"KiB each of {count}"] = (rss_kib(pid) - before) / count
    return grown


def sample_flat(peer: Peer, counts: list[int], streams: int, handshakes: int) -> Sample:
    """What a stream and a connection cost while so many others are open, relative to the fewest."""
    holder = Peer("pyp2p", PYP2P)
    costs: dict[int, tuple[float, float]] = {}
    for count in counts:
        with peer.listening() as (address, _), holder.holding(address, count):
            one, _cpu = peer.run("streams", address, "--count", str(streams))
            two, _cpu = peer.run("handshakes", address, "--count", str(handshakes))
        costs[count] = (1 / one["per_sec"], 1 / two["per_sec"])
    few, many = costs[counts[0]], costs[counts[-1]]
    names = (f"stream x at {counts[-1]}", f"connection x at {counts[-1]}")
    return {name: after / before for name, before, after in zip(names, few, many, strict=True)}


GOSSIP = {"200 B": (200, 20_000), "32 KiB": (32 * 1024, 4_000)}


def sample_gossip(peer: Peer, sign: str, share: float) -> Sample:
    """Messages per second from one publisher to one listener, as the listener sees them; none may be lost."""
    found = {}
    for name, (size, full) in GOSSIP.items():
        count = int(full * share)
        flags = ["--sign", sign, "--topic", "bench", "--count", str(count)]
        with peer.started("pubsub-listen", *flags) as (address, process):
            peer.run("pubsub", address, *flags, "--size", str(size))
            heard = json.loads(process.stdout.readline())
        found[f"{name} /s"] = heard["per_sec"]
        found[f"{name} lost"] = count - heard["n"]
    return found


def sample_fanout(peer: Peer, listeners: int, count: int) -> Sample:
    """Deliveries per second from one publisher to several listeners."""
    flags = ["--sign", "eth2", "--count", str(count)]
    found = {}
    for number in (1, listeners):
        with ExitStack() as stack:
            there = [stack.enter_context(peer.started("pubsub-listen", *flags)) for _ in range(number)]
            addresses = ",".join(address for address, _ in there)
            peer.run("pubsub", addresses, *flags, "--size", "200", "--peers", str(number))
            heard = [json.loads(process.stdout.readline()) for _, process in there]
        found[f"to {number}: deliveries/s"] = sum(each["n"] for each in heard) / max(each["secs"] for each in heard)
    return found


def sample_router(peer: Peer) -> Sample:
    """What the router costs without transport."""
    return peer.run("router")[0]


DISCOVERY = {  # what it is called: sub-command, requests of a full round, at a time
    "ping 1 /s": ("ping", 2_000, 1),
    "ping 8 /s": ("ping", 6_000, 8),
    "sessions /s": ("sessions", 200, 1),
    "talk 32 B /s": ("talkreq", 2_000, 1),
}


def sample_discv5(pair: Pair, share: float) -> Sample:
    """Requests per second, each kind to a listener of its own, and how many failed."""
    found: Sample = {}
    failed = 0.0
    for name, (what, full, callers) in DISCOVERY.items():
        with pair.listener.started("listen") as (record, _):
            flags = ["--count", str(int(full * share)), "--concurrency", str(callers)]
            result, _cpu = pair.asker.run(what, record, *flags)
        found[name] = result["per_sec"]
        failed += result["fails"]
    return {**found, "failed": failed}


BLOCKS = ("--blocks", "128", "--size", "102400")


def sample_eth2(pair: Pair, share: float) -> Sample:
    """Pings on one connection, a stream each, one and two at a time; blocks of 100 KiB by range, the last of five."""
    known = ("--muxer", "yamux", "--quiet", "--digest", beacon.DIGEST.hex())
    found: Sample = {}
    with pair.listener.started("listen", *known, *BLOCKS) as (address, _):
        for callers in (1, 2):
            flags = ["--count", str(int(2_000 * share)), "--concurrency", str(callers)]
            found[f"ping {callers} /s"] = pair.asker.run("bench_ping", address, *known, *flags)[0]["per_sec"]
        flags = ["--count", "128", "--size", "102400", "--runs", "5"]
        found["range MB/s"] = pair.asker.run("bench_range", address, *known, *flags)[0]["MBps"]
    return found


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sample_node(peer: Peer, count: int, rate: int, seconds: int) -> Sample:
    """Memory and CPU of a node with `count` peers that publish `rate` messages/s to it; the peers are always ours."""
    topic = ["--topic", beacon.TOPIC] if rate else []
    known = ("--muxer", "yamux", "--quiet", "--digest", beacon.DIGEST.hex())
    with peer.started("listen", *known, *topic) as (address, process):
        held = [*PYP2P_BEACON, "hold", address, "--count", str(count), "--rate", str(rate)]
        with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as others:
            try:
                if "held" not in others.stdout.readline():
                    raise RuntimeError("the peers did not come")
                time.sleep(5)  # meshes form, and what was said at first is said
                cpu, rss = cpu_seconds(process.pid), [rss_kib(process.pid)]
                for _ in range(seconds):
                    time.sleep(1)
                    rss.append(rss_kib(process.pid))
                cpu = cpu_seconds(process.pid) - cpu
            finally:
                others.stdin.close()
                told = json.loads(others.stdout.readline() or "{}")
                others.wait(30)
    sizes = {
        f"MiB {when}": kib / 1024 for when, kib in (("at first", rss[0]), ("at last", rss[-1]), ("most", max(rss)))
    }
    rates = {
        "published /s": told["published"] / told["seconds"],
        "sent on to": told["heard"] / max(told["published"], 1),
    }
    return {**sizes, "CPU ms/s": 1_000 * cpu / seconds, "peers lost": told["lost"], **rates}


ALONE = ("flat", "fan-out", "router", "discv5 core")  # measures of pyp2p itself


ETH2 = ("eth2", "eth2 idle", "eth2 busy")
ONCE = ETH2[1:]  # a minute each: over time is what is asked


def who_takes_part(name: str, everybody: list[Peer]) -> list[Peer] | list[Pair]:
    """Implementations, or pairs of them."""
    if name == "discv5":
        return pairs()
    if name == "eth2":
        return eth2_pairs()
    if name == "perf quic":
        return pairs_with_ours(everybody)
    if name in ETH2:
        return peers(PYP2P_BEACON, ["js-eth2"])
    return everybody[:1] if name in ALONE else everybody


def measures(quick: bool) -> dict:
    """Name -> (sampler of one peer, whom it concerns)."""
    size = GB // 10 if quick else GB
    few, many = (200, 1000) if quick else (1000, 6000)
    counts = [50] if quick else [200, 1000]
    crowd = 25 if quick else 100
    return {
        "perf": lambda peer: sample_perf(peer, peer, size),
        "perf-mplex": lambda peer: sample_perf(peer, peer, size // 4, "--muxer", "mplex"),
        "perf tls": lambda peer: sample_perf(peer, peer, size, "--security", "tls"),
        "perf ws": lambda peer: sample_perf(peer, peer, size // 2, "--transport", "ws"),
        "perf quic": lambda pair: sample_perf(pair.asker, pair.listener, size // 16, "--transport", "quic"),
        "ping": lambda peer: sample_ping(peer, few),
        "handshakes": lambda peer: sample_rate(peer, "handshakes", {1: few // 4, 10: few // 2}),
        "handshakes tls": lambda peer: sample_rate(peer, "handshakes", {1: few // 4}, "--security", "tls"),
        "handshakes quic": lambda peer: sample_rate(peer, "handshakes", {1: few // 4}, "--transport", "quic"),
        "streams": lambda peer: sample_rate(peer, "streams", {1: few, 32: many}),
        "memory": lambda peer: sample_memory(peer, counts),
        "memory quic": lambda peer: sample_memory(peer, counts, "--transport", "quic"),
        "gossip eth2": lambda peer: sample_gossip(peer, "eth2", 0.1 if quick else 1.0),
        "gossip signed": lambda peer: sample_gossip(peer, "strict", 0.1 if quick else 0.5),
        "fan-out": lambda peer: sample_fanout(peer, 8, few * 10),
        "router": sample_router,
        "discv5": lambda pair: sample_discv5(pair, 0.1 if quick else 1.0),
        "discv5 core": lambda _: discovery_core.measure(),
        "eth2": lambda pair: sample_eth2(pair, 0.1 if quick else 1.0),
        "eth2 idle": lambda peer: sample_node(peer, crowd, 0, 5 if quick else 60),
        "eth2 busy": lambda peer: sample_node(peer, crowd, 500, 5 if quick else 60),
        "flat": lambda peer: sample_flat(peer, [10, counts[-1]], few, few // 4),
    }


def run(flags: argparse.Namespace) -> dict[str, dict[str, Sample]]:
    table: dict[str, dict[str, Sample]] = {}
    everybody = peers(PYP2P, () if flags.only in (*ALONE, "discv5", *ETH2) else LANGUAGES)
    for name, sample in measures(flags.quick).items():
        if flags.only not in (None, name):
            continue
        rounds = 1 if flags.quick or name in ("memory", "memory quic", *ALONE, *ONCE) else flags.rounds
        taking_part = who_takes_part(name, everybody)
        samples: dict[str, list[Sample]] = {}
        warm = 0 if flags.quick or name in ONCE else 1
        for turn in range(rounds + warm):
            for peer in taking_part:
                print(f"{name} {turn + 1}/{rounds + warm} {peer.name}    ", end="\r", file=sys.stderr)
                try:
                    samples.setdefault(peer.name, []).append(sample(peer))
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"{name} {peer.name}: {error}", file=sys.stderr)
            if name == "ping":
                samples.setdefault("raw trio TCP", []).append(sample_raw_ping(1000))
        table[name] = {
            who: {key: median(one[key] for one in taken[warm:] or taken) for key in taken[0]}
            for who, taken in samples.items()
        }
        show(name, table[name])
    return table


def show(name: str, rows: dict[str, Sample]) -> None:
    keys = list(next(iter(rows.values())))
    print(f"\n{name:<14}" + "".join(f"{key:>22}" for key in keys))
    for who, row in rows.items():
        print(f"{who:<14}" + "".join(f"{row[key]:>22,.1f}" for key in keys))


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, for a look")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after the one thrown away")
    parser.add_argument("--only", choices=measures(True), help="one measure alone")
    parser.add_argument("--json", metavar="FILE", help="write the medians there")
    flags = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    table = run(flags)
    if flags.json:
        Path(flags.json).write_text(json.dumps({"machine": facts, "medians": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
