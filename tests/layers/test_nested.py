"""Weights interpolated in depth, and nested iteration over depths."""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pararealize.errors import PararealizeError, RefinementError
from pararealize.layers import nested_iteration, refine
from pararealize.models import odenet, resnet


def net(depth: int) -> nn.Module:
    return odenet(depth, width=3, in_features=2, classes=4, horizon=2.0).double()


def states(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@given(st.integers(1, 9), st.integers(0, 11))
def test_every_block_takes_the_one_at_its_depth(coarse_depth: int, more: int) -> None:
    fine_depth = coarse_depth + more
    coarse, fine = net(coarse_depth), net(fine_depth)
    before = states(coarse)
    assert refine(coarse, fine) is fine
    assert same(states(coarse), before)
    for i in range(fine_depth):
        taken = coarse.steps[i * coarse_depth // fine_depth]  # type: ignore[index]
        assert same(states(fine.steps[i]), states(taken))  # type: ignore[index]
    for part in ("opening", "closing"):
        assert same(states(getattr(fine, part)), states(getattr(coarse, part)))


@given(st.integers(1, 5))
def test_depth_of_the_same_length_is_copied(depth: int) -> None:
    coarse, x = net(depth), torch.randn(4, 2).double()
    assert torch.equal(refine(coarse, net(depth))(x), coarse(x))


def test_the_refined_network_approaches_the_coarse_flow() -> None:
    """A step of dt and r steps of dt / r with its weights differ by O(dt²): halved with dt."""
    x = torch.randn(16, 2).double()
    coarse = net(4)
    flow = refine(coarse, net(4 * 256))(x)
    errors = [(refine(coarse, net(4 * r))(x) - flow).norm().item() for r in (1, 2, 4, 8)]
    for first, second in itertools.pairwise(errors):
        assert second / first == pytest.approx(0.5, abs=0.08)


def test_weights_are_copies() -> None:
    coarse = net(2)
    before = states(coarse)
    fine = refine(coarse, net(4))
    with torch.no_grad():
        for parameter in fine.parameters():
            parameter.add_(1)
    assert same(states(coarse), before)
    assert not {p.data_ptr() for p in coarse.parameters()} & {
        p.data_ptr() for p in fine.parameters()
    }


class Block(nn.Module):
    """A block with statistics, a step size of its own depth, and a list inside."""

    def __init__(self, depth: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.inner = nn.ModuleList(nn.Linear(2, 2) for _ in range(inner))
        self.register_buffer("dt", torch.tensor(1 / depth), persistent=False)
        self.scale = nn.Parameter(torch.randn(1))


def blocks(depth: int, inner: int = 1) -> nn.Sequential:
    return nn.Sequential(*(Block(depth, inner) for _ in range(depth)))


def test_statistics_go_along_and_step_sizes_stay() -> None:
    coarse, fine = blocks(2), blocks(4)
    coarse[1].norm.running_mean.fill_(7)  # type: ignore[union-attr, operator]
    coarse[1].norm.num_batches_tracked.fill_(3)  # type: ignore[union-attr, operator]
    refine(coarse, fine)
    assert [block.norm.running_mean[0].item() for block in fine] == [0, 0, 7, 7]  # type: ignore
    assert [block.norm.num_batches_tracked.item() for block in fine] == [0, 0, 3, 3]  # type: ignore
    assert [block.dt.item() for block in fine] == [0.25] * 4  # type: ignore


def test_lists_within_blocks_have_their_own_depth() -> None:
    coarse, fine = blocks(2, 2), blocks(3, 5)
    refine(coarse, fine)
    for i, j in ((i, j) for i in range(3) for j in range(5)):
        wanted = coarse[i * 2 // 3].inner[j * 2 // 5]  # type: ignore[index, union-attr]
        assert torch.equal(fine[i].inner[j].weight, wanted.weight)  # type: ignore


def test_a_block_that_is_there_several_times() -> None:
    shared = nn.Linear(2, 2)
    coarse, fine = nn.ModuleList([shared, shared]), nn.ModuleList(nn.Linear(2, 2) for _ in "1234")
    refine(coarse, fine)
    assert all(torch.equal(layer.weight, shared.weight) for layer in fine)  # type: ignore


def test_named_blocks_go_by_position() -> None:
    coarse = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 2)))
    fine = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    refine(coarse, fine)
    assert torch.equal(fine[1].weight, coarse.a.weight)
    assert torch.equal(fine[2].weight, coarse.b.weight)


def linear(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))


