"""Attributes that a forward reads: a change is noticed, and the network is compiled again."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import TanhBlock as Block
from pararealize import MGRIT, Parareal, pararealize
from pararealize.errors import RecompiledWarning, StaleError, UnheardHookWarning

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


class Widening(Block):
    wide = False

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (torch.cat((y, y), -1) if self.wide else y).sin()


class Narrowing(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :4])


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


def seeded(module: Any, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    found: Tensor = module(x)
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", [EXACT, Parareal(seed=3)], ids=["exact", "default"])
def test_a_change_is_followed(change: str, method: Any) -> None:
    kind, act, message = CHANGES[change]
    _, net, x = cut(kind(), method=method)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seeded(net, x)
    other, weights = copy.deepcopy(net), dict(net.named_parameters())
    act(net.get_submodule("2"))
    with pytest.warns(RecompiledWarning, match=message) as caught:
        found = seeded(net, x)
    assert "leaf_modules=['2']" in str(caught[0].message)
    assert caught[0].filename == __file__
    now = dict(net.named_parameters())
    assert now.keys() == weights.keys()
    assert all(now[name] is weight for name, weight in weights.items())
    if method is EXACT:
        assert torch.equal(found, seeded(net.to_serial(), x))
        assert torch.equal(seeded(net.eval(), x), seeded(net.to_serial(), x))
    net.train()
    seeded(net, x).sum().backward()
    optimizer.step()
    assert torch.equal(seeded(net, x), seeded(copy.deepcopy(net), x))
    other(x)  # which has the old value, and does not warn


def test_a_network_that_cannot_follow_says_so() -> None:
    model, x = nn.Sequential(Block(), Widening(), Narrowing(), Block()), torch.randn(3, 4)
    net = pararealize(model, 2, interfaces=["1"], example_inputs=(x,))
    net.get_submodule("1").wide = True
    with pytest.raises(StaleError, match=r"1\.wide was False .* network is another one") as caught:
        net(x)
    assert "net = pararealize(net.to_serial(), n)" in str(caught.value)
    net.get_submodule("1").wide = False
    net(x)


def test_what_runs_multigrid_goes_on() -> None:
    model, x = nn.Sequential(*(Scaled() for _ in range(8))), torch.randn(3, 4)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05)  # small steps, so that cycles converge
    method = MGRIT(coarsening=2, coarse="summed", forward_cycles=2)
    net = pararealize(model, 2, method=method, example_inputs=(x,))
    net(x)
    net.get_submodule("5").scales = (1.0, 0.5)
    with pytest.warns(RecompiledWarning, match=r"5\.scales"):
        found = net(x)
    fresh = pararealize(net.to_serial(), 2, method=method, example_inputs=(x,))
    assert torch.equal(found, fresh(x))
    assert not torch.equal(found, pararealize(model, 2, method=method, example_inputs=(x,))(x))


def test_calibrated_networks_keep_what_was_fitted() -> None:
    model, x = nn.Sequential(*(Scaled() for _ in range(8))), torch.randn(32, 4)
    net = pararealize(model, 2, example_inputs=(x[:8],))
    net.calibrate(x, progress=False, agreement=0.5, batch=8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.get_submodule("7").scales = (1.0, 1.01)
    with pytest.warns(RecompiledWarning):
        net(x)
    assert net.plan.calibration is not None
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


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
    with pytest.warns(RecompiledWarning):
        assert not torch.equal(net(x), model(x))
    part.tau = 5.0
    with pytest.warns(RecompiledWarning):
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


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_hooks_that_come_too_late_are_said_not_to_run(
    kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    x, heard = torch.randn(2, 4), list[str]()
    model = nn.Sequential(*(nn.Sequential(Block(), Block()) for _ in range(3)))
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    net(x)
    assert not [w for w in recwarn if "hooks" in str(w.message)]
    for path in ("0", "1.1", "2.0.fc"):
        register = getattr(net.get_submodule(path), f"register_{kind}")
        register(lambda *_, path=path: heard.append(path))
    with pytest.warns(UnheardHookWarning, match="hooks of 0 and of 1 others do not run"):
        net(x).sum().backward()
    assert set(heard) == {"2.0.fc"}
    recwarn.clear()
    net(x).sum().backward()
    assert not [w for w in recwarn if "hooks" in str(w.message)]  # each is told once
    heard.clear()
    pararealize(net.to_serial(), 2, method=EXACT, example_inputs=(x,))(x).sum().backward()
    assert set(heard) == {"0", "1.1", "2.0.fc"}
