"""The laws of multigrid networks (DESIGN's numbers), in float64, on chains of the order of one."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from chains import (
    BATCH,
    WIDTH,
    Chain,
    Shape,
    batch,
    chain,
    cuts,
    interpret,
    levels_of,
    options,
    shapes,
    signed_sum,
)
from networks import assert_equal_steps, compiled, relative, seeded, step
from pararealize import MGRIT, Parareal
from pararealize.ir.schedule import Schedule
from pararealize.schedule.cycles import CycleWriter
from pararealize.schedule.directions import Adjoint, Forward
from sampling import pairwise

pytestmark = pytest.mark.filterwarnings(
    "ignore::pararealize.SlowerThanSerialWarning", "ignore::pararealize.DivergenceWarning"
)

#: Sums of a few dozen terms of the order of one, each rounded to 1e-16.
ROUNDING = 1e-12
#: As above, through corrections by coarse differences that are zero but for rounding.
CONVERGED = 1e-10
KINDS = ("rediscretized", "mean", "sampled", "summed", "identity")


# Law 6


def propagate(name: str, value: float) -> float:
    """A map for every propagator, its coefficients by its name: coarse ones are far from fine."""
    level, _, number = name.partition(".")
    seed = sum(map(ord, level)) % 7 + 3 * int(number)
    return math.sin(1.3 * value + seed) + 0.1 * seed


def sizes(shape: Shape, method: MGRIT) -> MGRIT:
    return replace(method, levels=len(shape[1]) + 1, coarsening=shape[1])


@given(shapes(least=2), options(), st.booleans(), st.integers(1, 3))
def test_law_6_the_serial_trajectory_is_a_fixed_point_of_every_cycle(
    shape: Shape, method: MGRIT, back: bool, cycles: int
) -> None:
    """Every level count, coarsening, relaxation, cycle type; for states and for adjoints."""
    levels, method = levels_of(shape), sizes(shape, method)
    n = len(shape[0])
    if back:
        direction: Any = Adjoint(tuple(level.mirrored() for level in levels))
        names = [f"fine.{j}" for j in range(n, 0, -1)]
        bounds = [n - bound for bound in reversed(levels[1].bounds)]
    else:
        direction, names = Forward(levels), [f"fine.{j}" for j in range(1, n + 1)]
        bounds = list(levels[1].bounds)
    states = [0.7]
    for name in names:
        states.append(propagate(name, states[-1]))
    known = {f"p{j}": state for j, state in enumerate(states)}
    solver = CycleWriter(direction, method)
    points = ["p0"] * (n + 1)  # F-points are not known
    for bound in bounds:
        points[bound] = f"p{bound}"
    none = [None] * (n + 1)
    for number in range(cycles):
        points = solver.cycle(1, points, none, method.cycle, number)
    every = Schedule(tuple(direction.tasks), direction.tasks[-1].value)
    values = interpret(every, propagate, signed_sum, known)
    for bound in bounds:
        assert values[points[bound]] == pytest.approx(states[bound], abs=ROUNDING)
    for watch in solver.watches:
        assert values[watch.new] == pytest.approx(values[watch.old], abs=ROUNDING)


def test_law_6_other_trajectories_are_none() -> None:
    shape: Shape = ([2] * 4, (2, 2))
    direction = Forward(levels_of(shape))
    solver = CycleWriter(direction, MGRIT(levels=3, coarsening=2))
    points = solver.cycle(1, [f"p{j}" for j in range(5)], [None] * 5, "V", 0)
    every = Schedule(tuple(direction.tasks), direction.tasks[-1].value)
    values = interpret(every, propagate, signed_sum, {f"p{j}": 0.1 * j for j in range(5)})
    assert all(abs(values[points[j]] - 0.1 * j) > 1e-3 for j in range(1, 5))


# Law 7


@pytest.mark.parametrize("kind", ["", "norm"])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_law_7_two_levels_with_f_relaxation_are_parareal(n: int, kind: str) -> None:
    """Sweep by sweep; the coarsening is a slice's length, or more."""
    each, x = 3, batch()
    model = chain(n * each, kind)
    outputs = []
    for k in range(1, n + 1):
        method = MGRIT(2, 3 + k % 2, "rediscretized", forward_cycles=k, guard=1e9)
        parareal = Parareal("rediscretized", "difference", k, "coarse")
        net = compiled(model, n, method, x, cuts(n, each))
        other = compiled(model, n, parareal, x, cuts(n, each))
        found, wanted = net(x), other(x)
        assert relative({"": found}, {"": wanted}) <= ROUNDING
        residuals = {(j.sweep, j.interface): j.norm for j in net.report.jumps if j.interface < n}
        jumps = {(j.sweep, j.interface): j.norm for j in other.report.jumps}
        assert residuals.keys() == jumps.keys()
        for (sweep, j), jump in jumps.items():
            if j == sweep + 1:  # where a sweep begins both are v - u
                assert residuals[sweep, j] == pytest.approx(jump, rel=1e-6)
        outputs.append(found.detach())
    errors = [relative({"": output}, {"": model(x)}) for output in outputs]
    assert errors[-1] <= ROUNDING
    assert n == 2 or errors[0] > 1e-6


