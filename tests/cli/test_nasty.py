"""The command line told nonsense: exit code 2 and one readable paragraph, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pararealize.cli import launch
from pararealize.cli.main import main

MODELS = """
import sys, torch
from torch import nn
def ok(): return nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
def data(): return torch.randn(20, 6)
def raises(): raise RuntimeError("broken\\nmodel")
def interrupted(): raise StopIteration
def leaves(): sys.exit(0)
def says_bye(): raise SystemExit("bye")
def forever(): return forever()
def wants(a): return a
def mistakes(): return 1 + "x"
number = 3
"""
OK = ("models.py:ok", "--shape", "2,6", "-n", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nasty")
    (path / "models.py").write_text(MODELS)
    for name, text in {"imports": "import nothing_of_this_name", "syntax": "def (:"}.items():
        (path / f"{name}.py").write_text(text)
    (path / "exits.py").write_text("import sys\nsys.exit(0)")
    (path / "binary.py").write_bytes(b"\xff\xfe\x00")
    for name, content in {"junk": b"\x80\x05junk", "empty": b"", "short": b"cos\nsystem\n"}.items():
        (path / f"{name}.pt").write_bytes(content)
    (path / "junk.safetensors").write_bytes(b"x" * 40)
    (path / "junk.npy").write_bytes(b"x" * 40)
    (path / "folder.pt").mkdir()
    (path / "file").write_text("")
    return path


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def nothing(*_: object, **__: object) -> int:
        raise AssertionError("ranks were started")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(launch.subprocess, "call", nothing)
    yield
    assert not os.path.lexists(folder / "out")


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said at exit code 2, in one paragraph."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    said = capsys.readouterr().err
    assert exit_.value.code == 2, said
    assert "Traceback" not in said
    assert "a fault of this program" not in said
    if "Usage:" in said:  # typer's own
        return " ".join(said.split())
    assert said.startswith("pararealize: ")
    assert said.count("\n") == 1
    assert len(said) < 1100
    return said


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("models.py:raises", "raised RuntimeError: broken model"),
        ("models.py:interrupted", "raised StopIteration"),
        ("models.py:leaves", "would end this program"),
        ("models.py:says_bye", "would end this program (exit bye)"),
        ("models.py:forever", "raised RecursionError"),
        ("models.py:wants", "cannot be called without arguments"),
        ("models.py:mistakes", "raised TypeError: unsupported operand"),
        ("models.py:number", "gave a int"),
        ("models.py:nothing", "has no 'nothing'"),
        ("imports.py:x", "No module named 'nothing_of_this_name'"),
        ("syntax.py:x", "raised SyntaxError"),
        ("exits.py:x", "would end this program"),
        ("binary.py:x", "raised"),
        (".:x", "is the name of no module"),
        ("..:x", "is the name of no module"),
        ("a..b:x", "is the name of no module"),
        (":x", "names no model"),
        ("", "names no model"),
        ("folder.pt:x", "no module"),
        ("nowhere.py:x", "no file nowhere.py"),
        ("a\0b.py:x", "no file"),
        ("\udcff:x", "is the name of no module"),
        ("x" * 300 + ".py:x", "no file"),
        ("os:nothing", "has no 'nothing'"),
    ],
)
def test_models(model: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in ended(capsys, "explain", model)


def test_an_error_in_a_model_is_shown_with_debug() -> None:
    with pytest.raises(Exception, match="would end this program") as caught:
        main(["--debug", "explain", "models.py:leaves"])
    assert isinstance(caught.value.__cause__, SystemExit)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("explain", *OK, "--picture", "nope/x"), "nope/x.png: No such file or directory"),
        (("explain", *OK, "--picture", "file/x"), "file/x.png: Not a directory"),
        (("explain", *OK, "--picture", "a\0b"), "null"),
        (("explain", "models.py:ok", "--shape", "-1,6"), "--shape -1: expected 1 or more"),
        (("explain", "models.py:ok", "--shape", "0,6"), "--shape 0: expected 1 or more"),
        (("explain", "models.py:ok", "--shape", "9" * 12 + ",6"), "numbers are the most"),
        (("explain", "models.py:ok", "--shape", "9" * 5000), "expected integers"),
        (("explain", "models.py:ok", "--shape", "2,x"), "expected integers"),
        (("explain", "models.py:ok", "-n", "9" * 400), "n="),
        (("explain", *OK, "--mgrit", "levels=1000000000"), "levels=1000000000"),
        (("explain", *OK, "--mgrit", "coarsening=" + "(" * 5000), "coarsening"),
        (("explain", *OK, "--mgrit", "x" * 5000), "is none of levels"),
        (("explain", *OK, "--parareal-levels", "many"), "levels='many'"),
        (("explain", *OK, "--parareal-levels", "9" * 30), "from 2 to 64"),
        (("explain", *OK, "--tolerance", "nan"), "tolerance=nan"),
        (("explain", *OK, "--cut", ""), "interface"),
        (("demo", "--threads", "0"), "--threads 0: expected 1 to 1024"),
        (("demo", "--threads", "99999999999"), "--threads"),
        (("demo", "--epochs", "-1"), "--epochs -1"),
        (("demo", "-n", "0"), "-n 0: expected 1 or more"),
        (("demo", "--seed", "-1"), "--seed -1"),
        (("demo", "--ranks", "0"), "--ranks 0: expected 1 to"),
        (("bench", "models.py:ok", "--ranks", "99999999999999"), "--ranks 99999999999999"),
        (("bench", "models.py:ok", "--ranks", "-3"), "--ranks -3"),
        (("bench", "models.py:ok", "--batch", "1,-4"), "--batch -4"),
        (("bench", "models.py:ok", "--shape", "0"), "--shape 0"),
        (("bench", "models.py:ok", "--rounds", "0"), "--rounds 0"),
        (("check", *OK[:3], "-n", "0"), "-n 0"),
        (("check", *OK, "--tolerance", "nan"), "--tolerance nan"),
        (("check", "file", "--model", "models.py:ok"), "names no model"),
        (("check", "folder.pt", "--model", "models.py:ok"), "no saved network"),
        (("convert", *OK, "-o", "file"), "is a file"),
        (("convert", *OK, "-o", "/proc/nowhere/x"), "cannot be written"),
        (("convert", *OK, "-o", "a\0b"), "null byte"),
        *(
            (("convert", *OK, "-o", "out", "--weights", f"{name}"), "--weights")
            for name in ("junk.pt", "empty.pt", "short.pt", "folder.pt", "junk.safetensors", "\0")
        ),
        *(
            (("convert", *OK, "-o", "out", "--calibrate", name), name[:4])
            for name in ("junk.npy", "junk.safetensors", "models.py:raises", "models.py:number")
        ),
        (("convert", *OK, "-o", "out", "--calibrate", "models.py:data", "--rate", "1e300"), "rate"),
        (("convert", *OK, "-o", "out", "--calibrate", "models.py:data", "--batch", "0"), "batch"),
    ],
    ids=lambda value: " ".join(v[:30] for v in value if v) if isinstance(value, tuple) else "",
)
def test_options(command: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in ended(capsys, *command)
