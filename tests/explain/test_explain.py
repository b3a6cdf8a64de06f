"""Explanations: tables and sentences of a plan."""

from dataclasses import replace

import pytest
import torch

from pararealize import MGRIT, Parareal, Plan, pararealize
from pararealize.explain.explain import WIDTH, explain, summary
from pararealize.models import odenet, resnet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.manual_seed(0)
    return pararealize(resnet(47, width=4), 3).plan


def test_every_subnetwork_has_a_row_in_both_tables(plan: Plan) -> None:
    lines = explain(plan).splitlines()
    for piece in plan.pieces:
        rows = [line for line in lines if line.split()[:1] == [str(piece.index)]]
        assert len(rows) == 2
        assert f"{piece.parameters:,}" in rows[0]
        assert piece.layers[0] in rows[0]
        assert f"{piece.seconds * 1e3:.3f}" in rows[0]
    assert any(line.split()[:1] == ["h"] and plan.head in line for line in lines)


def test_lines_fit_a_terminal(plan: Plan) -> None:
    assert max(len(line) for line in explain(plan).splitlines()) <= WIDTH


def test_sentences_name_inputs_additions_and_verdict(plan: Plan) -> None:
    costs, added, verdict = summary(plan)
    assert "images [2, 3, 32, 32] float32" in costs
    assert f"{plan.added_parameters:,}" in added
    assert f"{plan.coarse_share:.1%}" in added
    assert verdict == plan.verdict


def test_one_subnetwork_has_one_table() -> None:
    text = explain(pararealize(resnet(11, width=4), 1).plan)
    assert "added by parareal" not in text
    assert "n = 1 is the serial network" in text


def test_measured_errors_are_shown() -> None:
    plan = pararealize(odenet(12, width=8), 3, method=Parareal(coarse="auto")).plan
    error = plan.pieces[1].error
    assert error is not None
    words = explain(plan).split()
    assert f"{error:.0%}" in words
    assert "(leaves" in words


@pytest.mark.parametrize(
    ("n", "coarse", "said"), [(64, "auto", False), (65, "auto", True), (65, "mean", False)]
)
def test_it_is_said_where_not_all_kinds_were_measured(
    plan: Plan, n: int, coarse: str, said: bool
) -> None:
    method = MGRIT(coarse=coarse)  # type: ignore[arg-type]
    many = replace(plan, pieces=plan.pieces[:1] * n, method=method)
    assert ("were not measured" in " ".join(summary(many))) == said


@pytest.mark.parametrize(
    ("size", "text"),
    [(100, "100 B"), (2048, "2.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes_are_readable(plan: Plan, size: int, text: str) -> None:
    first = replace(plan.pieces[0], interface_bytes=size)
    assert text in explain(replace(plan, pieces=(first, *plan.pieces[1:])))


def test_colours_are_left_out(plan: Plan) -> None:
    assert "\x1b" not in explain(plan)


def test_a_tolerance_says_how_far_sweeps_go(plan: Plan) -> None:
    method = Parareal(tolerance=0.25)
    assert any(
        line.startswith("At most 3 sweeps, until jumps are below 0.25;")
        for line in summary(replace(plan, method=method))
    )