# Laws 4 and 9

COARSENINGS: list[tuple[int, int | tuple[int, ...]]] = [(2, 2), (3, 2), (3, (2, 3))]


@pytest.mark.parametrize(
    ("kind", "coarsenings", "storage", "training"),
    pairwise(["", "norm"], COARSENINGS, ["all", "points"], [True, False]),
)
def test_law_4_all_cycles_are_the_serial_network(
    kind: str, coarsenings: tuple[int, Any], storage: str, training: bool
) -> None:
    """Outputs, gradients, statistics, masks, in two steps."""
    levels, coarsening = coarsenings
    model, x = chain(8, kind, dropout=0.3).train(training), batch()
    method = MGRIT(
        *(levels, coarsening, "rediscretized"), forward_cycles=4, backward_cycles=4, storage=storage
    )
    net = compiled(model, 4, method, x, cuts(4, 2))
    for seed in range(2):
        found, wanted = step(net, model, x, seed), step(model, model, x, seed)
        assert_equal_steps(found, wanted, CONVERGED)


@pytest.mark.parametrize(
    ("kind", "coarsenings", "storage"), pairwise(["", "norm"], COARSENINGS, ["all", "points"])
)
def test_law_9_the_adjoint_at_convergence_is_the_serial_gradient(
    kind: str, coarsenings: tuple[int, Any], storage: str
) -> None:
    """After fewer cycles than are exact by their number."""
    levels, coarsening = coarsenings
    model, x = chain(16, kind, horizon=0.2), batch()
    method = MGRIT(
        *(levels, coarsening, "rediscretized"), forward_cycles=7, backward_cycles=7, storage=storage
    )
    net = compiled(model, 8, method, x, cuts(8, 2))
    assert_equal_steps(step(net, model, x), step(model, model, x), CONVERGED)


@pytest.mark.parametrize("kind", KINDS)
def test_law_9_backward_cycles_lessen_the_gradients_error(kind: str) -> None:
    """At exact states, every cycle by half and more; also with every coarse propagator."""
    model, x = chain(16, horizon=1.0), batch()
    wanted = step(model, model, x).gradients
    errors = []
    for cycles in (1, 2, 3, 4):
        method = MGRIT(2, 4, kind, forward_cycles=4, backward_cycles=cycles, guard=1e9)
        net = compiled(model, 4, method, x, cuts(4, 4))
        errors.append(relative(step(net, model, x).gradients, wanted))
    assert errors[-1] <= CONVERGED
    assert errors[0] > 1e-6
    assert all(after < 0.5 * before for before, after in itertools.pairwise(errors))


def test_law_9_taylor_remainders_are_of_second_order() -> None:
    model, x = chain(16, "norm", horizon=0.5).eval(), batch()
    method = MGRIT(2, 2, "rediscretized", forward_cycles=6, backward_cycles=6)
    net = compiled(model, 8, method, x, cuts(8, 2))
    parameters = list(net.parameters())
    generator = torch.Generator().manual_seed(5)
    along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    loss = net(x).square().sum()
    slope = torch.autograd.grad(loss, parameters)
    change = sum(float((g * d).sum()) for g, d in zip(slope, along, strict=True))
    remainders = []
    for size in (1e-2, 5e-3, 2.5e-3):
        with torch.no_grad():
            torch._foreach_add_(parameters, along, alpha=size)
            moved = net(x).square().sum()
            torch._foreach_sub_(parameters, along, alpha=size)
        remainders.append(abs(float(moved - loss.detach()) - size * change))
    rates = [math.log2(a / b) for a, b in itertools.pairwise(remainders)]
    assert all(1.8 < rate < 2.2 for rate in rates), rates


