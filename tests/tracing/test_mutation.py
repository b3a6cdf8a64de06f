"""What a forward leaves in containers is a tensor of the last call, once a step, and its own."""

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
SWEPT = Parareal(coarse="identity", correction="difference", guess="coarse", iterations=3)
EXACT = Parareal(coarse="fine", correction="difference")
GLOBAL: list[Tensor] = []
COUNTS = {"calls": 0}


def _appender(inside: list[Tensor]) -> Callable[[Tensor], None]:
    def append(loss: Tensor) -> None:
        inside.append(loss)

    return append


class Losses:
    """A plain object to write on."""


class Leaving(nn.Module):
    """Leaves an auxiliary loss somewhere."""

    shared: list[Tensor] = []  # noqa: RUF012
    calls = 0

    def __init__(self, where: str) -> None:
        super().__init__()
        self.linear, self.where = nn.Linear(6, 6), where
        self.list: list[Tensor] = []
        self.nested: dict[str, list[Tensor]] = {"losses": []}
        self.queue: deque[Tensor] = deque(maxlen=4)
        self.space, self.object = SimpleNamespace(), Losses()
        self.total = torch.zeros((), dtype=torch.float64)
        inside: list[Tensor] = []
        self.append: Callable[[Tensor], None] = _appender(inside)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        loss = y.square().mean()
        match self.where:
            case "list":
                self.list.append(loss)
            case "nested":
                self.nested["losses"].append(loss)
            case "queue":
                self.queue.append(loss)
            case "space":
                self.space.loss = loss
            case "object":
                self.object.loss = loss  # type: ignore[attr-defined]
            case "global":
                GLOBAL.append(loss)
                COUNTS["calls"] += 1
            case "class":
                self.shared.append(loss)
                Leaving.calls += 1
            case "closure":
                self.append(loss)
            case "tensor":
                self.total.add_(loss.detach())
        return x + torch.tanh(y)

    def left(self) -> list[Tensor]:
        found = {
            "list": self.list,
            "nested": self.nested["losses"],
            "queue": list(self.queue),
            "space": list(vars(self.space).values()),
            "object": list(vars(self.object).values()),
            "global": list(GLOBAL),
            "class": list(self.shared),
            "closure": self.inside,
            "tensor": [self.total],
        }
        return found[self.where]


WHERE = ("list", "nested", "queue", "space", "object", "global", "class", "closure", "tensor")


def forget() -> None:
    GLOBAL.clear()
    Leaving.shared.clear()
    COUNTS["calls"] = Leaving.calls = 0


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, int, list[Tensor | None]]:
    forget()
    for _ in range(2):
        model.zero_grad()
        loss = model(x).square().mean()
        left = model.get_submodule("1").left()  # type: ignore[operator]
        loss = loss + left[-1]
        loss.backward()
    return loss.detach(), len(left), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("method", [SWEPT, EXACT], ids=["swept", "exact"])
def test_what_a_forward_leaves_is_the_serial_networks(where: str, method: Parareal) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Leaving(where), nn.Tanh(), Leaving(where)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    forget()
    net = pararealize(model, 3, method=method, example_inputs=(x,))
    assert not GLOBAL
    assert not Leaving.shared
    assert COUNTS["calls"] == Leaving.calls == 0
    mine = model.get_submodule("1").left()
    assert not mine or where == "tensor"
    assert set(net.plan.tracing.found) == {"1", "3"}
    assert "writes on its" in net.plan.tracing.found["1"]
    (loss, count, grads), (other, others, other_grads) = step(model, x), step(net, x)
    # Three sweeps of three subnetworks are exact: the same operations on the same values.
    torch.testing.assert_close(other, loss, rtol=1e-14, atol=1e-14)
    assert others == count
    torch.testing.assert_close(other_grads[: len(grads)], grads, rtol=1e-12, atol=1e-14)
    assert len(model.get_submodule("1").left()) == count


class Shared(nn.Module):
    """Blocks that write into one list of the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.blocks = nn.ModuleList(Writing(self.losses) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Writing(nn.Module):
    def __init__(self, losses: list[Tensor]) -> None:
        super().__init__()
        self.linear, self.losses = nn.Linear(6, 6), losses

    def forward(self, x: Tensor) -> Tensor:
        self.losses.append(x.mean())
        return torch.tanh(self.linear(x))


def test_one_list_of_all_blocks_stays_one() -> None:
    model, x = Shared().double(), torch.randn(3, 6, dtype=torch.float64)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert set(net.plan.tracing.found) == {f"blocks.{i}" for i in range(4)}
    assert torch.equal(net(x), model(x))
    losses = net.get_submodule("blocks.0").losses
    assert losses is net.get_submodule("blocks.3").losses
    torch.testing.assert_close(losses, model.losses)
    assert len(pararealize(model, 2, method=EXACT, example_inputs=(x,)).to_serial().losses) == 4
