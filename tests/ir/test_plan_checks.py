"""Checks of saved plans: every entry that no network can have is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pararealize.ir.calibration import Calibration, Candidate, Certificate, Fit, Region, Sweeps
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Machine, Piece, Plan, Stack


def piece(index: int) -> Piece:
    values = {"interface_bytes": 32, "parameters": 10, "memory": 64, "flops": 100.0, "seconds": 1.0}
    return Piece(index, ("a", "b"), 2, "add", "layer", ("[2, 4] float32",), **values)  # type: ignore[arg-type]


def plan() -> Plan:
    rows = (Sweeps(0, 0.5, 0.5, 1.0), Sweeps(1, 1.0, 0.1, 2.0))
    regions = (Region(1, (0.0, 0.0), (1.0, 0.0, 1.0), 2.0),)
    certificate = Certificate(1, {1: 0.5, 2: 0.5}, 0.1, "report", regions=regions)
    candidates = (Candidate("network", (Fit(2, "network", 3, 0.1, 0.2),), rows),)
    return Plan(
        model="Net",
        pieces=(piece(1), piece(2), piece(3)),
        head="",
        inputs={"x": "[2, 4] float32"},
        method=Parareal(),
        machine=Machine(),
        serial_seconds=6.0,
        parallel_seconds=3.0,
        critical_coarse_seconds=0.5,
        stacks=(Stack((1, 2), 2.0),),
        calibration=Calibration("network", 1, 8, 2, 1.0, 1.0, candidates, certificate),
    )


def changed(entry: str, value: Any) -> str:
    values = json.loads(plan().to_json())
    *parents, last = entry.split(".")
    here = values
    for name in parents:
        here = here[int(name)] if isinstance(here, list) else here[name]
    here[last] = value
    return json.dumps(values)


def test_a_whole_plan_is_read_back() -> None:
    assert Plan.from_json(plan().to_json()) == plan()


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("pieces", [], r"\$\.pieces: no subnetwork"),
        ("pieces.1.index", 3, r"pieces\[1\]\.index: 3 in the place of 2"),
        ("pieces.2.depth", 0, r"pieces\[2\]\.depth: 0 layers"),
        ("pieces.0.seconds", float("nan"), r"pieces\[0\]\.seconds: nan"),
        ("pieces.0.seconds", -1.0, r"pieces\[0\]\.seconds: -1"),
        ("pieces.0.layers", ["a"], r"pieces\[0\]\.layers"),
        ("pieces.0.layers", ["a", "b", "c"], r"pieces\[0\]\.layers"),
        ("pieces.1.state", [3], r"pieces\[1\]\.state"),
        ("parallel_seconds", float("inf"), r"\$\.parallel_seconds: inf"),
        ("chunks", -1, r"\$\.chunks: -1"),
        ("stacks.0.slices", [1, "2"], r"stacks\[0\]\.slices"),
        ("stacks.0.speedup", float("nan"), r"stacks\[0\]\.speedup: nan"),
        ("fitted", {"coarse.2": {"x": [1.0]}}, "fitted"),
        ("fitted", {"coarse.2": {"3": ["x"]}}, "fitted"),
        ("calibration.seconds", -3.0, r"calibration\.seconds: -3"),
        ("calibration.kind", "magic", r"calibration\.kind: 'magic' is none of \['network'\]"),
        ("calibration.iterations", 7, r"calibration\.iterations: 7 sweeps, measured were \[0, 1\]"),
        ("calibration.candidates", [], r"calibration\.kind"),
        ("calibration.candidates.0.sweeps", [], r"calibration\.iterations"),
        ("calibration.certificate.sweeps", 0, r"certificate\.sweeps: 0 of 1 to 1"),
        ("calibration.certificate.above", "shout", r"certificate\.above: 'shout'"),
        ("calibration.certificate.weights", {}, r"certificate\.weights: for interfaces \[\]"),
        ("calibration.certificate.weights", {"9": 1.0}, r"certificate\.weights: .*\[9\] of 1 to 3"),
        ("calibration.certificate.weights", {"x": 1.0}, r"certificate\.weights|calibration"),
        ("calibration.certificate.regions.0.interface", 5, r"regions\[0\]\.interface: 5"),
        ("calibration.certificate.regions.0.centre", [0.0], "1 features and 3 weights"),
        ("calibration.certificate.regions.0.whitening", [1.0], "2 features and 1 weights"),
    ],
)
def test_what_no_network_has_is_named(entry: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Plan.from_json(changed(entry, value))
