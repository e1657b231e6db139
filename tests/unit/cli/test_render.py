"""Text as people see it: aligned, ASCII, bounded, and nothing of a peer's reaches the terminal raw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyp2p.cli.render import Style, duration, fields, parse_size, rate, size, table, trace_rows

PLAIN = Style()


def test_fields_align_and_lists_take_a_line_each() -> None:
    rows = [("id", "x"), ("protocols", ["/a", "/b"]), ("gone", None), ("none", []), ("empty", "")]
    assert fields(rows, PLAIN) == [
        "id         x",
        "protocols  /a",
        "           /b",
        "none       -",
        "empty      -",
    ]


def test_long_lists_are_cut_and_say_so() -> None:
    lines = fields([("protocols", [f"/{i}" for i in range(1000)])], PLAIN)
    assert len(lines) == 101
    assert "900 more" in lines[-1]


def test_tables_align_left_and_right() -> None:
    rows = [["connect", "1"], ["x", "1000"]]
    assert table(("step", "ms"), rows, PLAIN, (1,)) == ["step       ms", "connect     1", "x        1000"]


def test_a_trace_has_a_row_for_each_step_and_each_flight() -> None:
    flights = [{"ms": 0.5, "out": 3}, {"ms": 1.2, "in": 4}]
    step = {"stage": "connect", "detail": "/a", "at_ms": 0.0, "ms": 1.26, "bytes_out": 3, "bytes_in": 4}
    assert trace_rows([step | {"flights": flights}]) == [
        ["connect", "/a", "0.0", "1.3", "3", "4"],
        ["", "- sent", "0.5", "", "3", ""],
        ["", "- received", "1.2", "", "", "4"],
    ]


def test_colour_comes_after_the_padding() -> None:
    plain, painted = fields([("a", "1"), ("bbb", "2")], PLAIN), fields([("a", "1"), ("bbb", "2")], Style(color=True))
    assert [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in painted] == plain


@given(st.lists(st.text(), max_size=5))
def test_hostile_048_remote_text_never_reaches_the_terminal_raw(texts: list[str]) -> None:
    lines = [
        *fields([("remote", text) for text in texts], PLAIN),
        *fields([("all", texts)], PLAIN),
        *table(("a",), [[text] for text in texts], PLAIN),
    ]
    assert all(" " <= character <= "~" for line in lines for character in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64MB", 64_000_000),
        ("64M", 64_000_000),
        ("64 mb", 64_000_000),
        ("1GiB", 1 << 30),
        ("1.5k", 1500),
        ("0.5GiB", 1 << 29),
        ("2TB", 2 * 10**12),
        ("7b", 7),
        ("18446744073709551615", (1 << 64) - 1),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1XB", "1e6", "MB", "18446744073709551616", "9" * 1000, "٣", "1 2"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_quantities() -> None:
    assert [size(0), size(999), size(1000), size(64_000_000), size(999_900), size(10**30)] == [
        "0 B",
        "999 B",
        "1 kB",
        "64 MB",
        "1 MB",
        "1000000000000 EB",
    ]
    assert [duration(0.0000824), duration(0.0028), duration(1.25)] == ["82 us", "2.8 ms", "1.25 s"]
    assert rate(64_000_000, 0.5) == "128 MB/s"
    assert rate(0, 0.0) == "-"
