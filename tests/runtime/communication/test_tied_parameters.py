"""Tied parameters: every rank has the sum of all gradients, in the order of the ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from local_ranks import all_of
from local_transport import LocalTransport
from pararealize import Parareal, pararealize
from pararealize.runtime.communication.tied_parameters import Tie, Ties


class Holder(nn.Module):
    """What a rank holds: the tied parameter, and one of its own."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.tied = nn.Parameter(torch.full((2,), value, dtype=torch.float64))
        self.own = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def tags(tie: int) -> int:
    return 100 + tie


def backward(ties: Ties, holder: Holder, gradient: float | None) -> None:
    """A step in which the loss has this gradient; ``None`` where the parameter is not used."""
    ties.watch()
    loss = holder.own.sum()
    if gradient is not None:
        loss = loss + (gradient * holder.tied).sum()
    loss.backward()
    ties.sum(tags)


def steps(
    rows: Sequence[Sequence[float | None]],
    prepare: Callable[[Holder, int], None] = lambda _holder, _step: None,
    ranks: tuple[int, ...] | None = None,
) -> list[Holder]:
    """What all ranks hold after steps with a row of gradients each, by rank."""

    def work(transport: LocalTransport) -> Holder:
        holder = Holder()
        own = [Tie("tied", ranks or tuple(range(transport.size)))]
        ties = Ties(own if transport.rank in own[0].ranks else [], holder, transport)
        for number, row in enumerate(rows):
            prepare(holder, number)
            backward(ties, holder, row[transport.rank])
        return holder

    return all_of(len(rows[0]), work)


def gradients(holders: Sequence[Holder]) -> list[Any]:
    return [None if h.tied.grad is None else h.tied.grad[0].item() for h in holders]


def test_every_rank_has_the_sum() -> None:
    found = steps([[1, 2, 4]])
    assert gradients(found) == [7, 7, 7]
    assert all(h.own.grad.tolist() == [1, 1] for h in found)


@pytest.mark.parametrize("row", [(1e16, 1, -1e16), (1, 1e16, -1e16), (1e16, -1e16, 1)])
def test_it_is_added_in_the_order_of_the_ranks(row: tuple[float, float, float]) -> None:
    """In float64 1e16 + 1 is 1e16: it depends on the order what is left of the 1."""
    assert gradients(steps([row])) == [(row[0] + row[1]) + row[2]] * 3


def test_steps_accumulate_until_gradients_are_cleared() -> None:
    assert gradients(steps([[1, 2], [10, 20]])) == [33, 33]

    def clear(holder: Holder, step: int) -> None:
        if step == 2:
            holder.zero_grad(set_to_none=False)

    assert gradients(steps([[1, 2], [10, 20], [100, 200]], clear)) == [300, 300]


def test_a_rank_that_does_not_use_it_adds_nothing() -> None:
    assert gradients(steps([[1, None, 4], [None, None, 8]])) == [13, 13, 13]


def test_other_ranks_have_no_part_in_a_tie() -> None:
    """They do not wait for anybody either."""
    assert gradients(steps([[1, 2, 4]], ranks=(0, 2))) == [5, 2, 5]


def test_what_is_frozen_has_no_gradient_and_may_learn_later() -> None:
    def freeze(holder: Holder, step: int) -> None:
        holder.tied.requires_grad_(step > 0)

    assert gradients(steps([[None, None]], freeze)) == [None, None]
    assert gradients(steps([[None, None], [1, 2]], freeze)) == [3, 3]


def test_what_learnt_may_be_frozen() -> None:
    def freeze(holder: Holder, step: int) -> None:
        holder.tied.requires_grad_(step != 1)

    assert gradients(steps([[1, 2], [None, None]], freeze)) == [3, 3]
    assert gradients(steps([[1, 2], [None, None], [10, 20]], freeze)) == [33, 33]


def test_a_parameter_that_takes_its_place_is_watched_once() -> None:
    """As ``module.to`` and ``load_state_dict(assign=True)`` make them."""

    def renew(holder: Holder, step: int) -> None:
        if step == 1:
            holder.tied = nn.Parameter(holder.tied.detach().clone())

    assert gradients(steps([[1, 2], [10, 20], [100, 200]], renew)) == [330, 330]


def test_several_ties_are_summed_each() -> None:
    def work(transport: LocalTransport) -> Any:
        holder, pair = Holder(), (0, 1)
        ties = Ties([Tie("tied", pair), Tie("own", pair)], holder, transport)
        ties.watch()
        rank = transport.rank
        ((1 + rank) * holder.tied + 10 * (1 + rank) * holder.own).sum().backward()
        ties.sum(tags)
        return holder.tied.grad.tolist(), holder.own.grad.tolist()

    assert all_of(2, work) == [([3, 3], [30, 30])] * 2


# as a network has them


class Tied(nn.Module):
    """Layers the first and last of which are one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(5))
        self.layers.append(self.layers[0])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def batch() -> Tensor:
    return torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


def trained(model: nn.Module, *, frozen: bool, **options: Any) -> dict[str, Tensor | None]:
    """Gradients after two backward passes; exact sweeps, so that all adjoints count."""
    method = Parareal(coarse="fine", correction="difference")
    net = pararealize(model, 3, method=method, example_inputs=(batch(),), **options)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not (frozen and name == "layers.0.weight"))
    for scale in (1, 2):
        net(scale * batch()).square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if name.startswith("layers")}


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_networks_on_ranks_train_as_in_one_process(ranks: int, frozen: bool) -> None:
    """1e-14: sums of a few terms of the order of one, in another order."""
    models = [Tied().double()]
    models += [copy.deepcopy(models[0]) for _ in range(ranks)]
    wanted = trained(models.pop(), frozen=frozen)
    found = all_of(ranks, lambda t: trained(models[t.rank], frozen=frozen, comm=t))
    held = [rank for rank, each in enumerate(found) if "layers.0.weight" in each]
    assert held == [0, ranks - 1]
    for each in found:
        for name, gradient in each.items():
            if frozen and name == "layers.0.weight":
                assert gradient is None
            else:
                torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-14)
    biases = [found[rank]["layers.0.bias"] for rank in held]
    assert torch.equal(*biases)
