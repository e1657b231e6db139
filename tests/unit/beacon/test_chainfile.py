"""Chains in files: what comes with the package, what goes there and back, and every mistake by file and key or line."""

import tomllib
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.beacon.chain import FORKS, BlobParameters, Chain, Fork
from pyp2p.beacon.chainfile import MAX_BYTES, SHIPPED, chain_text, load_chain, parse_chain
from pyp2p.discv5.enr import Enr
from tests.vectors import load

ENR = load("enr_bootnodes_mainnet")["records"][0]["text"]
TEXT = f"""
name = "small"
genesis_time = 1000
genesis_validators_root = "0x{"ab" * 32}"
slot_duration_ms = 2000
slots_per_epoch = 8
bootnodes = ["{ENR}"]

[[forks]]
name = "electra"
version = "0x05000009"
epoch = 0
limits = {{ max_request_blocks = 16 }}

[[forks]]
name = "fulu"
version = "0x06000009"
epoch = 4

[[blob_schedule]]
epoch = 8
max_blobs_per_block = 12
"""


def test_a_file_says_what_the_chain_is(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT, encoding="utf-8")
    expected = Chain(
        name="small",
        genesis_time=1000,
        genesis_validators_root=b"\xab" * 32,
        forks=(
            Fork("electra", b"\x05\0\0\x09", 0, MappingProxyType({"max_request_blocks": 16})),
            Fork("fulu", b"\x06\0\0\x09", 4),
        ),
        blob_schedule=(BlobParameters(8, 12),),
        slot_duration_ms=2000,
        slots_per_epoch=8,
        bootnodes=(Enr.from_text(ENR),),
    )
    assert load_chain(path) == load_chain(str(path)) == parse_chain(TEXT) == expected


def test_what_is_left_out_is_that_of_mainnet():
    text, _, _ = TEXT.partition("[[blob_schedule]]")
    lines = [line for line in text.splitlines() if not line.startswith(("slot", "boot"))]
    chain = parse_chain("\n".join(lines))
    assert (chain.slot_duration_ms, chain.slots_per_epoch) == (12_000, 32)
    assert (chain.bootnodes, chain.blob_schedule) == ((), ())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_chain_has_its_name_and_goes_there_and_back(name):
    chain = load_chain(name)
    assert chain.name == name and chain.bootnodes
    assert parse_chain(chain_text(chain)) == chain


@given(data=st.data())
def test_any_chain_goes_there_and_back(data):
    first = data.draw(st.integers(0, len(FORKS) - 1))
    names = FORKS[first : data.draw(st.integers(first + 1, len(FORKS)))]
    epochs = [0, *sorted(data.draw(st.lists(st.integers(0, 99), min_size=len(names) - 1, max_size=len(names) - 1)))]
    limits = data.draw(
        st.dictionaries(st.sampled_from(["max_request_blocks", "max_request_blob_sidecars"]), st.just(9))
    )
    chain = Chain(
        name=data.draw(st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)),
        genesis_time=data.draw(st.integers(0, 1 << 40)),
        genesis_validators_root=data.draw(st.binary(min_size=32, max_size=32)),
        forks=tuple(
            Fork(name, bytes((at, 0, 0, 1)), epoch, MappingProxyType(limits if at else {}))
            for at, (name, epoch) in enumerate(zip(names, epochs, strict=True))
        ),
        blob_schedule=tuple(
            BlobParameters(epoch, 9 + epoch) for epoch in sorted(data.draw(st.sets(st.integers(0, 200), max_size=4)))
        ),
        slot_duration_ms=data.draw(st.integers(1, 60_000)),
        slots_per_epoch=data.draw(st.integers(1, 64)),
    )
    text = chain_text(chain)
    assert parse_chain(text) == chain
    assert set(tomllib.loads(text)) >= {"name", "forks"}


