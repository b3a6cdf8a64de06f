"""A script on ranks: it gets what is its own, and an error is one paragraph, said once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pararealize.cli import launch as launching
from pararealize.cli.main import main

BESIDE = """
from pararealize.errors import ShapeError

def refuse():
    raise ShapeError("x is too short.")
"""
SCRIPTS = {
    "prints.py": "import sys\nprint(__name__, *sys.argv)\n",
    "refuses.py": "import beside\n\nbeside.refuse()\n",
    "fails.py": "def inner():\n    raise KeyError('mine')\n\n\ninner()\n",
    "ends.py": "import sys\nsys.exit(7)\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "beside.py").write_text(BESIDE, encoding="utf-8")
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def ran(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    return ended.value.code


def test_a_script_gets_what_follows_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("prints.py", "--ranks", "7", "a b", "-n", "--worker", str(folder)) == 0
    assert capsys.readouterr().out == "__main__ prints.py --ranks 7 a b -n\n"


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("refuses.py", 2, ["pararealize: {}/beside.py, line 5: x is too short."]),
        (
            "fails.py",
            1,
            [
                "Traceback (most recent call last):",
                '  File "fails.py", line 5, in <module>',
                '  File "fails.py", line 2, in inner',
                "KeyError: 'mine'",
            ],
        ),
        ("ends.py", 7, []),
    ],
)
def test_an_error_is_said_once(
    folder: Path, script: str, code: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "meet").mkdir()
    assert ran(script, "--worker", str(folder / "meet")) == code
    lines = capsys.readouterr().err.splitlines()
    shown = [line for line in lines if not line.startswith("    ")]  # but for the code itself
    assert shown == [each.format(folder) for each in said]
    sys.modules.pop("beside", None)
    assert ran(script, "--worker", str(folder / "meet")) == code
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_it_is_launched_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []

    def call(command: list[str], env: dict[str, str]) -> int:
        assert env["MALLOC_TRIM_THRESHOLD_"]  # large blocks stay on the heap
        found.append(command)
        return 3

    monkeypatch.setattr(launching, "run", call)
    assert ran("--ranks", "3", "prints.py", "--epochs", "2") == 3
    (command,) = found
    assert command[1:3] == ["-n", "3"]
    assert command[7:-2] == ["pararealize", "run", "--ranks", "3", "prints.py", "--epochs", "2"]


@pytest.mark.usefixtures("folder")
def test_a_script_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("nowhere.py") == 2
    assert "nowhere.py: no such file" in capsys.readouterr().err
