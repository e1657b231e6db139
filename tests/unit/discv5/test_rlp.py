"""RLP: one encoding for each value, and every other refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.discv5 import rlp
from pyp2p.errors import InvalidRlp, LocalProtocolError

LONG = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit"  # 56 bytes: the shortest in the long form
EXAMPLES = {  # of the Ethereum wiki and the edges between the forms
    "empty": (b"", "80"),
    "zero": (b"\x00", "00"),
    "last_single": (b"\x7f", "7f"),
    "first_with_length": (b"\x80", "8180"),
    "dog": (b"dog", "83646f67"),
    "longest_short": (bytes(55), "b7" + "00" * 55),
    "shortest_long": (LONG, "b838" + LONG.hex()),
    "two_bytes_of_length": (bytes(256), "b90100" + "00" * 256),
    "empty_list": ((), "c0"),
    "cat_dog": ((b"cat", b"dog"), "c88363617483646f67"),
    "set_theory": (((), ((),), ((), ((),))), "c7c0c1c0c3c0c1c0"),
    "longest_short_list": ((b"a",) * 55, "f7" + "61" * 55),
    "shortest_long_list": ((b"a",) * 56, "f838" + "61" * 56),
}
REFUSED = {
    "nothing": "",
    "single_with_length": "8100",
    "single_with_length_7f": "817f",
    "long_form_of_a_short_string": "b803616263",
    "long_form_of_55_bytes": "b837" + "61" * 55,
    "long_form_of_a_short_list": "f80161",
    "leading_zero_in_a_length": "b90038" + LONG.hex(),
    "leading_zero_in_the_length_of_a_list": "f90038" + "61" * 56,
    "length_zero": "b800",
    "no_length": "b8",
    "length_cut_off": "b901",
    "string_cut_off": "83646f",
    "long_string_cut_off": "b838" + LONG[:-1].hex(),
    "list_cut_off": "c883636174",
    "eight_bytes_of_length": "bfffffffffffffffff",
    "eight_bytes_of_length_for_a_list": "ffffffffffffffffff",
    "item_longer_than_its_list": "c2836162",
    "item_that_ends_after_its_list": "c283616263",
    "length_cut_off_by_the_list": "c1b838" + LONG.hex(),
    "trailing": "8000",
    "trailing_after_a_list": "c000",
    "not_canonical_inside": "c28100",
    "too_deep": "d0cfcecdcccbcac9c8c7c6c5c4c3c2c1c0",
}


def nested(depth: int):
    item = ()
    for _ in range(depth - 1):
        item = (item,)
    return item


@pytest.mark.parametrize(("item", "encoded"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples(item, encoded):
    assert rlp.encode(item).hex() == encoded
    assert rlp.decode(bytes.fromhex(encoded)) == item


def test_lists_are_encoded_like_tuples():
    assert rlp.encode([b"a", [b"b", []]]) == rlp.encode((b"a", (b"b", ())))


@pytest.mark.hostile
@pytest.mark.parametrize("encoded", REFUSED.values(), ids=REFUSED)
def test_hostile_089_other_forms_are_refused(encoded):
    with pytest.raises(InvalidRlp):
        rlp.decode(bytes.fromhex(encoded))


@pytest.mark.parametrize("item", [item for item, _ in EXAMPLES.values()], ids=EXAMPLES)
def test_every_cut_and_every_addition_is_refused(item):
    whole = rlp.encode(item)
    for wrong in (*(whole[:end] for end in range(len(whole))), whole + b"\0", whole + whole):
        with pytest.raises(InvalidRlp):
            rlp.decode(wrong)


@pytest.mark.hostile
def test_hostile_089_depth_is_bounded():
    assert rlp.decode(rlp.encode(nested(rlp.MAX_DEPTH))) == nested(rlp.MAX_DEPTH)
    with pytest.raises(LocalProtocolError):
        rlp.encode(nested(rlp.MAX_DEPTH + 1))
    deep = b""
    for _ in range(5000):
        size = rlp.encode_uint(len(deep))
        deep = (bytes((0xC0 + len(deep),)) if len(deep) <= 55 else bytes((0xF7 + len(size),)) + size) + deep
    assert len(deep) > 14_000
    with pytest.raises(InvalidRlp):
        rlp.decode(deep)


@pytest.mark.parametrize("item", ["echo", "", 5, None, {}, {b"a": b"b"}, bytearray(b"a"), [b"a", ["b"]], [1]], ids=repr)
def test_what_is_neither_bytes_nor_a_list_is_refused(item):
    with pytest.raises(LocalProtocolError, match=r"not (str|int|NoneType|dict|bytearray)"):
        rlp.encode(item)


@pytest.mark.parametrize(
    ("value", "raw"), [(0, b""), (1, b"\1"), (255, b"\xff"), (256, b"\1\0"), (2**64 - 1, b"\xff" * 8)]
)
def test_integers(value, raw):
    assert rlp.encode_uint(value) == raw
    assert rlp.decode_uint(raw, 64) == value


@pytest.mark.parametrize("item", [b"\0", b"\0\1", b"\1" + bytes(8), (), (b"\1",)], ids=repr)
def test_what_is_no_integer_of_64_bits(item):
    with pytest.raises(InvalidRlp):
        rlp.decode_uint(item, 64)


ITEMS = st.recursive(st.binary(max_size=70), lambda item: st.lists(item, max_size=6).map(tuple), max_leaves=20)


@given(ITEMS)
def test_round_trip(item):
    try:
        encoded = rlp.encode(item)
    except LocalProtocolError:
        return
    assert rlp.decode(encoded) == item


@given(
    st.one_of(
        st.binary(max_size=100),
        st.lists(st.sampled_from(b"\x00\x7f\x80\x81\xb7\xb8\xc0\xc1\xc2\xf7\xf8"), max_size=12).map(bytes),
    )
)
def test_what_decodes_has_no_other_encoding(raw):
    try:
        item = rlp.decode(raw)
    except InvalidRlp:
        return
    assert rlp.encode(item) == raw