MISTAKES = [
    ("genesis_time = 1000", "genesis_time = ", "small.toml: Invalid value (at line 3"),
    ("[[forks]]", "[[forks", "small.toml: "),
    ("genesis_time = 1000", "", "small.toml: genesis_time: is missing"),
    ('name = "small"', "", "small.toml: name: is missing"),
    ("genesis_time = 1000", 'genesis_time = "1000"', "small.toml: genesis_time: must be a whole number"),
    ("genesis_time = 1000", "genesis_time = true", "small.toml: genesis_time: must be a whole number"),
    ("genesis_time = 1000", "genesis_time = -1", "small.toml: genesis_time must be"),
    ("genesis_time", "genesis_tme", "small.toml: genesis_tme: no such key; known are name, genesis_time,"),
    ("slots_per_epoch = 8", "slots_per_epoch = 0", "small.toml: slots_per_epoch must be above 0"),
    ('"0x' + "ab" * 32, '"' + "ab" * 32, "small.toml: genesis_validators_root: must be hex that begins with 0x"),
    ('"0x' + "ab" * 32, '"0x' + "ab" * 31, "small.toml: genesis_validators_root must be 32 bytes"),
    ('"0x05000009"', '"0x0500000"', "small.toml: forks[0].version: must be hex"),
    ('"0x05000009"', '"0x050000zz"', "small.toml: forks[0].version: must be hex"),
    ('"0x05000009"', '"0x05 00 00 09 "', "small.toml: forks[0].version: must be hex"),
    ('"0x05000009"', '"0x050000"', "small.toml: forks[0]: version of electra must be 4 bytes"),
    ('"0x05000009"', "5", "small.toml: forks[0].version: must be a text"),
    ("epoch = 4", "", "small.toml: forks[1].epoch: is missing"),
    ("epoch = 4", "epoch = 4\nepok = 3", "small.toml: forks[1].epok: no such key"),
    ('"fulu"', '"osaka"', "small.toml: forks[1]: fork must be one of phase0"),
    ('"fulu"', '"gloas"', "small.toml: forks: gloas cannot follow electra"),
    ("max_request_blocks = 16", "max_blocks = 16", "small.toml: forks[0]: limit of electra must be one of"),
    (
        "max_request_blocks = 16",
        "max_request_blocks = 0",
        "small.toml: forks[0]: limits of electra: max_request_blocks",
    ),
    ("max_request_blocks = 16", 'max_request_blocks = "x"', "small.toml: forks[0]: limits of electra: max_request_blo"),
    ("max_blobs_per_block = 12", "", "small.toml: blob_schedule[0].max_blobs_per_block: is missing"),
    ("max_blobs_per_block = 12", "max_blobs_per_block = -1", "small.toml: blob_schedule[0]: max_blobs_per_block from"),
    (f'["{ENR}"]', '["enr:-nonsense"]', "small.toml: bootnodes[0]: record"),
    (f'["{ENR}"]', f'["{ENR}", 7]', "small.toml: bootnodes[1]: must be a text"),
    (f'["{ENR}"]', f'"{ENR}"', "small.toml: bootnodes: must be a list"),
]


@pytest.mark.parametrize(("right", "wrong", "text"), MISTAKES, ids=lambda value: value[-24:])
def test_a_mistake_is_named_with_the_file_and_the_key_or_line(tmp_path, right, wrong, text):
    path = tmp_path / "small.toml"
    assert TEXT.count(right)
    path.write_text(TEXT.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load_chain(path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(text)


def test_tables_in_wrong_places_are_mistakes_too():
    for wrong in ('forks = ["electra"]', "forks = [[]]"):
        start, _, _ = TEXT.partition("[[forks]]")
        with pytest.raises(ValueError) as caught:
            parse_chain(start + wrong)
        assert str(caught.value) == "chain: forks[0]: must be a table"


def test_what_is_no_text_names_its_line_and_what_is_too_long_its_bound(tmp_path):
    path = tmp_path / "chain"
    path.write_bytes(b'name = "x"\nother = "\xff"\n')
    with pytest.raises(ValueError, match=r"chain: line 2 is no UTF-8$"):
        load_chain(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match=rf"chain: over {MAX_BYTES} bytes$"):
        load_chain(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_chain(tmp_path / "nowhere")


def test_control_characters_of_a_file_do_not_reach_a_terminal():
    with pytest.raises(ValueError) as caught:
        parse_chain(TEXT.replace('"fulu"', r'"\u001b[2J"') + '\n["\\u001bkey"]\n')
    assert "\x1b" not in str(caught.value)
    with pytest.raises(ValueError) as caught:
        parse_chain(TEXT.replace('"fulu"', r'"\u001b[2J"'))
    assert "\x1b" not in str(caught.value)


def test_lists_within_lists_without_end_are_a_mistake_and_no_crash():
    with pytest.raises(ValueError):
        parse_chain("name = " + "[" * 5000 + "]" * 5000)
