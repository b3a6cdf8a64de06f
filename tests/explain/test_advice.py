"""Advice where a network loses: what would win by the same costs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from networks import Recipe, build, compiled, example
from pararealize import Parareal
from pararealize.explain.advice import would_win
from pararealize.ir.groups import Group
from pararealize.ir.plan import Machine, Plan

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def plan() -> Plan:
    """Of four subnetworks, a hundred times as dear as a coarse network; messages are for free."""
    recipe = Recipe("residual", 8)
    found = compiled(build(recipe), 4, Parareal("identity"), example(recipe)).plan
    pieces = tuple(replace(p, seconds=1.0, coarse_seconds=0.01) for p in found.pieces)
    machine = Machine(link_latency=0.0, link_bandwidth=1e18)
    return replace(found, pieces=pieces, serial_seconds=4.0, machine=machine)


def best(found: Plan) -> tuple[int, float]:
    """The number of subnetworks that is named, and how many times as fast it would be."""
    said = re.search(r"n=(\d+): about ([\d.]+)×", would_win(found))
    assert said is not None
    return int(said[1]), float(said[2])


def test_the_best_number_of_subnetworks_by_hand() -> None:
    """S/n + 2 (n - 1) c with S = 4 and c = 0.01 is least at n = 14: 0.546."""
    assert best(plan()) == (14, 7.3)


def test_corrections_in_groups_let_more_subnetworks_win() -> None:
    """In groups of five 30 subnetworks have 4 + 5 corrections in a row: 4/30 + 2 · 9 c = 0.313."""
    grouped = replace(plan(), groups=(Group(3, 1, 1, 2), Group(3, 2, 3, 4)))
    assert best(grouped) == (30, 12.8)
