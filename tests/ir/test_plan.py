"""The plan: figures, verdict, JSON."""

import json
from dataclasses import replace

import pytest

from pararealize.ir.chain import Cost
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import FORMAT, Machine, Piece, Plan


def piece(index: int, seconds: float, **values: object) -> Piece:
    known = Piece(
        index=index,
        layers=("a", "b"),
        depth=2,
        after="add",
        module="layer1",
        state=("[2, 4] float32",),
        interface_bytes=32,
        parameters=10,
        memory=64,
        flops=100.0,
        seconds=seconds,
    )
    return replace(known, **values)  # type: ignore[arg-type]


def plan(parallel: float = 3.0, coarse: float = 0.5, n: int = 2) -> Plan:
    pieces = [piece(j, 2.0, coarse_parameters=3, guess_parameters=j) for j in range(1, n)]
    return Plan(
        model="Net",
        pieces=(*pieces, piece(n, 2.5, after="", module="", layers=("c", "c"), error=0.25)),
        head="fc",
        inputs={"x": "[2, 4] float32"},
        method=Parareal(iterations=2, coarse_budget=0.5),
        machine=Machine(link_latency=1e-3),
        serial_seconds=6.0,
        parallel_seconds=parallel,
        critical_coarse_seconds=coarse,
        head_seconds=0.1,
        parameters=100,
    )


@pytest.mark.parametrize("n", [1, 2, 5])
def test_json_round_trip(n: int) -> None:
    before = plan(n=n)
    after = Plan.from_json(before.to_json())
    assert after == before
    assert after.to_json() == before.to_json()
    assert json.loads(before.to_json())["format"] == FORMAT


@pytest.mark.parametrize("text", ["[]", "{}", '{"pieces": 3}', "nonsense", "null"])
def test_json_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Plan.from_json(text)


def test_figures() -> None:
    known = plan()
    assert known.n == 2
    assert known.cuts == ("%add",)
    assert known.speedup == pytest.approx(2.0)
    assert known.added_parameters == 4
    assert known.coarse_share == pytest.approx(0.5 / 2.5)


def test_speedup_of_an_empty_network_is_one() -> None:
    assert replace(plan(), parallel_seconds=0.0).speedup == 1.0


def test_verdict_of_a_gain_names_the_speedup() -> None:
    assert "2.00× faster than serial on 2 devices" in plan().verdict


def test_verdict_of_a_loss_says_so_and_what_to_do() -> None:
    verdict = plan(parallel=12.0).verdict
    assert "will LOSE" in verdict
    assert "0.50×" in verdict
    assert "too small" in verdict
    assert "n=1" in verdict


def test_verdict_of_full_sweeps_names_the_reason() -> None:
    assert "as many sweeps as subnetworks" in plan(parallel=12.0, coarse=0.0).verdict


def test_verdict_of_one_subnetwork() -> None:
    assert plan(n=1).verdict == "n = 1 is the serial network."


def test_text_names_pieces_and_head() -> None:
    text = str(plan())
    assert "Net in 2 subnetworks, predicted speedup 2.00×" in text
    assert "1: a … b" in text
    assert "2: c " in text
    assert "head: fc" in text


def test_machine_takes_the_slower_of_computing_and_moving() -> None:
    machine = Machine(flops_per_second=10, bytes_per_second=5, launch_seconds=0.5)
    assert machine.cost(100, 10, launches=1) == Cost(100, 10, 1, 10.5)
    assert machine.cost(10, 100, launches=2) == Cost(10, 100, 2, 21.0)
    assert machine.cost(10, 100, launches=0) == Cost()


def test_machine_message() -> None:
    machine = Machine(link_latency=2.0, link_bandwidth=4.0)
    assert machine.message(0) == 2.0
    assert machine.message(8) == 4.0
