"""Where a network's forward cannot be traced, its lists of blocks are found by one call."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize import Parareal, load, pararealize
from pararealize.errors import StaleError, TraceError
from pararealize.tracing.found_lists import find_lists

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
WIDTH = 6


def looks(x: Tensor) -> Tensor:
    """Branch on numbers, which no trace takes."""
    if float(x.abs().max()) > 1e6:
        raise ValueError("too large")
    return x


class Residual(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.drop, self.scale = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), scale

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        y = x if memory is None else x + memory.mean(1, keepdim=True)
        return x + self.drop(torch.tanh(self.linear(looks(y))))


def residuals(count: int) -> nn.ModuleList:
    return nn.ModuleList(Residual() for _ in range(count))


class Plain(nn.Module):
    """Reads its blocks' attributes, and gives a dictionary of a kind of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(4)

    def forward(self, x: Tensor) -> Any:
        x = looks(x)
        for block in self.blocks:
            x = block(x) if block.scale > 0 else x
        return OrderedDict(state=x)


class Pair(nn.Module):
    """Encoder and decoder; what is dropped behind the encoder is read by the decoder and given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.drop = residuals(3), residuals(3), nn.Dropout(0.3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = looks(x)
        for block in self.encoder:
            x = block(x)
        memory = self.drop(torch.tanh(x))
        y = self.drop(y)
        for block in self.decoder:
            y = block(y, memory=memory)
        return y, memory


class Repeated(nn.Module):
    """One block of a list of one, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = self.blocks[0](looks(x))
        return x


class Scaled(nn.Module):
    """Something is computed between two blocks, on what the first of them gave in place as well."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.drop = residuals(4), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(looks(x))
            x = self.drop(x) * 0.5 if i % 2 else x.add_(1.0)
        return x


class Biased(nn.Module):
    """The first block computes what the others are given besides the state."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, None]:
            if bias is None:
                bias = x.sin()[..., None] * x[..., None, :].cos()
            return x + torch.tanh(self.linear((bias @ x[..., None])[..., 0])), bias, None

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Biased.Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        bias = None
        for block in self.blocks:
            x, bias, _ = block(x, bias)
        return x


class Coins(nn.Module):
    """Draws a number before every block, and leaves the block out where it is small."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.blocks = residuals(4)
        for block in self.blocks:
            block.share = share

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        for block in self.blocks:
            if self.training and torch.rand([]) < block.share:
                continue
            x = block(x)
        return x


class Remembering(nn.Module):
    """Gives what has no graph: the largest number's place, and detached states."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = []
        for block in self.blocks:
            x = block(looks(x))
            states.append(x.detach()[:, :1])
        return x, torch.cat(states, 1), x.argmax(-1)


class Stage(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks, self.last = residuals(count), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x[:, ::2])


class Staged(nn.Module):
    """Lists in the items of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage(2), Stage(3)])

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean(1)


class Branches(nn.Module):
    """Like modules side by side are no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(3)

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        return torch.stack([block(x) for block in self.blocks]).sum(0)


NETWORKS: list[tuple[type[nn.Module], str]] = [
    (Plain, "blocks"),
    (Pair, "encoder, decoder"),
    (Repeated, "blocks"),
    (Scaled, "blocks"),
    (Biased, "blocks"),
    (Coins, "blocks"),
    (Remembering, "blocks"),
    (Staged, "stages.0.blocks, stages.1.blocks"),
]


def inputs(kind: type[nn.Module], batch: int = 2, length: int = 8) -> tuple[Tensor, ...]:
    count = 2 if kind is Pair else 1
    return tuple(torch.randn(batch, length - 2 * i, WIDTH).double() for i in range(count))


def outcome(net: nn.Module, given: tuple[Tensor, ...]) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(5)
    leaves = [leaf for leaf in tree_leaves(net(*given)) if isinstance(leaf, Tensor)]
    net.zero_grad()
    torch.stack([leaf.square().sum() for leaf in leaves if leaf.requires_grad]).sum().backward()
    return leaves, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def assert_same(net: nn.Module, model: nn.Module, given: tuple[Tensor, ...]) -> None:
    for training in (True, False):
        found = outcome(copy.deepcopy(net).train(training), given)
        wanted = outcome(copy.deepcopy(model).train(training), given)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-11)  # few hundred sums
        for name, grad in wanted[1].items():
            torch.testing.assert_close(found[1][name], grad, rtol=1e-8, atol=1e-10)


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
    with pytest.raises(TraceError, match=r"leaves some out at random.*layerdrop = 0"):
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
        pararealize(Plain(), 2)


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
