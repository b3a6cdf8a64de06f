"""Strong and weak scaling in depth: what is measured on ranks, what is foretold, and the table."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pararealize.ir.plan import Machine
from studies.depth_scaling import SUBJECTS, Scaled, draw, foretold, measured, saved, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "scaling.py"


@pytest.mark.parametrize("name", SUBJECTS)
def test_networks_take_their_batches(name: str) -> None:
    subject = SUBJECTS[name]
    scores = subject.make(3)(subject.batch()[:2])
    assert scores.shape == (2, {"Peaks": 5, "Indian Pines": 16, "MNIST": 10}[name])
    assert torch.equal(subject.batch(), subject.batch())


def test_more_levels_scale_further() -> None:
    """Two levels are slower again on many ranks; what is refused is left out."""
    ranks = (1, 4, 16, 64)
    two = foretold("Peaks", 64, ranks, 2, 4, Machine())
    three = foretold("Peaks", 64, ranks, 3, 4, Machine())
    assert [row.ranks for row in two] == [row.ranks for row in three] == list(ranks)
    assert {row.kind for row in three} == {"foretold, 3 levels"}
    assert all(row.measured is None for row in (*two, *three))
    assert min(row.predicted for row in three) < min(row.predicted for row in two)
    assert two[0].predicted == pytest.approx(two[0].serial)


def test_rows_are_read_and_shown(tmp_path: Path) -> None:
    into = tmp_path / "rows.json"
    given = {"step": "inference", "ranks": 2, "serial": 0.2, "predicted": 0.1, "measured": 0.08}
    into.write_text(json.dumps([given]), encoding="utf-8")
    rows = measured("MNIST", "weak", 128, into)
    assert rows == [Scaled("MNIST", "weak", "inference", 128, 2, 0.2, 0.1, 0.08)]
    rows.append(Scaled("MNIST", "foretold, 5 levels", "inference", 1024, 64, 2.0, 0.1))
    shown = str(table("scaling", rows))
    assert "2.00×" in shown
    assert "2.50×" in shown
    assert "+25%" in shown
    saved(rows, tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))[1]["measured"] is None
    pytest.importorskip("matplotlib")
    draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 1000


@pytest.mark.rest
def test_the_command_measures_on_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    options = ["--only", "Peaks", "--ranks", "1", "2", "--layers", "16", "--each", "8"]
    options += ["--coarsening", "4", "--foretell", "16", "--levels", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options, "--save", str(tmp_path / "rows")])
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "rows").read_text(encoding="utf-8"))
    here = {(r["kind"], r["step"], r["layers"], r["ranks"]) for r in rows if r["measured"]}
    steps = ("inference", "training step")
    wanted = {("strong", step, 16, ranks) for step in steps for ranks in (1, 2)}
    assert here == wanted | {("weak", step, 8 * ranks, ranks) for step in steps for ranks in (1, 2)}
    assert "speedup predicted" in capfd.readouterr().out
