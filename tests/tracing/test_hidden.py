"""Networks whose own forward is traced, and most of whose layers lie where no trace looks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from untraceable import WIDTH, Biased, Plain, Scaled, looks

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Classifier(nn.Module):
    """Scores of what another network makes of the input, as of an encoder of transformers."""

    def __init__(self, body: nn.Module, before: int = 0) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(before))
        self.stem, self.body = nn.Sequential(*layers), body
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        y = y["state"] if isinstance(self.body, Plain) else y
        scores: Tensor = self.head(self.drop(y.mean(1)))
        return scores


class Branching(nn.Module):
    """No list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(looks(x))))


class SaysItsMode(nn.Sequential):
    """Looks at its own mode before it changes it, as networks of transformers do."""

    def train(self, mode: bool = True) -> Any:
        """Sets it."""
        changed = self.training != mode
        return super().train(mode) if changed else self


class Shifted(nn.Linear):
    """Has another program in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Shifted while it is trained."""
        y = super().forward(x)
        return y + 0.5 if self.training else torch.tanh(y)


def inputs(batch: int = 2, length: int = 8) -> Tensor:
    return torch.randn(batch, length, WIDTH, dtype=torch.float64)


def assert_equal(net: nn.Module, model: nn.Module, x: Tensor) -> None:
    for training in (True, False):
        torch.manual_seed(3)
        wanted = model.train(training)(x)
        torch.manual_seed(3)
        torch.testing.assert_close(net.train(training)(x), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [Plain, Scaled, Biased])
def test_the_lists_inside_are_found(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = Classifier(kind()).double(), inputs()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert net.plan.tracing.blocks == "body.blocks"
    assert f"{kind.__name__} cannot be traced" in net.explain()
    assert_equal(net, model, x)
    assert_equal(net, model, inputs(3, 5))


def test_what_a_trace_sees_is_cut_where_that_is_most() -> None:
    model, x = Classifier(Plain(), before=6).double(), inputs()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.blocks
    assert "body" in net.plan.tracing.found
    assert_equal(net, model, x)


def test_a_module_without_lists_or_that_is_asked_for_is_called_whole() -> None:
    x = inputs()
    for body, leaves in ((Branching(), ()), (Scaled(), ("body",))):
        model = Classifier(body).double()
        net = pararealize(model, 2, method=EXACT, example_inputs=(x,), leaf_modules=leaves)
        assert not net.plan.tracing.blocks
        assert "body" in {*net.plan.tracing.found, *net.plan.tracing.leaf_modules}
        assert_equal(net, model, x)


def test_a_mode_that_train_looks_at_is_no_part_of_the_program() -> None:
    body = SaysItsMode(*(Shifted(WIDTH, WIDTH) for _ in range(4)))
    model, x = Classifier(body).double(), inputs()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert_equal(net, model, x)
