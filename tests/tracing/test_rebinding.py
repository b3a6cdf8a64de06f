"""Functions that a network holds lead to its copy: that trains, and the original does not."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import TraceError
from pararealize.tracing.copying import copy_tree

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x)


def closure(block: Any) -> None:
    old = block.forward
    block.forward = lambda x: old(x) * 2


def nested(block: Any) -> None:
    closure(block)
    closure(block)


def bound_partial(block: Any) -> None:
    block.forward = partial(Block.forward, block)


def default(block: Any) -> None:
    def forward(x: Tensor, own: Any = block) -> Tensor:
        return own.fc(x)

    block.forward = forward


def keyword(block: Any) -> None:
    def forward(x: Tensor, *, own: Any = block) -> Tensor:
        return own.fc(x)

    block.forward = forward


def method(block: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.fc(x) - x

    block.forward = forward.__get__(block)


def wrapped(block: Any) -> None:
    inner = block.forward

    @wraps(inner)
    def forward(*args: Any) -> Any:
        return inner(*args) + 1

    block.forward = forward


def weight(block: Any) -> None:
    own = block.fc.weight
    block.forward = lambda x: x @ own


def global_name(block: Any) -> None:
    globals()["OLD"] = block.forward
    block.forward = lambda x: OLD(x) * 3  # type: ignore[name-defined]  # noqa: F821


def hook(block: Any) -> None:
    block.register_forward_hook(lambda _m, _args, output: output + block.fc.weight.sum())


EVERY = (
    closure,
    nested,
    bound_partial,
    default,
    keyword,
    method,
    wrapped,
    weight,
    global_name,
    hook,
)


@pytest.mark.parametrize("patch", EVERY)
def test_the_copy_trains_and_the_original_does_not(patch: Callable[[Any], None]) -> None:
    model, x = nn.Sequential(*(Block() for _ in range(4))), torch.randn(3, 4)
    patch(model[1])
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x))
    net(x).sum().backward()
    assert model[1].fc.weight.grad is None  # type: ignore[union-attr]
    own: Any = net.get_submodule("1")
    assert own.fc.weight.grad is not None
    with torch.no_grad():
        own.fc.weight.mul_(3)
    assert not torch.equal(net(x), model(x))
    serial = net.to_serial()
    torch.testing.assert_close(serial(x), net(x))
    with torch.no_grad():
        own.fc.weight.zero_()
    assert not torch.equal(serial(x), net(x))  # its functions lead to it in turn


def test_what_hooks_keep_is_the_copys() -> None:
    model: Any = nn.Sequential(*(Block() for _ in range(4)))
    model[2].kept, outside = {}, []
    kept = model[2].kept
    model[1].register_forward_hook(lambda _m, _args, output: kept.update(last=output))
    model[0].register_forward_hook(lambda _m, _args, output: outside.append(output))
    net: Any = pararealize(model, 2, method=EXACT, example_inputs=(torch.randn(3, 4),))
    net(torch.randn(3, 4))
    assert not kept
    assert "last" in net.get_submodule("2").kept
    assert outside  # what is not the network's stays the caller's


class Opaque(Block):
    """Copies itself, and tells nobody."""

    def __deepcopy__(self, _memo: Any) -> "Opaque":
        twin = Opaque()
        twin.load_state_dict(self.state_dict())
        return twin


def test_a_function_that_would_go_on_using_the_original_is_refused() -> None:
    model: Any = nn.Sequential(Block(), Opaque(), Block())
    inner = model[1].fc
    model[2].forward = lambda x: inner(x) * 2
    with pytest.raises(TraceError, match=r"uses 1\.fc = Linear"):
        copy_tree(model)
