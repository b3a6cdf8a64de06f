"""What a calibration found, in words: the chosen candidate, why, and its certificate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from pararealize import Parareal, pararealize
from pararealize.explain.calibrated import candidates_table, choice, sentences, sweeps_table
from pararealize.explain.explain import explain
from pararealize.explain.table import Table
from pararealize.ir.calibration import Calibration, Candidate, Certificate, Fit, Region, Sweeps

#: Fast and good enough, slower and better, and one that does not agree as often as is wanted.
FAST = Candidate(
    "identity",
    (Fit(1, "identity", 0, 0.2, None), Fit(2, "identity", 0, 0.5, 0.25)),
    (Sweeps(0, 0.25, 0.5, 0.001), Sweeps(1, 0.5, 0.25, 0.002), Sweeps(2, 0.96875, 0.125, 0.003)),
)
GOOD = Candidate(
    "thinned 1",
    (Fit(1, "thinned 1", 1000, 0.125, None), Fit(2, "thinned 1", 1234, 0.0625, 0.03125)),
    (Sweeps(0, 0.75, 0.5, 0.0015), Sweeps(1, 1.0, 0.125, 0.0035)),
)
POOR = Candidate("mean", (Fit(2, "mean", 0, None, None),), (Sweeps(1, 0.125, 9.0, 0.001),))
REGION = Region(1, (0.0,), (1.0,), 2.0)
CERTIFICATE = Certificate(2, {1: 1.0}, 0.0625, "warn", 1.5, (REGION,), 0.984375, 0.875, 0.03125)
FOUND = Calibration(
    *("identity", 2, 1040, 260, 12.5, 0.0045),
    (FAST, GOOD, POOR),
    CERTIFICATE,
    0.9,
)


def rows(table: Table) -> list[list[str]]:
    return [line.split() for line in table.text(120).splitlines()]


def test_candidates_stand_beside_each_other() -> None:
    found = rows(candidates_table(FOUND))
    chosen = ["→", "identity", "0", "0.5", "0.25", "25.0%", "50.0%", "96.9%", "3.00", "(2)"]
    assert chosen in found
    good = ["thinned", "1", "2,234", "0.12", "0.031", "75.0%", "100.0%", "–", "3.50", "(1)"]
    assert good in found
    assert ["mean", "0", "–", "–", "–", "12.5%", "–", "1.00", "(1)"] in found


def test_an_arrow_marks_the_sweeps_that_a_call_takes() -> None:
    found = rows(sweeps_table(FOUND))
    assert ["→", "2", "96.88%", "1.2e-01", "3.000"] in found
    assert ["1", "50.00%", "2.5e-01", "2.000"] in found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "90.00% were asked for; the fastest of the 2 kinds that reach it, of 3."),
        (
            {"kind": "thinned 1", "iterations": 1},
            "'thinned 1' coarse networks and 1 sweep 100.00% of the answers are the serial "
            "network's, 90.00% were asked for; on fewer samples the fastest of the 2",
        ),
        ({"wanted": None}, "and 2 sweeps 96.88% of the answers are the serial network's."),
        ({"wanted": 0.99}, "less than the 99.00% asked for, and nothing"),
        ({"candidates": (FAST,)}, "90.00% were asked for."),
    ],
    ids=["fastest", "another", "free", "missed", "alone"],
)
def test_why_it_was_chosen(changes: dict[str, object], said: str) -> None:
    assert said in choice(replace(FOUND, **changes))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_a_calibrated_network_explains_itself() -> None:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    method = Parareal(coarse="identity", correction="difference", guess="coarse", iterations=2)
    net = pararealize(nn.Sequential(*layers), 3, method=method)
    assert not sentences(net.plan)
    plan = replace(net.plan, calibration=FOUND)
    text = " ".join(explain(plan).split())
    assert "Calibrated in 12.5 s on 1,040 samples, tested on 260 others" in text
    assert "Serial took 4.500 ms as measured there; 3.000 ms are predicted" in text
    assert "cover 98.4% of the true ones and rank them with correlation 0.88" in text
    assert "above 6.2e-02 or a state is unlike those calibrated with or its two best" in text
    assert "scores are within 1.5 of each other, 3.1% of them" in text
    assert "the network warns of doubtful ones" in text
    assert "calibrated, on 260 held-out samples" in text
