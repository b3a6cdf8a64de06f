"""Layers: their parameters, kinds, and which are residual."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize.chain.interfaces import build_chain
from pararealize.cost.profile import profile
from pararealize.ir.chain import Chain, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet
from pararealize.tracing.trace import trace


def chain_of(model: nn.Module, *shape: int, width: int = 1) -> Chain:
    traced = trace(model)
    inputs = {traced.train.inputs[0].target: TensorSpec(shape)}
    return build_chain(model, traced, profile(traced.train, model, inputs, Machine()), width)


class Step(nn.Module):
    """A linear layer, then a step that joins its state with another value."""

    def __init__(self, join: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(4))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self.first(x), self))


JOINS: dict[str, tuple[Callable[[Tensor, nn.Module], Tensor], str | None]] = {
    "right": (lambda x, m: x + m.inner(x), "inner"),
    "left": (lambda x, m: m.inner(x) + x, "inner"),
    "function": (lambda x, m: torch.add(x, torch.tanh(m.inner(x))), "tanh"),
    "method": (lambda x, m: x.add(m.inner(x)), "inner"),
    "scaled": (lambda x, m: torch.add(x, m.inner(x), alpha=0.5), None),
    "doubled": (lambda x, m: x + x, None),
    "difference": (lambda x, m: x - m.inner(x), None),
    "number": (lambda x, m: x + 1.0, None),
    "two branches": (lambda x, m: m.inner(x) + torch.tanh(m.inner(x)), None),
    "twice": (lambda x, m: x + (x + m.inner(x)), "add"),
}


@pytest.mark.parametrize("name", JOINS)
def test_residual_layers_add_a_branch_to_their_state(name: str) -> None:
    join, branch = JOINS[name]
    chain = chain_of(Step(join), 2, 4)
    ends = [i.name for i in chain.interfaces]
    layers = chain.layers[ends.index("first") + 1 : -1]
    assert [layer.branch for layer in layers] == [branch, *[None] * (len(layers) - 1)]


def test_parameters_without_a_layer_are_counted() -> None:
    chain = chain_of(Step(lambda x, m: x * m.scale), 2, 4)
    assert [layer.parameters for layer in chain.layers] == [
        ("first.weight", "first.bias"),
        ("scale",),
        ("last.weight", "last.bias"),
    ]


def test_tied_weights_have_one_name() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    model[2].weight = model[0].weight
    chain = chain_of(model, 2, 4)
    assert chain.layers[2].parameters == ("0.weight", "2.bias")


def test_layers_know_what_they_are() -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    layers = {layer.name: layer for layer in chain.layers}
    assert layers["layer1.1"].branch == "layer1_1_conv3"
    assert layers["layer1.1"].preserves
    assert layers["layer2.0"].branch is None
    assert not layers["layer2.0"].preserves
    assert layers["layer1.1"].signature != layers["layer2.1"].signature
    assert "layer1.1.conv2.weight" in layers["layer1.1"].parameters
    assert sum(len(layer.parameters) for layer in chain.layers) == len(chain.sizes)


def test_repeated_layers_have_equal_signatures() -> None:
    chain = chain_of(odenet(5, width=4), 2, 784)
    steps = [layer for layer in chain.layers if layer.name.startswith("steps.")]
    assert len(steps) == 5
    assert len({step.signature for step in steps}) == 1
    assert all(step.branch for step in steps)
