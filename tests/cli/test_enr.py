"""`enr read`, `enr make`, `enr update`: as a program, and as functions where that is cheaper."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.cli import enr_wrong, records
from pyp2p.cli import main as cli
from pyp2p.cli.failure import UsageError
from pyp2p.discv5 import rlp
from pyp2p.discv5.enr import Enr
from pyp2p.discv5.keccak import keccak256
from pyp2p.peer import secp256k1
from pyp2p.peer.keys import Identity, KeyType
from pyp2p.peer.multibase import encode_base64url
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
        "--set", "cgc=128", "--set", "nfd=0x01020304", "--set", "xx=",
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


def test_update_keeps_what_it_does_not_know_byte_for_byte(capsys: pytest.CaptureFixture[str], key: str) -> None:
    who = Identity.from_protobuf(Path(key).read_bytes())
    unknown = {
        b"\xff\x00": b"",
        b"a": b"\x00",
        b"list": [b"", [b"\x7f", [b"\x80"]], b"x" * 60],
        b"none": [],
        b"zero": b"\x00\x01",
    }
    before = Enr.sign(who, 1, {**unknown, b"udp": 5})
    code, said, _ = call(capsys, "enr", "update", before.text, "--key", key, "--udp", "6", "--set", "cgc=4")
    after = Enr.from_text(said.strip())
    assert (code, after.udp, after.cgc) == (0, 6, 4)
    for name, value in unknown.items():
        entry = rlp.encode(name) + rlp.encode(value)
        assert entry in before.raw
        assert entry in after.raw


def test_numbers_are_set_as_what_they_are(capsys: pytest.CaptureFixture[str], key: str) -> None:
    numbers = {"cgc": 128, "tcp": 9000, "tcp6": 80, "udp": 1, "udp6": 65535, "quic": 9001, "quic6": 12}
    words = [word for name, value in numbers.items() for word in ("--set", f"{name}={value}")]
    code, said, _ = call(capsys, "enr", "make", "--key", key, *words)
    record = Enr.from_text(said.strip())
    assert code == 0
    assert {name: getattr(record, name) for name in numbers} == numbers
    code, said, _ = call(capsys, "enr", "make", "--key", key, "--set", "cgc=0", "--set", "nfd=00000080")
    record = Enr.from_text(said.strip())
    assert (code, record.cgc, record.nfd) == (0, 0, b"\0\0\0\x80")


def written(*items: rlp.Encodable) -> str:
    """A record of these items, whatever they are."""
    return "enr:" + encode_base64url(rlp.encode(items))


def told_of_wrong(capsys: pytest.CaptureFixture[str], text: str) -> dict[str, Any] | None:
    """What `enr read` can make of a wrong record."""
    code, said, err = call(capsys, "enr", "read", text, "--json")
    (failure,) = events(said)
    assert (code, failure["code"], failure["stage"], err) == (2, 2, "usage", "")
    decoded: dict[str, Any] | None = failure["decoded"]
    return decoded


def test_a_record_whose_signature_is_wrong_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    changed = EIP[:40] + "x" + EIP[41:]
    told = told_of_wrong(capsys, changed)
    assert told is not None
    assert (told["verified"], told["signature"], told["seq"], told["size"]) == (False, "does not verify", 1, 134)
    assert told["stopped"] is None
    entries = {entry["key"]: (entry["value"], entry["means"]) for entry in told["entries"]}
    assert entries["id"] == ("7634", "v4")
    assert entries["ip"] == ("7f000001", "127.0.0.1")
    assert entries["udp"] == ("765f", "30303")
    assert entries["secp256k1"][1] is None
    code, out, err = call(capsys, "enr", "read", changed)
    assert (code, out) == (2, "")
    said = " ".join(err.split())
    assert "not a node record: record signature does not verify" in said
    assert "Not verified, and not to be relied on (134 bytes, signature: does not verify): seq 1 id v4 (0x7634)" in said


def test_a_record_that_is_cut_off_is_described_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    for text, keys in ((EIP[:-4], ["id", "ip", "secp256k1", "udp"]), (EIP[:120], ["id", "ip"]), (EIP[:98], [])):
        told = told_of_wrong(capsys, text)
        assert told is not None
        assert (told["seq"], told["signature"]) == (1, "not checked")
        assert [entry["key"] for entry in told["entries"]] == keys
        assert told["stopped"] == "the record is cut off: it says that it has 134 bytes"
    assert told_of_wrong(capsys, EIP[:-4])["entries"][-1] == {"key": "udp", "value": None, "means": None}
    typo = told_of_wrong(capsys, EIP[:120] + "!" + EIP[121:])
    assert typo is not None
    assert typo["stopped"] == "character 121, '!', is not of base64url"
    padded = told_of_wrong(capsys, EIP + "==")
    assert padded is not None
    assert (padded["signature"], padded["stopped"]) == ("verifies", None)
    longer = told_of_wrong(capsys, EIP + "AAAA")
    assert longer is not None
    assert longer["stopped"].endswith("bytes follow the record")


def test_what_breaks_a_rule_and_is_signed_all_the_same_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    content = [b"\1", b"udp", b"\0\5", b"secp256k1", who.public_key.data, b"id", b"v4"]
    signature = secp256k1.sign_digest(who.scalar, keccak256(rlp.encode(content)))
    told = told_of_wrong(capsys, written(signature, *content))
    assert told is not None
    assert told["signature"] == "verifies"
    assert told["entries"][0] == {"key": "udp", "value": "0005", "means": None}


def test_hostile_text_in_a_wrong_record_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    text = written(b"s", b"\1", b"\x1b[2J", b"\x1b]0;x", b"id", b"v\x1b4", [b"\x1b"], [b"a", [b"b"]], b"\xff\x9b")
    code, out, err = call(capsys, "enr", "read", text)
    assert (code, out) == (2, "")
    assert "\x1b" not in err and "\x9b" not in err
    assert "\\x1b[2J" in err and "v\\x1b4" in err
    told = told_of_wrong(capsys, text)
    assert told is not None
    assert told["signature"] == "not checked"
    assert [(entry["key"], entry["value"]) for entry in told["entries"]] == [
        ("\\x1b[2J", "1b5d303b78"),
        ("id", "761b34"),
        ("a list (0xc11b)", "c361c162"),
        ("\\xff\\x9b", None),
    ]


def test_records_that_are_too_long_are_described_up_to_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    over = told_of_wrong(capsys, written(b"s" * 64, b"\1", b"a", b"x" * 700))
    assert over is not None
    assert (over["size"], over["entries"][0]["value"]) == (774, "78" * 700)
    many = written(b"s" * 64, b"\1", *[b"a"] * 1400)
    assert len(told_of_wrong(capsys, many)["entries"]) == 700
    _, _, err = call(capsys, "enr", "read", many)
    assert "... and 650 more entries" in err
    assert told_of_wrong(capsys, written(b"s" * 64, b"\1", *[b"a"] * 1500)) is None


@pytest.mark.parametrize("text", ["enr:", "enr:-", "enr:!", "enr:AAAA", "enr:wA", "enr:" + "-" * 300])
def test_what_holds_nothing_is_not_described(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert told_of_wrong(capsys, text) is None


def test_lists_nested_too_deep_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    deep: rlp.Encodable = b"x"
    for _ in range(rlp.MAX_DEPTH - 1):
        deep = [deep]
    told = told_of_wrong(capsys, written(b"s" * 64, b"\1", b"id", b"v4", b"secp256k1", b"k" * 33, b"z", deep))
    assert told is not None
    assert (told["signature"], len(told["entries"])) == ("does not verify", 3)
    inner = rlp.encode([deep])  # one level more than a record may have
    body = b"".join(map(rlp.encode, (b"s", b"\1", b"id", b"v4", b"secp256k1", b"k"))) + rlp.encode(b"z") + inner
    told = told_of_wrong(capsys, "enr:" + encode_base64url(bytes([0xC0 + len(body)]) + body))
    assert told is not None
    assert (told["signature"], told["entries"][-1]["value"]) == ("not checked", inner.hex())


@given(text=st.binary(max_size=400).map(lambda raw: "enr:" + encode_base64url(raw)))
def test_no_bytes_break_the_description(text: str) -> None:
    told = enr_wrong.decoded(text)
    if told is not None:
        assert all(line.isascii() and line.isprintable() for line in enr_wrong.lines(told))


@given(cut=st.integers(0, 134), at=st.integers(0, 133), to=st.integers(0, 255))
def test_no_change_of_a_record_breaks_the_description(cut: int, at: int, to: int) -> None:
    raw = bytearray(Enr.from_text(EIP).raw)
    raw[at] = to
    told = enr_wrong.decoded("enr:" + encode_base64url(bytes(raw[:cut])))
    if told is not None:
        assert all(line.isascii() and line.isprintable() for line in enr_wrong.lines(told))


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
    assert bad["decoded"] is None
    assert bad["reason"].startswith("line 4: not a node record: ")
    done = run("enr", "read", "-", stdin=None, input=f"{EIP}\r\n")
    assert done.returncode == 0
    assert NODE_ID in done.stdout


def test_a_byte_order_mark_is_no_part_of_the_first_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    path.write_bytes(f"\ufeff{EIP}\n".encode())
    code, said, _ = call(capsys, "enr", "read", str(path))
    assert code == 0 and NODE_ID in said


def test_a_standard_input_that_is_closed_is_told() -> None:
    program = [sys.executable, "-m", "pyp2p", "enr", "read", "-"]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is closed" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_address_of_another_form_than_its_entry_is_told(capsys: pytest.CaptureFixture[str], key: str) -> None:
    code, said, _ = call(capsys, "enr", "make", "--key", key, "--ip6", "::ffff:9.9.9.9", "--tcp6", "5", "--json")
    (told,) = events(said)
    assert (code, told["addresses"]) == (0, [f"/ip4/9.9.9.9/tcp/5/p2p/{told['peer_id']}"])


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
        (("make", "--key", "KEY", "--set", "x"), "KEY=VALUE"),
        (("make", "--key", "KEY", "--set", "x=0"), "hex"),
        (("make", "--key", "KEY", "--set", "cgc=0x80"), "cgc holds a number, written in decimal: '0x80'"),
        (("make", "--key", "KEY", "--set", "cgc="), "written in decimal"),
        (("make", "--key", "KEY", "--set", f"cgc={2**64}"), f"0 to {2**64 - 1}"),
        (("make", "--key", "KEY", "--set", "tcp=65536"), "from 1 to 65535"),
        (("make", "--key", "KEY", "--set", "quic6=2382" + "a"), "quic6 holds a number"),
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
        (("update", "OWN", "--key", "KEY", "--unset", "nosuch\udcff"), "no such entry"),
        (("update", "OWN", "--key", "KEY", "--unset", "id"), "--unset id: no record is without it"),
        (("update", "OWN", "--key", "KEY", "--unset", "secp256k1"), "--unset secp256k1: no record is without it"),
        (("update", "OWN", "--key", "KEY", "--tcp", "1", "--unset", "tcp"), "'tcp' is both set and removed"),
        (("update", "OWN", "--key", "KEY", "--udp", "1", "--unset", "udp"), "'udp' is both set and removed"),
        (("update", "OWN"), "with the key that signed the record"),
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


def test_a_target_has_the_addresses_of_its_record_that_can_be_dialled() -> None:
    who = Identity.generate(KeyType.SECP256K1, entropy=os.urandom)
    record = Enr.sign(who, 1, {"ip": bytes([127, 0, 0, 1]), "tcp": 5, "quic": 6, "ip6": b"\0" * 15 + b"\1"})
    found = records.target(record.text)
    assert str(found) == f"/ip4/127.0.0.1/tcp/5/p2p/{who.peer}"
    assert [str(other) for other in found.others] == ["/ip4/127.0.0.1/udp/6/quic-v1", "/ip6/::1/tcp/5"]
    for pairs, why in (({"ip": bytes([1, 2, 3, 4])}, "no TCP or QUIC port"), ({"tcp": 5}, "no address at all")):
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
