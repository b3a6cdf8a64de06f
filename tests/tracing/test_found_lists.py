"""Where a network's forward cannot be traced, its lists of blocks are found by one call."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from untraceable import (
    WIDTH,
    Biased,
    Branches,
    Coins,
    Normed,
    Pair,
    Plain,
    Remembering,
    Repeated,
    Scaled,
    Staged,
)

from pararealize import Parareal, load, pararealize
from pararealize.errors import StaleError, TraceError
from pararealize.tracing.found_lists import find_lists

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
NETWORKS: list[tuple[type[nn.Module], str]] = [
    (Plain, "blocks"),
    (Pair, "encoder, decoder"),
    (Repeated, "blocks"),
    (Scaled, "blocks"),
    (Biased, "blocks"),
    (Normed, "blocks"),
    (Coins, "blocks"),
    (Remembering, "blocks"),
    (Staged, "stages.0.blocks, stages.1.blocks"),
]


def inputs(kind: type[nn.Module], batch: int = 2, length: int = 8) -> tuple[Tensor, ...]:
    count = 2 if kind is Pair else 1
    return tuple(torch.randn(batch, length - 2 * i, WIDTH).double() for i in range(count))


def outcome(net: nn.Module, given: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Outputs, gradients, and the buffers afterwards."""
    torch.manual_seed(5)
    leaves = [leaf for leaf in tree_leaves(net(*given)) if isinstance(leaf, Tensor)]
    net.zero_grad()
    torch.stack([leaf.square().sum() for leaf in leaves if leaf.requires_grad]).sum().backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return leaves, grads, dict(net.named_buffers())


def assert_same(net: nn.Module, model: nn.Module, given: tuple[Tensor, ...]) -> None:
    for training in (True, False):
        found = outcome(copy.deepcopy(net).train(training), given)
        wanted = outcome(copy.deepcopy(model).train(training), given)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-11)  # few hundred sums
        for name, grad in wanted[1].items():
            torch.testing.assert_close(found[1][name], grad, rtol=1e-8, atol=1e-10)
        for name, buffer in wanted[2].items():
            torch.testing.assert_close(found[2][name], buffer, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("kind", "lists"), NETWORKS)
def test_lists_are_found_and_the_network_is_exact(kind: type[nn.Module], lists: str) -> None:
    torch.manual_seed(0)
    model, given = kind().double(), inputs(kind)
    net = pararealize(model, 3, method=EXACT, example_inputs=given)
    assert net.plan.tracing.blocks == lists
    assert not net.plan.tracing.unverified
    assert_same(net, model, given)
    assert_same(net, model, inputs(kind, batch=3, length=12))
    assert type(net(*given)) is type(model(*given))
    text = " ".join(net.explain().split())
    assert f"between the blocks of {lists}, which were found rather than asked for" in text
    assert "cannot be traced" in text


@pytest.mark.parametrize("kind", [Pair, Biased, Staged])
def test_fresh_coarse_networks_and_guesses_of_any_size(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, given = kind().double(), inputs(kind)
    net = pararealize(model, 3, method=Parareal(iterations=3), example_inputs=given)
    assert_same(net, model, given)  # as many sweeps as subnetworks
    assert_same(net, model, inputs(kind, batch=1, length=16))


def test_named_lists_are_asked_for_and_loading_keeps_what_was_found(tmp_path: Any) -> None:
    model, given = Pair().double(), inputs(Pair)
    asked = pararealize(model, 3, method=EXACT, example_inputs=given, blocks="encoder, decoder")
    assert "as asked for" in asked.explain()
    found = pararealize(model, 3, method=EXACT, example_inputs=given)
    assert asked.plan.cuts == found.plan.cuts
    found.save(tmp_path / "net")
    again = load(tmp_path / "net", Pair().double())
    assert again.plan.tracing == found.plan.tracing
    assert torch.equal(again.eval()(*given)[0], found.eval()(*given)[0])


def test_blocks_that_are_left_out_at_random_are_refused_with_a_line_to_write() -> None:
    with pytest.raises(TraceError, match=r"leaves some out at random.*forward of its own"):
        pararealize(Coins(0.3).double(), 3, method=EXACT, example_inputs=inputs(Coins))
    net = pararealize(Coins().double(), 3, method=EXACT, example_inputs=inputs(Coins))
    net.get_submodule("blocks.1").share = 1.0  # set later
    with pytest.raises(StaleError, match=r"it called blocks\.1 when it was compiled"):
        net.train()(*inputs(Coins))


def test_what_is_no_chain_is_refused_as_before() -> None:
    model, given = Branches().double(), inputs(Branches)
    assert find_lists(model, {"x": given[0]}) == ()
    with pytest.raises(TraceError, match="Branches cannot be traced"):
        pararealize(model, 2, example_inputs=given)
    with pytest.raises(TraceError, match=r"by which its lists of blocks are found"):
        pararealize(Pair(), 2)


def test_nothing_of_the_network_or_the_caller_moves() -> None:
    model, given = Scaled().double(), inputs(Scaled)
    before, numbers, random = copy.deepcopy(model), given[0].clone(), torch.get_rng_state()
    heard = []
    model.blocks[0].register_forward_hook(lambda *_: heard.append(1))
    pararealize(model, 2, method=EXACT, example_inputs=given)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(numbers, given[0])
    assert not heard
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
