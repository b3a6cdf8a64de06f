"""The walk of docs/first-ten-minutes.md: its files are written, its commands run, in its order."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pararealize.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "first-ten-minutes.md"
BLOCK = re.compile(
    r'^(<!-- by hand.*?-->\n)?```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL
)

#: What takes a minute on the page takes a second here.
SMALLER = {
    "resnet(83, channels=1, width=8)": "resnet(20, channels=1, width=4)",
    "steps = net(), 60": "steps = net(), 12",
    "--minutes 3 ": "--minutes 0.05 ",
}


def blocks() -> list[tuple[bool, str, str, str]]:
    """Whether it runs here, its language, the file that it is, and its text."""
    text = PAGE.read_text(encoding="utf-8")
    for longer, shorter in SMALLER.items():
        assert text.count(longer) == 1, longer
        text = text.replace(longer, shorter)
    return [(not by_hand, kind, file, body) for by_hand, kind, file, body in BLOCK.findall(text)]


def commands() -> Iterator[list[str]]:
    for runs, kind, _, body in blocks():
        if runs and kind == "sh":
            lines = body.replace("\\\n", " ").splitlines()
            yield from (shlex.split(line, comments=True) for line in lines)


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code of a command of the package, and what it printed, and said where it failed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return ended.value.code, " ".join((out if ended.value.code in {0, 1} else err).split())


@pytest.mark.rest
@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_the_walk_can_be_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for _, kind, file, body in blocks():
        if kind == "python" and file:
            Path(file).write_text(body, encoding="utf-8")
    found = {}
    for program, *words in commands():
        if program == "python":
            runpy.run_path(words[0])
        else:
            assert program == "pararealize"
            found[words[0]] = said(words, capsys)
    sys.modules.pop("mine")
    assert list(found) == ["explain", "convert", "check"]
    assert found["explain"][0] == found["convert"][0] == 0
    assert re.search(r"[Pp]redicted \d+\.\d+× .* serial on 2 devices", found["explain"][1])
    assert found["convert"][1].endswith("Written: OUT")
    code, text = found["check"]
    assert "It agrees with the serial network on" in text
    assert re.search(r"Latency for \[1, 1, 16, 16\].* on 2 ranks", text)
    assert code == ("LESS often" in text)


def test_every_command_of_the_page_is_run_or_says_that_it_is_not() -> None:
    by_hand = [body for runs, kind, _, body in blocks() if kind == "sh" and not runs]
    assert len(by_hand) == 3
    assert "pip install" in by_hand[0]
    assert "pararealize bench" in by_hand[1]
    assert "pararealize run" in by_hand[2]
