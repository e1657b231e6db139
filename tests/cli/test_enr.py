"""`enr read`, `enr make`, `enr update`: as a program, and as functions where that is cheaper."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyp2p.cli import main as cli
from pyp2p.cli import records
from pyp2p.cli.failure import UsageError
from pyp2p.discv5.enr import Enr
from pyp2p.peer.keys import Identity, KeyType
from tests.cli.support import events, run

# EIP-778, test vector.
EIP = (
    "enr:-IS4QHCYrYZbAKWCBRlAy5zzaDZXJBGkcnh4MHcBFZntXNFrdvJjX04jRzjzCBOonrkTfj499SZuOh8R33Ls8RRcy5wBgmlkgnY0gmlwhH8AAA"
    "GJc2VjcDI1NmsxoQPKY0yuDUmstAHYpMa2_oxVtw0RW_QAdpzBQA8yWM0xOIN1ZHCCdl8"
)
NODE_ID = "a448f24c6d18e575453db13171562b71999873db5b286df957af199ec94617f7"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The command inside this process: exit code, standard output, standard error."""
    code = cli.main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(Identity.generate(KeyType.SECP256K1, entropy=os.urandom).to_protobuf())
    return str(path)


def test_the_record_of_the_specification_is_told() -> None:
    done = run("enr", "read", EIP, "--json")
    assert done.returncode == 0, done.stderr
    (told,) = events(done.stdout)
    assert (told["event"], told["node_id"], told["seq"]) == ("record", NODE_ID, 1)
    assert (told["ip"], told["udp"], told["tcp"], told["addresses"]) == ("127.0.0.1", 30303, None, [])
    assert (told["eth2"], told["attnets"], told["unknown"], told["size"]) == (None, None, [], 134)
    assert told["enr"] == EIP


def test_everything_that_was_put_in_is_told(capsys: pytest.CaptureFixture[str], key: str) -> None:
    code, made, _ = call(
        capsys, "enr", "make", "--key", key, "--seq", "7", "--ip", "1.2.3.4", "--ip6", "2001:db8::1", "--udp", "9000",
        "--tcp", "9001", "--quic", "9002", "--udp6", "9003", "--tcp6", "9004", "--quic6", "9005", "--json",
        "--set", "eth2=6a95a1a967855d670001000000000000", "--set", "attnets=0300000000000080", "--set", "syncnets=05",
        "--set", "cgc=80", "--set", "nfd=0x01020304", "--set", "xx=",
    )  # fmt: skip
    assert code == 0
    (told,) = events(made)
    peer = told["peer_id"]
    assert told["seq"] == 7
    assert told["addresses"] == [
        f"/ip4/1.2.3.4/tcp/9001/p2p/{peer}",
        f"/ip4/1.2.3.4/udp/9002/quic-v1/p2p/{peer}",
        f"/ip6/2001:db8::1/tcp/9004/p2p/{peer}",
        f"/ip6/2001:db8::1/udp/9005/quic-v1/p2p/{peer}",
    ]
    assert told["eth2"] == {"fork_digest": "6a95a1a9", "next_fork_version": "67855d67", "next_fork_epoch": 256}
    assert (told["attnets"], told["syncnets"], told["cgc"], told["nfd"]) == ([0, 1, 63], [0, 2], 128, "01020304")
    assert told["unknown"] == [{"key": "xx", "value": ""}]
    assert [told[name] for name in ("udp", "udp6", "tcp6", "quic6")] == [9000, 9003, 9004, 9005]
    code, shown, _ = call(capsys, "enr", "read", told["enr"])
    assert code == 0
    lines = dict(line.split(None, 1) for line in shown.splitlines() if not line.startswith((" ", "fork", "next")))
    assert lines["attnets"] == "0, 1, 63"
    assert lines["xx"] == "0x"
    assert "fork digest  6a95a1a9\nnext fork    version 67855d67 at epoch 256" in shown


def test_what_make_prints_is_the_record_alone_and_update_goes_on_from_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "fresh")
    code, first, err = call(capsys, "enr", "make", "--key", path, "--ip", "127.0.0.1", "--udp", "9", "--set", "x=aa")
    assert code == 0
    assert "made a new key" in err
    one = Enr.from_text(first.strip())
    assert (one.seq, one.udp) == (1, 9)
    code, second, _ = call(capsys, "enr", "update", first.strip(), "--key", path, "--udp", "10", "--unset", "x")
    two = Enr.from_text(second.strip())
    assert (code, two.seq, two.udp, b"x" in two.pairs, two.node_id) == (0, 2, 10, False, one.node_id)
    code, third, _ = call(capsys, "enr", "update", second.strip(), "--key", path, "--seq", "50")
    three = Enr.from_text(third.strip())
    assert (code, three.seq, dict(three.pairs)) == (0, 50, dict(two.pairs))


def test_lists_are_kept_by_update(capsys: pytest.CaptureFixture[str], key: str) -> None:
    who = Identity.from_protobuf(Path(key).read_bytes())
    record = Enr.sign(who, 1, {"client": [b"Nimbus\x1b", b"v1"], "z": [b"a", [b"b"]]})
    code, said, _ = call(capsys, "enr", "update", record.text, "--key", key, "--tcp", "5", "--json")
    (told,) = events(said)
    assert (code, told["client"], told["unknown"]) == (0, "Nimbus\x1b v1", [{"key": "z", "value": "c361c162"}])
    _, said, _ = call(capsys, "enr", "read", record.text)
    assert "Nimbus\\x1b v1" in said
    assert "\x1b" not in said


