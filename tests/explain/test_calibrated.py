"""What a calibration found, in words: the chosen candidate, why, and its certificate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from calibrations import FAST, FOUND, GOOD, rows
from torch import nn

from pararealize import Parareal, one_gpu, pararealize
from pararealize.explain.calibrated import choice, sentences, sweeps_table
from pararealize.explain.explain import explain


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
            "network's (of all such data 98.54% to 100.00%, with 95% confidence), 90.00% were "
            "asked for; on fewer samples the fastest of the 2",
        ),
        (
            {"wanted": None},
            "and 2 sweeps 96.88% of the answers are the serial network's (of all such data 93.98% "
            "to 98.40%, with 95% confidence).",
        ),
        (
            {"wanted": 0.96, "confidence": 0.9},
            "96.00% were asked for, which take 97.56% of so many samples to be sure.",
        ),
        (
            {"left_out": {"mean": "no time was left", "factored 0.5": "no time was left"}},
            "of 3. Not tried: mean, factored 0.5 (no time was left).",
        ),
        ({"wanted": 0.99}, "less than the 99.00% asked for, and nothing"),
        ({"candidates": (FAST,)}, "90.00% were asked for."),
        (
            {"candidates": (FAST, replace(GOOD, levels=3)), "levels": 3, "kind": "thinned 1"}
            | {"iterations": 1},
            "with 'thinned 1, 3 levels' coarse networks and 1 sweep 100.00%",
        ),
        ({"candidates": (FAST, replace(FAST, levels=3))}, "of the 2 kinds and levels that reach"),
    ],
    ids=[
        *("fastest", "another", "free", "margin", "left out", "missed", "alone", "levels"),
        "both levels",
    ],
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
    assert "predicted to be 1.50× as fast as serial on 3 devices" in text
    assert "cover 98.4% of the true ones and rank them with correlation 0.88" in text
    assert "above 6.2e-02 or a state is unlike those calibrated with or its two best" in text
    assert "scores are within 1.5 of each other, 3.1% of them" in text
    assert "the network warns of doubtful ones" in text
    assert "calibrated, on 260 held-out samples" in text
    elsewhere = replace(plan, machine=one_gpu(), calibration=replace(FOUND, measured=False))
    text = " ".join(explain(elsewhere).split())
    assert "By its machine's rates it is predicted to be 1.50× as fast as serial on one" in text
