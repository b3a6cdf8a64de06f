"""MG/OPT: corrected gradients on shallow networks, and what comes back from them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from pararealize import MGRIT, pararealize
from pararealize.errors import MethodError, NonFiniteError, PararealizeError, RefinementError
from pararealize.layers import mgopt
from pararealize.models import odenet

Batch = tuple[Tensor, Tensor]


def net(depth: int) -> nn.Module:
    torch.manual_seed(depth)
    return odenet(depth, width=3, in_features=2, classes=4, horizon=2.0).double()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def batches(count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(12, 2, generator=generator).double(),
            torch.randint(4, (12,), generator=generator),
        )
        for _ in range(count)
    ]


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss(model, batch), values), strict=True))


def mean(values: dict[str, Tensor], name: str, fine: int, coarse: int) -> Tensor:
    """The mean over the fine blocks of what one coarse block, or another module, stands for."""
    steps, _, rest = name.partition(".")
    if steps != "steps":
        return values[name]
    block, _, leaf = rest.partition(".")
    group = [i for i in range(fine) if i * coarse // fine == int(block)]
    return torch.stack([values[f"steps.{i}.{leaf}"] for i in group]).mean(0)


class Log:
    """Optimizers that write down weights and gradients before every step, by depth."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.seen: dict[int, list[tuple[dict[str, Tensor], dict[str, Tensor]]]] = {}

    def __call__(self, model: nn.Module) -> Optimizer:
        depth = len(model.steps)  # type: ignore[arg-type]
        seen, named = self.seen.setdefault(depth, []), list(model.named_parameters())

        def note(*_args: Any) -> None:
            slopes = {name: p.grad.clone() for name, p in named if p.grad is not None}
            seen.append((parameters(model), slopes))

        optimizer = SGD(model.parameters(), lr=self.rate)
        optimizer.register_step_pre_hook(note)
        return optimizer