def test_entries_of_another_form_are_unknown() -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    honest = Enr.sign(who, 1, {"zz": b"\x01"})
    told = records.facts(honest)
    assert told["unknown"] == [{"key": "zz", "value": "01"}]
    assert records.client(honest) is None
    assert records.client(Enr.sign(who, 1, {"client": b"x"})) is None
    assert records.facts(Enr.sign(who, 1, {"client": b"x"}))["unknown"] == [{"key": "client", "value": "78"}]


def test_a_fork_that_is_not_planned_has_no_epoch() -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    told = records.facts(Enr.sign(who, 1, {"eth2": b"\x01\x02\x03\x04\x05\x06\x07\x08" + b"\xff" * 8}))
    assert told["eth2"] == {"fork_digest": "01020304", "next_fork_version": "05060708", "next_fork_epoch": None}
    assert ("next fork", "none planned") in records.rows(told)


def test_a_list_of_records_is_read_and_a_bad_line_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text(f'# bootnodes\n\n- "{EIP}"\nenr:-nonsense\n{EIP}\n')
    code, said, _ = call(capsys, "enr", "read", str(path), "--json")
    assert code == 2
    one, bad, two = events(said)
    assert (one["event"], bad["event"], two["event"]) == ("record", "error", "record")
    assert bad["line"] == 4
    assert bad["reason"].startswith("line 4: not a node record: ")
    done = run("enr", "read", "-", stdin=None, input=f"{EIP}\r\n")
    assert done.returncode == 0
    assert NODE_ID in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("read", EIP[:-4]), "not a node record"),
        (("read", EIP[:40] + "x" + EIP[41:]), "signature does not verify"),
        (("read", EIP + "="), "base64url"),
        (("read", "enr:" + "A" * 500), "404"),
        (("read", "nosuchfile"), "No such file"),
        (("read", "."), "directory"),
        (("read", "\x1b[2J"), "\\x1b"),
        (("make",), "--key is missing"),
        (("make", "--key", "KEY", "--ip", "::1"), "IPv4"),
        (("make", "--key", "KEY", "--udp", "0"), "from 1 to 65535"),
        (("make", "--key", "KEY", "--set", "ip=00"), "4 bytes"),
        (("make", "--key", "KEY", "--set", "x"), "KEY=HEX"),
        (("make", "--key", "KEY", "--set", "x=0"), "hex"),
        (("make", "--key", "KEY", "--set", "x=00", "--set", "x=01"), "twice"),
        (("make", "--key", "KEY", "--udp", "5", "--set", "udp=01"), "twice"),
        (("make", "--key", "KEY", "--set", "x=" + "00" * 300), "300"),
        (("make", "--key", "KEY", "--set", "id=00"), "id"),
        (("make", "--key", "ED"), "secp256k1"),
        (("update", EIP, "--key", "KEY"), "Only the key that signed"),
        (("update", EIP, "--key", "MISSING"), "No such file"),
        (("update", "OWN", "--key", "KEY", "--seq", "1"), "not above 1"),
        (("update", "OWN", "--key", "KEY", "--unset", "nosuch"), "no such entry"),
        (("update", "OWN", "--key", "KEY", "--unset", "nosuch\u00e9"), "no such entry"),
    ],
)
def test_what_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str, words: tuple[str, ...], said: str
) -> None:
    ed = tmp_path / "ed"
    ed.write_bytes(Identity.generate(entropy=os.urandom).to_protobuf())
    own = Enr.sign(Identity.from_protobuf(Path(key).read_bytes()), 1, {"udp": 5}).text
    stands_for = {"KEY": key, "ED": str(ed), "OWN": own, "MISSING": str(tmp_path / "missing")}
    code, out, err = call(capsys, "enr", *(stands_for.get(word, word) for word in words), "--json")
    (failure,) = events(out)
    assert (code, err) == (2, "")
    assert failure["stage"] == "usage"
    assert said in failure["reason"] + failure["advice"]
    assert not (tmp_path / "missing").exists()


def test_a_target_has_the_tcp_addresses_of_its_record() -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    record = Enr.sign(who, 1, {"ip": bytes([127, 0, 0, 1]), "tcp": 5, "quic": 6, "ip6": b"\0" * 15 + b"\1"})
    found = records.target(record.text)
    assert str(found) == f"/ip4/127.0.0.1/tcp/5/p2p/{who.peer}"
    assert [str(other) for other in found.others] == ["/ip6/::1/tcp/5"]
    for pairs, why in (({"ip": bytes([1, 2, 3, 4]), "quic": 5}, "no TCP address"), ({"tcp": 5}, "no address at all")):
        with pytest.raises(UsageError) as caught:
            records.target(Enr.sign(who, 1, pairs).text)
        assert why in caught.value.reason


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    """A package of that name that cannot be imported stands before the real one; the other commands need none."""
    (tmp_path / "Crypto.py").write_text("raise ImportError('none here')\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])}
    for words in (("enr", "read", EIP), ("discv5", "ping", EIP), ("identify", EIP)):
        done = run(*words, env=env)
        assert done.returncode == 2
        assert "pip install pyp2p[discv5]" in done.stderr
        assert "Traceback" not in done.stderr
    for words in (("discv5", "crawl", "--help"), ("addr", "explain", "/ip4/1.2.3.4/tcp/1"), ("--help",)):
        assert run(*words, env=env).returncode == 0


def test_help_imports_neither_trio_nor_discv5() -> None:
    program = (
        "import sys, pyp2p.cli.main as m\n"
        "try: m.main(['discv5', 'lookup', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name in ('trio', 'Crypto') or name.startswith('pyp2p.discv5')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