# Law 10


class Uneven(nn.Module):
    """Slices with normalised layers of other shapes among the residual ones."""

    def __init__(self) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for _ in range(3):
            steps += [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())]
            steps += list(Chain(3, "norm").layers)
        self.stem, self.layers = nn.Linear(3, WIDTH), nn.Sequential(*steps)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


def uneven() -> Uneven:
    with seeded(5):
        return Uneven().double()


def counts(module: nn.Module) -> set[int]:
    return {int(b) for name, b in module.named_buffers() if name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("storage", ["all", "points"])
@pytest.mark.parametrize("kind", KINDS)
def test_law_10_statistics_move_once_a_step(kind: str, storage: str) -> None:
    """Also those of layers that coarse propagators borrow whole; compiling moves none."""
    model, x = uneven(), batch()
    method = MGRIT(2, 3, kind, guard=1e9, storage=storage)
    net = compiled(model, 3, method, x, ("layers.3", "layers.7"))
    assert counts(net) == {0}
    for steps in (1, 2, 3):
        net(x).sum().backward()
        assert counts(net) == {steps}
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.eval()
    net(x).sum().backward()
    assert all(torch.equal(net.get_buffer(name), buffer) for name, buffer in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_law_10_statistics_of_exact_states_are_the_serial_ones(kind: str) -> None:
    """Also of layers that coarse propagators borrow whole: all that moves is as serially."""
    model, x = uneven(), batch()
    method = MGRIT(2, 3, kind, forward_cycles=3, backward_cycles=3)
    net = compiled(model, 3, method, x, ("layers.3", "layers.7"))
    for seed in range(2):
        assert_equal_steps(step(net, model, x, seed), step(model, model, x, seed), CONVERGED)


@pytest.mark.parametrize("guard", [1e-9, 1e-4])
def test_law_10_statistics_move_once_where_the_guard_adds_cycles(guard: float) -> None:
    """Those of the last evaluation only: of the serial network, or near it."""
    model, x = chain(16, "norm", horizon=0.5), batch()
    method = MGRIT(2, 2, "rediscretized", guard=guard, max_cycles=5)
    net = compiled(model, 8, method, x, cuts(8, 2))
    for steps in (1, 2):
        net(x).sum().backward()
        model(x)
        assert counts(net) == {steps}
        found, wanted = dict(net.named_buffers()), dict(model.named_buffers())
        assert relative(found, wanted) <= max(ROUNDING, guard)
    assert net.report.extra_cycles > 0


def test_law_10_means_of_statistics_are_todays() -> None:
    """In evaluation mode, whatever was evaluated quietly before."""
    model, x = chain(8, "norm"), batch()
    net = compiled(model, 2, MGRIT(2, 4, "mean", guard=1e9), x, cuts(2, 4))
    for _ in range(2):
        net(x)
    net.eval()
    net(x)
    state = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    steps = list(net.layers[4:])
    twin = copy.deepcopy(steps[0])
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if tensor.is_floating_point():
            same = [step.state_dict()[name] for step in steps]
            tensor.data.copy_(torch.stack(same).mean(0))
    wanted = state + 4 * (twin(state) - state)
    for _ in range(2):
        found = net.propagators["coarse.2"](state, commits=False)
        assert relative({"": found}, {"": wanted}) <= ROUNDING


def test_law_10_masks_are_drawn_once_a_step_and_anew_in_the_next() -> None:
    model, x = chain(8, dropout=0.5), batch()
    net = compiled(model, 4, MGRIT(2, 2, "rediscretized", forward_cycles=2), x, cuts(4, 2))
    seen: dict[str, list[Tensor]] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(
                lambda _m, given, made, name=name: seen.setdefault(name, []).append(
                    (made == 0).detach()
                )
            )
    drawn = []
    for _ in range(2):
        seen.clear()
        net(x).sum().backward()
        assert max(map(len, seen.values())) >= 3  # a coarse propagator has masks of its own
        for masks in seen.values():
            assert len({tuple(mask.flatten().tolist()) for mask in masks}) <= 2
        drawn.append({name: masks[0] for name, masks in seen.items()})
    assert any(not torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_law_10_train_eval_train() -> None:
    """As on the original; evaluation draws no masks."""
    model, x = chain(8, "norm", dropout=0.3), batch()
    net = compiled(model, 4, MGRIT(2, 2, "rediscretized", forward_cycles=4), x, cuts(4, 2))
    for mode in (True, False, True):
        for module in (net, model):
            module.train(mode)
        with seeded(1):
            found = net(x)
        with seeded(1):
            wanted = model(x)
        assert relative({"": found}, {"": wanted}) <= ROUNDING
        assert mode or torch.equal(net(x), found)


# Law 12


class Smooth(nn.Module):
    """Euler steps of dx/dt = tanh(W(t) x + b(t)), its weights smooth in time."""

    def __init__(self, depth: int, horizon: float = 1.0) -> None:
        super().__init__()
        base = Chain(2, horizon=horizon)
        first, last = base.layers[0].map, base.layers[1].map
        self.stem, self.head = base.stem, base.head
        steps = list(Chain(depth, horizon=horizon).layers)
        for i, each in enumerate(steps):
            t = (i + 0.5) / depth
            for name in ("weight", "bias"):
                mixed = (1 - t) * getattr(first, name).detach() + t * getattr(last, name).detach()
                getattr(each.map, name).data.copy_(mixed)
        self.layers = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


def smooth(depth: int, horizon: float = 1.0) -> nn.Module:
    with seeded(7):
        return Smooth(depth, horizon).double()


def error(depth: int, n: int, method: MGRIT) -> float:
    model, x = smooth(depth), batch()
    net = compiled(model, n, method, x, cuts(n, depth // n))
    return relative({"": net(x)}, {"": model(x)})


@pytest.mark.parametrize("cycles", [1, 2])
def test_law_12_errors_fall_at_the_two_level_rate(cycles: int) -> None:
    """A method of first order with steps H as coarse propagator: H^{k+1} after k cycles.

    FCF-relaxation multiplies what a cycle leaves by Φ once more, whose norm is near one here: the
    order is the same, the error no larger (Dobrev et al., SISC 39, 2017).
    """
    found = {}
    for relaxation in ("F", "FCF"):
        method = MGRIT(2, 32, "rediscretized", relaxation=relaxation, forward_cycles=cycles)
        rough, found[relaxation] = (error(32, n, method) for n in (8, 16))
        assert found[relaxation] > ROUNDING
        assert math.log2(rough / found[relaxation]) > cycles + 1 - 0.4
    assert found["FCF"] < found["F"]


def test_law_12_every_cycle_gains_as_much() -> None:
    errors = [error(32, 8, MGRIT(2, 4, "rediscretized", forward_cycles=k)) for k in (1, 2, 3)]
    rates = [after / before for before, after in itertools.pairwise(errors)]
    assert max(rates) < 0.1
    assert rates[1] < 1.5 * rates[0]


def cycles_for(depth: int, n: int, coarsening: int, levels: int = 2) -> int:
    model, x = smooth(depth), batch()
    method = MGRIT(levels, coarsening, "rediscretized", tolerance=1e-7, max_cycles=8)
    net = compiled(model, n, method, x, cuts(n, depth // n))
    net(x)
    assert net.report.serial_steps == 0
    assert net.report.largest <= 1e-7
    return 1 + net.report.extra_cycles


@pytest.mark.parametrize("levels", [2, 3])
def test_law_12_deeper_networks_need_no_more_cycles(levels: int) -> None:
    """At a fixed horizon and coarsening, with slices of one interval."""
    found = [cycles_for(depth, depth // 2, 2, levels) for depth in (16, 32, 64)]
    assert found == sorted(found, reverse=True)
    fixed = [cycles_for(depth, 8, 2) for depth in (16, 32, 64)]
    assert max(fixed) <= fixed[0] + 1  # inside a slice refined steps meet what is not coarsened
