"""What a command prints, and how it says how far it is."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pararealize.cli.terminal import Bars, Printer
from pararealize.explain.table import Table
from pararealize.runtime.monitoring.progress import Lines


def test_the_first_rank_alone_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (1, 0):
        say = Printer.of(SimpleNamespace(rank=rank))
        say(Table(f"rank {rank}", ("a",), [("1",)]), "two\n\nparagraphs")
    assert capsys.readouterr().out == "rank 0\n  a\n  1\n\ntwo\n\nparagraphs\n"
    assert not Printer.of(None).quiet


def test_paragraphs_are_as_wide_as_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = []
    for columns in ("40", "150"):
        monkeypatch.setenv("COLUMNS", columns)
        Printer()("word " * 100)
        lengths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert 90 < lengths[0] <= 96  # what tables take
    assert 144 < lengths[1] <= 150


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Printer().progress, Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(Printer().progress, Bars)
    assert isinstance(Printer(quiet=True).progress, Lines)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(Printer().progress, Lines)


def test_the_first_rank_alone_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with Printer(quiet).progress.task(f"{quiet}") as advance:
            advance()
    assert capsys.readouterr().err.startswith("False: 1, done in")


def test_a_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as progress, progress.task("coarse networks", 3) as advance:
        for _ in range(3):
            advance("loss 0.5")
    out, err = capsys.readouterr()
    assert not out
    assert "coarse networks" in err
    assert "3/3 loss 0.5" in err
