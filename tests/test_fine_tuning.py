"""Fine and coarse networks trained together, with the jumps as a penalty. In float64."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from local_transport import LocalGroup
from networks import Case, Recipe, compiled, seeded
from pararealize import MGRIT, ParallelNetwork, Parareal
from pararealize.errors import MethodError, PeerError, ShapeError
from pararealize.ir.calibration import Certificate
from pararealize.runtime.monitoring.rules import Certified
from pararealize.runtime.values.combine import combine

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: The same sums of a few dozen terms of the order of one, in another order.
ROUNDING = 1e-12
N = 4

every_correction = pytest.mark.parametrize("correction", ["residual", "difference"])


def case(family: str = "dense", norm: str = "batch", dropout: str = "", **options: object) -> Case:
    method = Parareal(**options)  # type: ignore[arg-type]
    return Case(Recipe(family, 9, norm=norm, dropout=dropout), N, method)


def losses(net: ParallelNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    with net.jumps() as jumps:
        return net(x).square().mean(), jumps.penalty()


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    grads = ((name, p, p.grad) for name, p in net.named_parameters())
    return {name: torch.zeros_like(p) if g is None else g.clone() for name, p, g in grads}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    scale = max(float(value.abs().max()) for value in wanted.values())
    for name, value in found.items():
        assert float((value - wanted[name]).abs().max()) <= ROUNDING * scale, name


def by_hand(net: ParallelNetwork, x: Tensor, sweeps: int, correction: str) -> tuple[Tensor, Tensor]:
    """The equations of parareal, term by term, and the jumps that a call computes.

    Those that the output does not depend on are left out where sweeps are decided beforehand.
    """
    parts, all_jumps = net.propagators, f"guess.{N - 1}" in net.propagators

    def apply(name: str, state: object = None) -> object:
        given = [] if state is None else [state]
        return parts[name](*given, *[x for _ in parts[name].inputs], commits=False)

    def is_needed(k: int, j: int) -> bool:
        return all_jumps or j <= N - (sweeps - 1 - k)

    old = [None, *(apply(f"guess.{j}") for j in range(1, N) if is_needed(0, j + 1)), None, None]
    terms = []
    for k in range(sweeps):
        pieces = [j for j in range(1, N + 1) if is_needed(k, j)]
        v = [None, *(apply(f"fine.{j}", old[j - 1]) for j in pieces)]
        new = [None, v[1]]
        for j in pieces[1:]:
            jump = combine("+-", new[j - 1], old[j - 1])
            if j > k + 1:  # before that the state is exact
                leaves = [jump, new[j - 1]]
                leaves = [leaf if isinstance(leaf, tuple) else (leaf,) for leaf in leaves]
                size, scale = (sum(t.flatten(1).square().sum(1) for t in leaf) for leaf in leaves)
                terms.append((size / scale.detach()).mean())
            if correction == "residual":
                new.append(combine("++", v[j], apply(f"coarse.{j}", jump)))
            else:
                after, before = (apply(f"coarse.{j}", u[j - 1]) for u in (new, old))
                new.append(combine("++-", after, v[j], before))
        old = new
    output = apply("head", old[N]) if "head" in parts else old[N]
    return output.square().mean(), torch.stack(terms).mean()


@every_correction
@pytest.mark.parametrize("sweeps", [1, 2])
@pytest.mark.parametrize("family", ["dense", "skip"])
def test_the_gradient_is_that_of_the_equations(family: str, sweeps: int, correction: str) -> None:
    """Also of states of two tensors, and of normalisation by the batch."""
    here = case(family, correction=correction, iterations=sweeps)
    net, twin = here.compile(), here.compile()
    found, wanted = losses(net, here.x), by_hand(twin, here.x, sweeps, correction)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).abs().detach()) <= ROUNDING * float(b.detach())
    assert float(found[1].detach()) > 1e-3
    for weights in ((1.0, 0.1), (0.0, 1.0)):
        sums = [sum(w * a for w, a in zip(weights, pair, strict=True)) for pair in (found, wanted)]
        found, wanted = losses(net, here.x), by_hand(twin, here.x, sweeps, correction)
        assert_close(gradients(net, sums[0]), gradients(twin, sums[1]))


@every_correction
@pytest.mark.parametrize("dropout", ["", "module"])
def test_where_sweeps_are_decided_it_is_that_of_those_that_ran(
    correction: str, dropout: str
) -> None:
    static = case("skip", dropout=dropout, correction=correction, iterations=2)
    dialled = replace(static, method=replace(static.method, tolerance=math.inf))
    found = []
    for net in (static.compile(), dialled.compile()):
        with seeded(3):
            loss, penalty = losses(net, static.x)
        found.append(gradients(net, loss + penalty))
    assert_close(found[1], found[0])


@every_correction
def test_it_counts_the_jumps_of_all_stages(correction: str) -> None:
    """Also of those that the output does not depend on, as it is exact."""
    here = case("skip", correction=correction, tolerance=0.0)
    nets = [here.compile() for _ in range(2)]
    nets[0].rule = Until(2)
    (loss, penalty), by = losses(nets[0], here.x), by_hand(nets[1], here.x, 2, correction)
    assert nets[0].report.sweeps == 2
    assert_close(gradients(nets[0], loss + penalty), gradients(nets[1], sum(by)))
    nets[0].rule = Certified(Certificate(1, {1: 1.0}, 1e-9, "exact"))
    _, penalty = losses(nets[0], here.x)
    assert nets[0].report.sweeps == N
    _, wanted = by_hand(nets[1], here.x, N - 1, correction)  # the N-th leaves none
    assert_close(gradients(nets[0], penalty), gradients(nets[1], wanted))


class Until:
    """Two sweeps, whatever the jumps are."""

    def __init__(self, sweeps: int) -> None:
        self.sweeps = sweeps

    def is_enough(self, measures: object, output: object) -> bool:
        return max(m.sweep for m in measures) + 1 >= self.sweeps  # type: ignore[attr-defined]


def test_without_jumps_it_is_zero() -> None:
    """Guesses that are exact, and no sweeps at all."""
    exact = case(correction="difference", guess="coarse", coarse="fine")
    for here in (exact, replace(exact, method=Parareal(iterations=0))):
        output, penalty = losses(here.compile(), here.x)
        assert float(penalty.detach()) == 0
        gradients(here.compile(), output)


def test_only_in_the_block_does_the_graph_stay() -> None:
    here = case()
    net = here.compile()
    plain = net(here.x)
    with net.jumps() as jumps:
        with pytest.raises(MethodError, match="not called yet"):
            jumps.penalty()
        inside = net(here.x)
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        with torch.no_grad():
            net(here.x)
        assert not jumps.penalty().requires_grad
    assert torch.equal(plain, inside)
    net(here.x)
    assert not jumps.penalty().requires_grad  # it is that of the last call in the block
    assert all(not new.requires_grad for new, _ in net.runner.seen)
    assert all(torch.equal(twin(here.x), plain) for twin in copies)


def test_multigrid_has_none() -> None:
    here = Recipe("residual", 8)
    model = Case(here, 2, Parareal()).model()
    net = compiled(model, 2, MGRIT(coarsening=2), Case(here, 2, Parareal()).x)
    with pytest.raises(MethodError, match="MGRIT"), net.jumps():
        pass


def test_devices_do_what_one_does() -> None:
    here = case("skip", iterations=2)
    nets = [
        compiled(here.model(), N, here.method, here.x, **at)
        for at in ({}, {"devices": ["cpu"] * 3})
    ]
    found = [gradients(net, sum(losses(net, here.x))) for net in nets]
    assert_close(found[1], found[0])


@pytest.mark.parametrize("tolerance", [None, 0.0, 0.3])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_do_what_one_process_does(ranks: int, tolerance: float | None) -> None:
    """With one backward pass on each; where nothing depends on a state, no adjoint is awaited."""
    here = case("skip", iterations=1, tolerance=tolerance)
    alone = compiled(here.model(), N, here.method, here.x)
    loss, penalty = losses(alone, here.x)
    wanted = gradients(alone, loss + 0.5 * penalty.sqrt())
    group, found = LocalGroup(ranks, patience=30), {}
    models = [here.model() for _ in range(ranks)]

    def work(rank: int) -> None:
        net = compiled(models[rank], N, here.method, here.x, comm=group.member(rank))
        loss, penalty = losses(net, here.x)
        found[rank] = gradients(net, loss + 0.5 * penalty.sqrt()), penalty.detach()

    run(work, ranks)
    assert len(found) == ranks
    assert sum(len(grads) for grads, _ in found.values()) == len(wanted)
    for grads, total in found.values():
        assert_close(grads, wanted)
        assert float((total - penalty).abs().detach()) <= ROUNDING


def test_a_rank_outside_of_the_block_is_an_error() -> None:
    here, group, found = case(norm=""), LocalGroup(2, patience=30), {}
    models = [here.model() for _ in range(2)]

    def work(rank: int) -> None:
        net = compiled(models[rank], N, here.method, here.x, comm=group.member(rank))
        try:
            if rank:
                net(here.x)
            else:
                losses(net, here.x)
        except (ShapeError, PeerError) as error:
            found[rank] = str(error)

    run(work, 2)
    assert "rank 0" in found[0]
    assert "with its jumps" in found[0]
    assert len(found) == 2


def run(work: object, ranks: int) -> None:
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@every_correction
def test_fine_tuning_lowers_jumps_and_loss(correction: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(32, 3, dtype=torch.float64)
    y = (x.sum(1) > 0).long()
    ends = {}
    for weight in (0.0, 1.0):
        here = case("residual", norm="", correction=correction, guess="coarse")
        net = compiled(here.model(), N, here.method, x)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        rows = []
        for _ in range(30):
            optimizer.zero_grad()
            with net.jumps() as jumps:
                loss, penalty = functional.cross_entropy(net(x), y), jumps.penalty()
            (loss + weight * penalty).backward()
            optimizer.step()
            rows.append((float(loss.detach()), float(penalty.detach())))
        ends[weight] = rows
    first, last = ends[1.0][0], ends[1.0][-1]
    assert last[0] < 0.7 * first[0]
    assert last[1] < 0.5 * first[1]
    assert last[1] < 0.5 * ends[0.0][-1][1]
