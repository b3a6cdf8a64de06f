"""Attributes that a forward reads: what is called whole follows them, the rest is noticed."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize
from pararealize.errors import StaleError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Tempered(Block):
    tau = 5.0  # of the class, until it is set

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.softmax(self.fc(x) / self.tau, -1)


class Configured(Block):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scale=2.0, sizes=[1, 2])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.config.scale * self.config.sizes[0])


class Adapted(Block):
    """A low-rank adapter that can be switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.active, self.down, self.up = True, nn.Linear(4, 1), nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.up(self.down(x)) if self.active else y


class Dropping(Block):
    rate = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.dropout(self.fc(x), self.rate, training=self.training)


class Scaled(Block):
    scales = (1.0, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scales[1])


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


def put(name: str, value: Any) -> Callable[[Any], None]:
    return lambda module: setattr(module, name, value)


CHANGES: dict[str, tuple[type[nn.Module], Callable[[Any], None], str]] = {
    "number": (Tempered, put("tau", 0.1), "2.tau was 5.0 .* and is 0.1"),
    "inside an object": (Configured, lambda m: put("scale", 3.0)(m.config), "2.config"),
    "inside a list": (Configured, lambda m: m.config.sizes.__setitem__(0, 7), "2.config"),
    "flag": (Adapted, put("active", False), "2.active was True .* and is False"),
    "rate": (Dropping, put("rate", 0.0), "2.rate was 0.5"),
    "tuple": (Scaled, put("scales", (1.0, 3.0)), "2.scales"),
    "mode": (Noisy, lambda m: m.eval(), "2 is in eval mode, and the network in train mode"),
}


def cut(middle: nn.Module, **options: Any) -> tuple[nn.Module, Any, Tensor]:
    model, x = nn.Sequential(Block(), Block(), middle, Block(), Block()), torch.randn(3, 4)
    given = {"method": EXACT, "example_inputs": (x,), **options}
    return model, pararealize(model, 2, **given), x


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", [EXACT, Parareal()], ids=["exact", "default"])
def test_a_change_is_noticed(change: str, method: Any) -> None:
    kind, act, message = CHANGES[change]
    _, net, x = cut(kind(), method=method)
    net(x)
    other = copy.deepcopy(net)
    act(net.get_submodule("2"))
    with pytest.raises(StaleError, match=message) as caught:
        net(x)
    assert "leaf_modules=['2']" in str(caught.value)
    other(x)
    again = pararealize(net.to_serial(), 2, method=method, example_inputs=(x,))
    assert again(x).shape == x.shape  # as the message says
    if method is EXACT:
        assert torch.equal(again.eval()(x), net.to_serial().eval()(x))


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_called_whole_follows(change: str) -> None:
    kind, act, _ = CHANGES[change]
    model, net, x = cut(kind(), leaf_modules=["2"])
    for _ in range(2):
        found = []
        for each in (model, net):
            torch.manual_seed(1)
            found.append(each(x))
        assert torch.equal(*found)
        act(net.get_submodule("2"))
        act(model[2])  # type: ignore[index]


def test_what_is_put_back_is_as_before() -> None:
    model, net, x = cut(Tempered())
    part = net.get_submodule("2")
    part.tau = 1.0
    with pytest.raises(StaleError):
        net(x)
    part.tau = 5.0
    assert torch.equal(net(x), model(x))


def test_modes_of_the_whole_network_are_no_change() -> None:
    model, net, x = cut(Noisy())
    for mode in (False, True, False):
        model.train(mode)
        net.train(mode)
        torch.manual_seed(0)
        wanted = model(x)
        torch.manual_seed(0)
        assert torch.equal(net(x), wanted)
    _, flagged, x = cut(Dropping())
    flagged.get_submodule("2").eval()  # one program serves both modes, and reads the flag
    assert torch.equal(flagged(x), flagged(x))


def test_what_no_forward_reads_may_change() -> None:
    _, net, x = cut(Tempered())
    net.get_submodule("2").note = "read by nobody"
    net.get_submodule("2.fc").note = 3
    net.get_submodule("0").fc.weight.requires_grad_(False)
    net(x).sum().backward()
    assert net.get_submodule("0").fc.weight.grad is None


class Asking(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if torch.is_grad_enabled() else 3)


class Casting(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if torch.is_autocast_enabled("cpu") else 3)


@pytest.mark.parametrize("kind", [Asking, Casting])
def test_what_asks_for_modes_of_torch_is_called_whole(kind: type[nn.Module]) -> None:
    model, net, x = cut(kind())
    assert set(net.plan.tracing.found) == {"2"}
    assert torch.equal(net(x), model(x))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(x), model(x))


def test_a_network_that_asks_itself_notices() -> None:
    x = torch.randn(3, 4)
    net = pararealize(Asking(), 1, example_inputs=(x,))
    net(x)
    with torch.no_grad(), pytest.raises(StaleError, match=r"torch\.is_grad_enabled was True"):
        net(x)
    assert torch.is_grad_enabled is torch._C.is_grad_enabled  # put back
    assert "__getattribute__" not in nn.Module.__dict__  # put back