def named(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


@pytest.mark.parametrize(
    ("coarse", "fine", "text"),
    [
        (lambda: net(8), lambda: net(4), "steps has 4 blocks and can take .* 1 to 4, not of 8"),
        (nn.Sequential, lambda: linear(2, 2), "the fine network has 1 .*, not of 0"),
        (lambda: linear(2, 2), lambda: linear(3, 3), "0.weight .* shape .2, 2., .* has .3, 3."),
        (lambda: linear(2, 2), lambda: nn.Sequential(nn.Tanh()), "no place for 0.bias"),
        (lambda: nn.Sequential(nn.Tanh()), lambda: linear(2, 2), "nothing for 0.weight"),
        (lambda: named(a=nn.Tanh()), lambda: named(b=nn.Tanh()), "coarse network has a module a"),
        (lambda: named(a=nn.Tanh()), named, "only the coarse network has a module a"),
        (lambda: linear(2, 2, 3), lambda: linear(2, 2, 2, 3), "0 and 1 of the network differ"),
        (
            lambda: named(a=linear(2, 2, 2)),
            lambda: named(a=nn.Sequential(*linear(2, 2, 2), nn.Tanh())),
            "blocks 0 and 2 of a differ in bias",
        ),
        (lambda: resnet(11, width=4), lambda: resnet(29, width=4), "of layer1 differ in bn1"),
    ],
)
def test_what_differs_is_told_and_nothing_is_copied(
    coarse: Callable[[], nn.Module], fine: Callable[[], nn.Module], text: str
) -> None:
    first, second = coarse(), fine()
    before = states(first), states(second)
    with pytest.raises(RefinementError, match=text) as caught:
        refine(first, second)
    assert isinstance(caught.value, PararealizeError)
    assert same(states(first), before[0])
    assert same(states(second), before[1])


def test_depths_are_made_and_trained_in_order() -> None:
    log: list[tuple[str, int]] = []

    def factory(depth: int) -> nn.Module:
        log.append(("made", depth))
        return net(depth)

    found = nested_iteration(factory, [2, 3, 7], lambda n: log.append(("trained", len(n.steps))))  # type: ignore
    assert log == [(verb, depth) for depth in (2, 3, 7) for verb in ("made", "trained")]
    assert len(found.steps) == 7  # type: ignore[arg-type]


def test_every_level_starts_where_the_last_one_ended() -> None:
    snapshots: list[nn.Module] = []
    starts: list[nn.Module] = []

    def train(model: nn.Module) -> None:
        starts.append(copy.deepcopy(model))
        rate = 0.1 * (1 + len(starts))
        optimizer = (torch.optim.SGD, torch.optim.Adam)[len(starts) % 2](model.parameters(), rate)
        torch.autograd.backward(model(torch.randn(5, 2).double()).square().mean())
        optimizer.step()
        snapshots.append(copy.deepcopy(model))

    found = nested_iteration(net, [2, 4, 8], train)
    for level, depth in ((1, 4), (2, 8)):
        wanted = refine(snapshots[level - 1], net(depth))
        assert same(states(starts[level]), states(wanted))
    assert same(states(found), states(snapshots[-1]))
    assert not same(states(found), states(starts[-1]))


@pytest.mark.parametrize("depths", [[], [4, 4], [8, 4]])
def test_depths_increase(depths: list[int]) -> None:
    with pytest.raises(RefinementError, match="depths increase"):
        nested_iteration(net, depths, lambda _: None)