# float64, sums of a few dozen terms of size one
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize(("coarse", "fine"), [(2, 4), (1, 5), (3, 7)])
def test_corrected_gradients_begin_as_those_of_the_deep_network(coarse: int, fine: int) -> None:
    given, log, deep = batches(3), Log(), net(fine)
    start = copy.deepcopy(deep)
    mgopt(lambda d: deep if d == fine else net(d), [coarse, fine], loss, given, log, coarse_steps=2)
    (first, second), slopes = log.seen[coarse], gradients(start, given[0])
    shallow = net(coarse)
    shallow.load_state_dict(first[0])
    found = gradients(shallow, given[0])
    counts = dict.fromkeys(found, 1.0) | {
        f"steps.{j}.linear.{leaf}": float(sum(i * coarse // fine == j for i in range(fine)))
        for j in range(coarse)
        for leaf in ("weight", "bias")
    }
    shallow.load_state_dict(second[0])
    later = gradients(shallow, given[1])
    for name in found:
        wanted = mean(slopes, name, fine, coarse)
        torch.testing.assert_close(first[0][name], mean(parameters(start), name, fine, coarse))
        torch.testing.assert_close(first[1][name], wanted, **CLOSE)
        term = found[name] / counts[name] - wanted
        torch.testing.assert_close(second[1][name], later[name] / counts[name] - term, **CLOSE)


@pytest.mark.parametrize("depths", [[2, 4], [1, 2, 8], [2, 3, 7]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_shallow_steps_change_is_downhill_for_the_deep_network(
    depths: list[int], seed: int
) -> None:
    (batch,), deep = batches(1, seed), net(depths[-1])
    before = loss(deep, batch).item()
    slopes, start = gradients(deep, batch), parameters(deep)
    mgopt(
        lambda d: deep if d == depths[-1] else net(d),
        depths,
        loss,
        [batch] * 2,
        lambda model: SGD(model.parameters(), lr=1e-3),
        coarse_steps=2,
        after=0,
    )
    moved = {name: value - start[name] for name, value in parameters(deep).items()}
    assert sum((slopes[name] * value).sum() for name, value in moved.items()) < 0
    assert loss(deep, batch).item() < before


@pytest.mark.parametrize("depths", [[1, 4], [2, 3, 7]])
def test_where_the_deep_network_is_stationary_nothing_moves(depths: list[int]) -> None:
    def flat(model: nn.Module, batch: Batch) -> Tensor:
        """Shallow networks alone have something to learn."""
        return loss(model, batch) * float(len(model.steps) < depths[-1])  # type: ignore[arg-type]

    deep = net(depths[-1])
    start, (batch,) = parameters(deep), batches(1)
    mgopt(lambda d: deep if d == depths[-1] else net(d), depths, flat, [batch] * 20, sgd)
    for name, value in parameters(deep).items():
        torch.testing.assert_close(value, start[name], **CLOSE)


class Halves(nn.Module):
    """Blocks whose loss depends on the mean weights of either half: equal for every depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 3, dtype=torch.float64) for _ in range(depth))
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        half = len(self.blocks) // 2
        for part in (self.blocks[:half], self.blocks[half:]):
            weight = torch.stack([block.weight for block in part]).mean(0)  # type: ignore
            bias = torch.stack([block.bias for block in part]).mean(0)  # type: ignore
            x = torch.sin(x @ weight.T + bias) @ weight
        return torch.cat([x, x[:, :1]], 1) * self.scale


def square(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1][:, None]).square().mean()


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, lr=0.01),
    "AdamW, amsgrad": lambda p: AdamW(p, lr=0.01, amsgrad=True, weight_decay=0.0),
    "NAdam": lambda p: NAdam(p, lr=0.01),
    "RAdam": lambda p: RAdam(p, lr=0.01),
    "Adagrad": lambda p: Adagrad(p, lr=0.05),
}


@pytest.mark.whole
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("depths", [[2, 6], [2, 4, 8]])
def test_state_is_carried_so_that_a_loss_of_means_is_trained_as_without_levels(
    name: str, depths: list[int]
) -> None:
    """Every depth has one loss here, so that MG/OPT is the optimizer itself, momenta and all."""
    torch.manual_seed(0)
    deep = Halves(depths[-1])
    plain = copy.deepcopy(deep)
    (batch,) = batches(1)
    done = mgopt(
        lambda d: deep if d == depths[-1] else Halves(d),
        depths,
        square,
        [batch] * 20,
        lambda model: OPTIMIZERS[name](model.parameters()),
        coarse_steps=3,
    )
    optimizer = OPTIMIZERS[name](plain.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        square(plain, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(done.gradients) == len(depths)
    for key, value in parameters(plain).items():
        torch.testing.assert_close(parameters(deep)[key], value, rtol=1e-9, atol=1e-11)


def test_one_depth_is_the_optimizer_alone() -> None:
    deep, given = net(4), batches(7)
    plain = copy.deepcopy(deep)
    done = mgopt(lambda _: deep, [4], loss, given, sgd)
    optimizer = sgd(plain)
    for batch in given:
        optimizer.zero_grad()
        loss(plain, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert done.net is deep
    assert (done.gradients, done.work, len(done.losses)) == ((7,), 7.0, 7)
    for key, value in parameters(plain).items():
        assert torch.equal(parameters(deep)[key], value)


@pytest.mark.parametrize(
    ("depths", "options", "count", "wanted"),
    [
        # A cycle: v on both levels, one step after, and all coarse steps but the first.
        ([2, 8], {"coarse_steps": 4}, 5, (4, 2)),
        ([2, 8], {"coarse_steps": 4, "before": 2, "after": 0}, 6, (4, 3)),
        ([2, 4, 8], {"coarse_steps": 3}, 5, (3, 2, 2)),
        ([2, 4, 8], {"coarse_steps": 3, "before": 1}, 7, (3, 3, 3)),
        # Two batches that make no cycle are steps of the deep network.
        ([2, 8], {"coarse_steps": 4}, 7, (4, 4)),
    ],
)
def test_gradients_are_counted(
    depths: list[int], options: dict[str, int], count: int, wanted: tuple[int, ...]
) -> None:
    calls: dict[int, int] = {}

    def counted(model: nn.Module, batch: Batch) -> Tensor:
        depth = len(model.steps)  # type: ignore[arg-type]
        calls[depth] = calls.get(depth, 0) + 1
        return loss(model, batch)

    done = mgopt(net, depths, counted, iter(batches(count)), sgd, **options)  # type: ignore
    assert done.gradients == wanted == tuple(calls[depth] for depth in depths)
    assert done.work == pytest.approx(
        sum(n * d for n, d in zip(wanted, depths, strict=True)) / depths[-1]
    )
    assert len(done.losses) == wanted[-1]


def test_every_batch_serves_one_step_and_training_ends_when_told() -> None:
    taken: list[int] = []
    works: list[float] = []

    def drawn() -> Iterator[Batch]:
        for i, batch in enumerate(batches(100)):
            taken.append(i)
            yield batch

    done = mgopt(
        net,
        [2, 4],
        loss,
        drawn(),
        sgd,
        coarse_steps=3,
        on_cycle=lambda so_far: works.append(so_far.work) or len(works) == 3,  # type: ignore
    )
    assert taken == list(range(12))
    assert works == [3.5, 7.0, 10.5]
    assert done.work == 10.5


def test_schedulers_go_once_a_cycle_on_every_depth() -> None:
    made: list[Optimizer] = []

    def scheduler(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        made.append(optimizer)
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    given = batches(8)
    mgopt(net, [2, 4], loss, given, sgd, coarse_steps=3, scheduler=scheduler)
    assert [o.param_groups[0]["lr"] for o in made] == [0.1 * 0.25] * 2


def climbing(coarse_steps: int, *, line_search: bool) -> tuple[float, float, float]:
    """The loss before and after corrections at a rate that is too large, and the work."""
    deep, (batch,) = net(6), batches(1)
    before = loss(deep, batch).item()
    done = mgopt(
        lambda d: deep if d == 6 else net(d),
        [2, 6],
        loss,
        [batch] * 8,
        lambda model: SGD(model.parameters(), lr=40.0),
        after=0,
        coarse_steps=coarse_steps,
        line_search=line_search,
    )
    return before, loss(deep, batch).item(), done.work


def test_a_line_search_shortens_what_would_climb() -> None:
    before, climbed, work = climbing(1, line_search=False)
    assert climbed > before
    _, found, more = climbing(1, line_search=True)
    assert found < before
    trials = 3 * (more - work)
    assert trials == pytest.approx(round(trials))
    assert trials > 8  # one for every correction, and more where it is halved


def test_a_line_search_does_not_follow_what_is_not_downhill() -> None:
    before, climbed, _ = climbing(8, line_search=False)
    assert climbed > before
    assert climbing(8, line_search=True)[1] == before


class Block(nn.Module):
    """A residual block with statistics and a list inside."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.inner = nn.Sequential(*(nn.Linear(3, 3) for _ in range(inner)))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(self.norm(x)))


class Normed(nn.Module):
    """Blocks between a stem and a head; depths differ in the blocks and inside them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 3)
        self.steps = nn.Sequential(*(Block(depth) for _ in range(depth)))
        self.head = nn.Linear(3, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.steps(self.stem(x)))  # type: ignore[no-any-return]


def test_statistics_move_with_gradients_of_the_deep_network_alone() -> None:
    deep = Normed(4)
    done = mgopt(
        lambda d: deep if d == 4 else Normed(d),
        [1, 2, 4],
        loss,
        batches(20),
        sgd,
        line_search=True,
    )
    for block in deep.steps:
        assert block.norm.num_batches_tracked.item() == done.gradients[-1]  # type: ignore
    assert all(value.isfinite().all() for value in deep.state_dict().values())
    # What no loss depends on has no gradient on any depth, and stays.
    assert all(torch.equal(block.unused, torch.ones_like(block.unused)) for block in deep.steps)  # type: ignore


def test_frozen_parameters_stay_and_the_others_learn() -> None:
    def frozen(depth: int) -> nn.Module:
        made = net(depth)
        made.opening.requires_grad_(False)  # type: ignore[operator]
        return made

    deep = frozen(4)
    start = parameters(deep)
    mgopt(lambda d: deep if d == 4 else frozen(d), [2, 4], loss, batches(18), sgd)
    moved = {name: not torch.equal(v, start[name]) for name, v in parameters(deep).items()}
    assert all(moved[name] != name.startswith("opening") for name in moved)


def tied(depth: int) -> nn.Module:
    """All steps share one layer, whatever the depth."""
    made = net(depth)
    for step in made.steps:  # type: ignore[union-attr]
        step.linear = made.steps[0].linear  # type: ignore
    return made


def test_layers_that_are_shared_on_every_depth_move_together() -> None:
    deep = tied(4)
    before = loss(deep, batches(1)[0]).item()
    mgopt(lambda d: deep if d == 4 else tied(d), [2, 4], loss, batches(45), sgd)
    assert loss(deep, batches(1)[0]).item() < before
    assert len({id(step.linear.weight) for step in deep.steps}) == 1  # type: ignore


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_networks_of_a_depth_may_be_compiled() -> None:
    """Two cycles over two slices are the serial network, gradients included."""

    def compiled(depth: int) -> nn.Module:
        cycles = {"forward_cycles": 2, "backward_cycles": 2}
        method = MGRIT(coarsening=2, coarse="rediscretized", **cycles)  # type: ignore[arg-type]
        example = torch.zeros(12, 2).double()
        return pararealize(net(depth), 2, method=method, example_inputs=(example,))

    plain = mgopt(net, [4, 8], loss, batches(18), sgd)
    mixed = mgopt(lambda d: compiled(d) if d == 8 else net(d), [4, 8], loss, batches(18), sgd)
    both = mgopt(compiled, [4, 8], loss, batches(18), sgd)
    wanted = parameters(plain.net)
    for found in (mixed, both):
        assert found.losses == pytest.approx(plain.losses, rel=1e-10)
        for name, value in parameters(found.net).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-11)


def test_deep_networks_learn() -> None:
    def taught(count: int) -> Iterator[Batch]:
        for x, _ in batches(count):
            yield x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()

    done = mgopt(net, [2, 8], loss, taught(200), sgd)
    assert done.losses[0] > 1.2
    assert done.losses[-1] < 0.4


def partly_frozen(depth: int) -> nn.Module:
    made = net(depth)
    made.steps[0].requires_grad_(False)  # type: ignore[index, union-attr]
    return made


def shared_in_the_deep_one(depth: int) -> nn.Module:
    return tied(depth) if depth == 4 else net(depth)


def buffer_in_the_deep_one(depth: int) -> nn.Module:
    made = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))
    if depth == 4:
        for layer in made:
            bias = layer.bias.detach()  # type: ignore[union-attr, operator]
            del layer.bias
            layer.register_buffer("bias", bias)
    return made


def only_frozen(depth: int) -> nn.Module:
    return net(depth).requires_grad_(False)


def elsewhere(_model: nn.Module) -> Optimizer:
    return sgd(net(4))


@pytest.mark.whole
@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"depths": []}, RefinementError, "depths increase"),
        ({"depths": [4, 4]}, RefinementError, "depths increase"),
        ({"depths": [4, 2]}, RefinementError, "depths increase"),
        ({"factory": partly_frozen}, RefinementError, "steps.0.linear.*frozen and steps.1.linear"),
        ({"factory": shared_in_the_deep_one}, RefinementError, "are one parameter, but"),
        ({"factory": buffer_in_the_deep_one}, RefinementError, "parameter of one depth and a buf"),
        ({"factory": lambda d: nn.Linear(2, d)}, RefinementError, "only depths may differ"),
        ({"factory": only_frozen}, MethodError, "has nothing to train"),
        ({"optimizer": elsewhere}, MethodError, "has parameters of another network"),
        ({"optimizer": lambda m: LBFGS(m.parameters())}, MethodError, "state of LBFGS"),
        ({"optimizer": lambda m: RMSprop(m.parameters())}, MethodError, "state of RMSprop"),
        ({"coarse_steps": 0}, MethodError, "coarse_steps=0: expected a number of steps, 1"),
        ({"before": -1}, MethodError, "before=-1: expected"),
        ({"after": 1.5}, MethodError, "after=1.5: expected"),
        ({"coarse_steps": True}, MethodError, "coarse_steps=True"),
        ({"loss": lambda m, b: loss(m, b) * float("nan")}, NonFiniteError, "training diverged"),
        ({"loss": lambda m, b: loss(m, b) * float("inf")}, NonFiniteError, "smaller learning rat"),
    ],
)
def test_what_cannot_be_is_told_before_a_step(
    change: dict[str, Any], kind: type[PararealizeError], text: str
) -> None:
    deep = change.get("factory", net)(4)
    start = parameters(deep)
    factory = change.get("factory", net)
    options = {"depths": [2, 4], "loss": loss, "batches": batches(9), "optimizer": sgd, **change}
    with pytest.raises(kind, match=text):
        mgopt(**{**options, "factory": lambda d: deep if d == 4 else factory(d)})
    assert all(torch.equal(value, start[name]) for name, value in parameters(deep).items())
