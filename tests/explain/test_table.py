"""Tables as text: aligned, folded, marked."""

from __future__ import annotations

from pararealize.explain.table import Table, folded, page

NAMES = ("#", "layers", "ms")
ROWS = (("1", "conv1 … layer1.4", "5.578"), ("10", "head", "12.1"), ("h",))


def test_words_begin_at_the_left_and_numbers_end_at_the_right() -> None:
    text = Table("A network", NAMES, ROWS, left=("layers",), marked=(1,)).text()
    assert text.splitlines() == [
        "A network",
        "   #   layers                ms",
        "   1   conv1 … layer1.4   5.578",
        "→ 10   head                12.1",
        "   h",
    ]


def test_words_are_folded_where_lines_are_too_long_and_numbers_never() -> None:
    rows = (("1", "one two three four five", "1,234,567"), ("2", "x" * 30, "1"))
    lines = Table("", NAMES, rows, left=("layers",)).text(34).splitlines()
    assert lines == [
        "",
        "  #   layers                    ms",
        "  1   one two three      1,234,567",
        "      four five",
        "  2   xxxxxxxxxxxxxxxx           1",
        "      xxxxxxxxxxxxxx",
    ]
    narrow = Table("", NAMES, rows, left=("layers",)).text(5)
    assert "1,234,567" in narrow
    assert "one two" in narrow


def test_columns_of_one_name_are_columns_of_their_own() -> None:
    text = Table("", ("ms", "ms"), [("1", "2000")]).text()
    assert text.splitlines()[1:] == ["  ms     ms", "   1   2000"]


def test_paragraphs_keep_their_lines() -> None:
    assert folded("one two three\n\nfour", 8) == "one two\nthree\n\nfour"
    assert folded("") == ""


def test_a_table_on_a_page_ends_with_an_empty_line() -> None:
    assert page((Table("T", ("a",), [("1",)]), "one two"), 5).splitlines() == [
        *("T", "  a", "  1", "", "one", "two"),
    ]
