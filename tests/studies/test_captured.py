"""The script for a GPU runs, section by section, on what records and replays on the CPU."""

from __future__ import annotations

import re

import gpu_zoo
import pytest
import torch

from studies import captured
from studies.captured import Bench, measured, over, section


@pytest.mark.rest
def test_the_whole_script_is_rehearsed(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_zoo.main(["--device", "cpu", "--tiny", "--rounds", "1", "--seconds", "1000"])
    said = capsys.readouterr().out
    assert "Error" not in said, said
    assert "skipped" not in said
    for title in ("inference", "training step", "MGRIT", "trained and calibrated", "a dozen"):
        assert title in said
    rows = re.findall(r"^ +(ResNet-\d+|batch 2|8 x 8) +.*\d", said, re.MULTILINE)
    assert len(rows) == 5


def test_figures_are_foretold_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_zoo.main(["--foretell", "--tiny"])
    assert re.search(r"ResNet-20 +\d+ +0\.\d+ +\d+ +– +0\.\d+ +\d", capsys.readouterr().out)


def test_rows_that_fail_or_are_late_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> tuple[str, ...]:
        raise RuntimeError("out of memory\nand more")

    bench = Bench("cpu", True, 1, 100.0)
    section(bench, "t", ("a",), [("one", fails), ("two", lambda: ("7",))])
    said = capsys.readouterr().out
    assert "RuntimeError: out of memory" in said
    assert "and more" not in said
    assert re.search(r"two +7", said)
    section(Bench("cpu", True, 1, 0.0), "t", ("a",), [("one", fails)])
    assert "skipped: the 0 s given are spent" in capsys.readouterr().out


def test_a_row_ends_in_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless() -> object:
        while True:
            pass

    monkeypatch.setattr(captured, "LONGEST", 0.1)
    bench = Bench("cpu", True, 1, 1000.0)
    # Not caught as the failure of one way.
    row = lambda: tuple(measured(bench, {"a": endless}, "a"))  # type: ignore[dict-item]  # noqa: E731
    section(bench, "t", ("a",), [("one", row)])
    assert "OutOfTime: took more than 0 s" in capsys.readouterr().out


def test_a_way_that_fails_leaves_the_others() -> None:
    def broken() -> object:
        raise ValueError("no")

    def way(factor: float) -> object:
        return (lambda: None, lambda: factor * torch.ones(2))

    makers = {"a": lambda: way(1.0), "b": broken, "c": lambda: way(1.5)}
    found = measured(Bench("cpu", True, 1, 9.0), makers, "a")  # type: ignore[arg-type]
    assert found["b"] == "ValueError: no"
    assert found["error c"] == "5.0e-01"
    assert over({"graph": "6", "x": "2", "y": "ValueError: no"}, "graph", "x", "y") == "3.00"
    assert over({"graph": "no", "x": "2"}, "graph", "x") == "-"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_zoo.main([])
    assert ended.value.code == 2
    assert "needs a CUDA device" in capsys.readouterr().err
