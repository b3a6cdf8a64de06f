"""Checks under mpiexec: random networks on ranks beside the same in one process (law 8)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, count
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from networks import (
    Case,
    Recipe,
    compiled,
    cotangent,
    legal_interfaces,
    relative,
    seeded,
)
from pararealize import MGRIT, Parareal
from pararealize.errors import CoarseError, MethodError, RankError
from pararealize.network import ParallelNetwork
from pararealize.runtime.monitoring.report import Report

WORLD = MPI.COMM_WORLD

#: How many random networks a check compiles.
COUNT = 8 if "--all" in sys.argv else 2

#: Sums over a batch run in the same order on ranks; only the adjoint's terms may be added in
#: another one.
ROUNDING = 1e-12


#: A random case of as many subnetworks or more.
Draw = Callable[[random.Random, int], Case]


@dataclass
class Steps:
    """What a few training steps leave behind."""

    outputs: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    random: list[Tensor] = field(default_factory=list)


def train(net: ParallelNetwork, case: Case) -> Steps:
    """Steps of gradient descent, one on a smaller batch, then an evaluation."""
    found = Steps()
    net.train(case.training)
    with seeded(case.recipe.seed):
        for size in (len(case.x), len(case.x) - 2, len(case.x)):
            x = case.x[:size].clone().requires_grad_()
            output = net(x)
            (output * cotangent(output)).sum().backward()
            found.inputs.append(x.grad)
            found.outputs.append(output.detach())
            found.random.append(torch.get_rng_state())
            for p in net.parameters():
                if p.grad is not None:
                    p.data -= 1e-2 * p.grad
                    p.grad = None
        net.eval()
        with torch.no_grad():
            found.outputs.append(net(case.x))
    return found


def draw(generator: random.Random, least: int) -> Case:
    """A random network, cut into ``least`` or more subnetworks."""
    recipe = Recipe(
        family=generator.choice(("dense", "conv", "residual", "resconv", "skip")),
        depth=generator.randint(4, 8),
        activation=generator.choice(("relu", "tanh")),
        norm=generator.choice(("", "batch", "cumulative", "functional")),
        dropout=generator.choice(("", "module", "functional")),
        head=generator.random() < 0.5,
        branches=generator.random() < 0.3,
        seed=generator.randrange(10_000),
    )
    most = len(legal_interfaces(recipe)) + 1
    n = generator.randint(min(least, most), min(6, most))
    method = Parareal(
        coarse=generator.choice(("network", "network", "fine", "identity", "rediscretized")),
        correction=generator.choice(("residual", "difference")),
        iterations=generator.randint(1, n),
        guess=generator.choice(("network", "coarse")),
        tolerance=generator.choice((None, None, 1e-9, 0.5, 2.0)),
        levels=generator.choice((2, 3, 4)),
    )
    return Case(recipe, n, method, training=generator.random() < 0.8)


def draw_multigrid(generator: random.Random, least: int) -> Case:
    """A random residual network in slices that are of different lengths, most of them."""
    n = generator.randint(least, max(5, least)) if least > 1 else generator.randint(2, 5)
    recipe = Recipe(
        family=generator.choice(("residual", "resconv")),
        depth=generator.randint(2 * n, 3 * n),
        norm=generator.choice(("", "batch", "cumulative")),
        dropout=generator.choice(("", "module", "functional")),
        head=generator.random() < 0.5,
        seed=generator.randrange(10_000),
    )
    levels = generator.choice((2, 2, 3))
    kinds = ("rediscretized", "mean", "sampled", "summed", "identity", "auto")
    method = MGRIT(
        levels=levels,
        coarsening=generator.choice((2, 3)),
        coarse=generator.choice(kinds),
        relaxation=generator.choice(("F", "FCF")),
        cycle=generator.choice(("V", "F")),
        forward_cycles=generator.randint(1, n),
        backward_cycles=generator.randint(1, n),
        tolerance=generator.choice((None, None, 1e-2, 1e-9)),
        max_cycles=generator.randint(1, 4),
        guess=generator.choice(("coarse", "coarsest", "full", "previous")),
        guard=generator.choice((0.5, 1e6, 1e-4)),
        bias_bound=generator.choice((None, 1e-3)),
        storage=generator.choice(("all", "points")),
    )
    return Case(recipe, n, method, training=generator.random() < 0.8)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reference:
    """A case, and what it does in one process."""

    case: Case
    steps: Steps
    state: dict[str, Tensor]
    serial: dict[str, Tensor]
    report: Report


def reference(case: Case) -> Reference | None:
    """Nothing where the case cannot be compiled."""
    try:
        net = compiled(case.model(), case.n, case.method, case.x)
    except (CoarseError, MethodError):
        return None
    steps = train(net, case)
    return Reference(case, steps, net.state_dict(), net.to_serial().state_dict(), net.report)


@cache
def references(draw: Draw, index: int) -> list[Reference | None]:
    """As many cases as there are ranks, each run by one of them, for all and both transports."""
    generator = random.Random(WORLD.size)
    cases = [draw(generator, WORLD.size) for _ in range((index + 1) * WORLD.size)]
    return WORLD.allgather(reference(cases[index * WORLD.size + WORLD.rank]))


def check(alone: Reference, comm: Any) -> bool:
    """Whether the case can lie on ranks; raises where ranks and one process differ."""
    case = alone.case
    try:
        net = on_ranks(case, comm)
    except RankError as error:
        if "are one step" not in str(error):  # level 3 would join slices of different ranks
            raise
        return False
    found = train(net, case)
    for name in ("outputs", "inputs", "random"):
        for a, b in zip(getattr(found, name), getattr(alone.steps, name), strict=True):
            assert relative({"": a}, {"": b}) <= ROUNDING, (case, name)
    mine = net.state_dict()
    assert relative(mine, {name: alone.state[name] for name in mine}) <= ROUNDING, case
    keys = [key for part in WORLD.allgather(list(mine)) for key in part]
    assert sorted(keys) == sorted(alone.state), case
    assert relative(net.to_serial().state_dict(), alone.serial) <= ROUNDING, case
    if isinstance(case.method, MGRIT):
        assert_reports_agree(net.report, alone.report)
    elif net.stages[1:]:
        assert_sweeps_agree(net.report, alone.report)
    return True


def assert_reports_agree(found: Report, wanted: Report) -> None:
    """As many cycles everywhere, and the same residuals."""
    for name in ("calls", "extra_cycles", "serial_steps", "backward_cycles"):
        assert getattr(found, name) == getattr(wanted, name), name
    for one, other in zip(found.jumps, wanted.jumps, strict=True):
        assert (one.sweep, one.interface, one.level) == (other.sweep, other.interface, other.level)
        assert abs(one.norm - other.norm) <= 1e-9 * (1 + other.norm)


def assert_sweeps_agree(found: Report, wanted: Report) -> None:
    """As many sweeps everywhere, and the jumps of all ranks on each."""
    assert found.sweeps == wanted.sweeps
    for one, other in zip(found.jumps, wanted.jumps, strict=True):
        assert (one.sweep, one.interface) == (other.sweep, other.interface)
        assert abs(one.norm - other.norm) <= 1e-9 * (1 + other.norm)
        assert len(one.samples) == len(other.samples)


def on_ranks(case: Case, comm: Any) -> ParallelNetwork:
    """The case on ranks, its corrections in slices where they can be."""
    chunks = (None, 1, 2, 3)[case.recipe.seed % 4]
    if isinstance(case.method, MGRIT):
        chunks = None
    try:
        return compiled(case.model(), case.n, case.method, case.x, comm=comm, chunks=chunks)
    except MethodError:
        return compiled(case.model(), case.n, case.method, case.x, comm=comm)


def agree(draw: Draw, comm: Any) -> None:
    """``COUNT`` random networks that can lie on these ranks do what they do in one process."""
    drawn = chain.from_iterable(references(draw, index) for index in count())
    checked = 0
    while checked < COUNT:
        alone = next(drawn)
        checked += alone is not None and check(alone, comm)


def parareal(comm: Any, _folder: str) -> None:
    agree(draw, comm)


def multigrid(comm: Any, _folder: str) -> None:
    agree(draw_multigrid, comm)


CHECKS = (parareal, multigrid)
