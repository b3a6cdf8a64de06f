"""Globals that a forward names: a change is noticed, and the network is compiled again."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize
from pararealize.errors import RecompiledWarning

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
SCALE, TABLE, tau = 2.0, {"shift": 1.0}, 0.0


def shifted(x: Tensor) -> Tensor:
    return x + TABLE["shift"]


class Global(Block):
    tau = 1.0  # a global is called so as well

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * SCALE * self.tau)


class Helped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(shifted(x))


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(Global, "SCALE", 3.0), (Helped, "TABLE", {"shift": 2.0})]
)
def test_globals_are_noticed(
    kind: type[nn.Module], name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(*(kind() for _ in range(4))).double(), torch.randn(3, 4).double()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net(x), model(x))
    monkeypatch.setitem(globals(), name, value)
    with pytest.warns(RecompiledWarning, match=f"{name} was .* when the network was compiled"):
        assert torch.equal(net(x), model(x))
    if isinstance(value, dict):
        value["shift"] = 5.0
        with pytest.warns(RecompiledWarning, match=name):
            assert torch.equal(net(x), model(x))


def test_a_global_that_only_is_called_as_an_attribute_is_no_matter(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    x = torch.randn(3, 4)
    net = pararealize(nn.Sequential(Global(), Global()), 2, method=EXACT, example_inputs=(x,))
    monkeypatch.setitem(globals(), "tau", 7.0)
    net(x)
    assert not [w for w in recwarn if issubclass(w.category, RecompiledWarning)]
