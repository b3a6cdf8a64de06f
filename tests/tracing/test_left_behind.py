"""What a hook leaves in a container for the network to read is the value that it left."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize
from pararealize.errors import TraceError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def blocks() -> nn.Sequential:
    return nn.Sequential(*(Block() for _ in range(4)))


class Left(nn.Module):
    """Two halves; the second reads what a hook on a block of the first has left in a container."""

    def __init__(self, left: Any) -> None:
        super().__init__()
        self.first, self.second, self.left = blocks(), blocks(), left
        self.listen(left)

    def listen(self, left: Any) -> None:
        raise NotImplementedError

    def read(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y + self.read())


class ByKey(Left):
    def __init__(self) -> None:
        super().__init__({})

    def listen(self, left: dict[int, Tensor]) -> None:
        self.first[1].register_forward_hook(lambda m, i, o: left.__setitem__(1, o))

    def read(self) -> Tensor:
        found: Tensor = self.left[1]
        return found


class Newest(ByKey):
    def __init__(self) -> None:
        Left.__init__(self, deque(maxlen=2))

    def listen(self, left: deque[Tensor]) -> None:
        self.first[2].register_forward_hook(lambda m, i, o: left.append(o))

    def read(self) -> Tensor:
        found: Tensor = self.left[-1]
        return found


class BeforeIt(ByKey):
    """Of what a block is given, left by a pre-hook in a namespace."""

    def __init__(self) -> None:
        Left.__init__(self, SimpleNamespace(seen=None))

    def listen(self, left: SimpleNamespace) -> None:
        self.first[2].register_forward_pre_hook(lambda m, i: setattr(left, "seen", i[0]))

    def read(self) -> Tensor:
        found: Tensor = self.left.seen
        return found


class ByMethod(ByKey):
    """Left by a method of the network itself, on itself."""

    def __init__(self) -> None:
        Left.__init__(self, None)

    def listen(self, left: None) -> None:
        self.first[1].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.left = output

    def read(self) -> Tensor:
        found: Tensor = self.left
        return found


class Doubled(ByKey):
    """What is left is used in an operation before anything else is."""

    def read(self) -> Tensor:
        return 2 * super().read()


class Squared(ByKey):
    """What is left was computed by the hook, which is no part of a trace."""

    def listen(self, left: dict[int, Tensor]) -> None:
        self.first[1].register_forward_hook(lambda m, i, o: left.__setitem__(1, o.square()))


def once(kind: Any) -> Any:
    """A network that has run, so that its container holds what that call left."""
    torch.manual_seed(0)
    model = kind().double()
    model(torch.randn(3, 4).double())
    return model


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("kind", [ByKey, Newest, BeforeIt, ByMethod])
def test_it_is_the_value_of_this_call(kind: Any, n: int) -> None:
    model, x = once(kind), torch.randn(5, 4).double()
    net = pararealize(model, n, method=EXACT, example_inputs=(x[:2],))
    for mode in (True, False):
        for module in (model, net):
            module.train(mode)
        for given in (x, x[:3] + 1):
            assert torch.equal(net(given), model(given))
    for module in (model, net):
        module.zero_grad()
        module(x).square().sum().backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(net.get_parameter(name).grad, weight.grad, atol=1e-12)  # a sum


@pytest.mark.parametrize("kind", [Doubled, Squared])
def test_what_was_computed_of_it_is_an_error(kind: Any) -> None:
    with pytest.raises(TraceError, match="reads what another has left behind"):
        pararealize(once(kind), 2, method=EXACT, example_inputs=(torch.randn(3, 4).double(),))
