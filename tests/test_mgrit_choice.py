"""MGRIT's coarse="auto": the error that is reported is the error that is had."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, pararealize
from pararealize.decide import mgrit_passes
from pararealize.errors import InaccurateWarning

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.errors.SlowerThanSerialWarning")


class Residual(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(12, 12), gain

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * torch.tanh(self.layer(x))


class Block(Residual):
    """Two layers in a branch, of which means of weights are no good."""

    def __init__(self, gain: float) -> None:
        super().__init__(gain)
        self.second = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.second(torch.relu(self.layer(x)))


def errors_of(method: MGRIT, kind: type[Residual], gain: float, n: int) -> tuple[float, float]:
    """What the plan says, and the larger of the errors of answer and gradient on other inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(*(kind(gain) for _ in range(32))).double().eval()
    x = torch.randn(8, 12, dtype=torch.float64)
    net = pararealize(model, n, method=method, example_inputs=(x,)).eval()
    said = net.plan.pieces[1].error
    assert said is not None
    z = torch.randn(8, 12, dtype=torch.float64)
    factor = torch.randn(8, 12, dtype=torch.float64)
    wanted, found = model(z), net(z)
    (wanted * factor).sum().backward()
    (found * factor).sum().backward()
    ours = dict(net.named_parameters())
    pairs = [(ours[name].grad, weight.grad) for name, weight in model.named_parameters()]
    gradients = [torch.cat([t.flatten() for t in column]) for column in zip(*pairs, strict=True)]
    forward = (found - wanted).norm() / wanted.norm()
    backward = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    return said, float(torch.maximum(forward, backward))


@pytest.mark.parametrize(
    ("kind", "gain", "cycles"),
    [  # every two of the three meet; in the sample every value occurs
        (Residual, 0.1, (3, 2)),
        (Block, 0.4, (3, 3)),
        (Residual, 0.4, (2, 1)),
        *(
            pytest.param(*row, marks=pytest.mark.rest)
            for row in [(Block, 0.4, (3, 2)), (Residual, 0.1, (3, 3)), (Block, 0.1, (2, 1))]
        ),
    ],
)
def test_the_error_that_is_reported_is_had(
    kind: type[Residual], gain: float, cycles: tuple[int, int]
) -> None:
    """Other inputs and another functional of the answer: within a factor of 3."""
    forward, backward = cycles
    method = MGRIT(coarsening=2, forward_cycles=forward, backward_cycles=backward)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InaccurateWarning)
        said, had = errors_of(method, kind, gain, 16)
    doubted = any(issubclass(w.category, InaccurateWarning) for w in caught)
    assert said / 3 <= had <= 3 * said
    assert doubted == (said > method.wanted_error)


def test_what_cannot_be_met_is_said_with_what_to_write() -> None:
    method = MGRIT(coarsening=4, wanted_error=1e-12)
    with pytest.warns(InaccurateWarning, match=r"wanted_error=1e-12.*forward_cycles=2"):
        errors_of(method, Residual, 0.1, 4)


def test_a_saved_choice_is_not_measured_again() -> None:
    """Nor is a kind that was asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InaccurateWarning)
        method = MGRIT(coarsening=4, wanted_error=1e-12, coarse="mean")
        torch.manual_seed(0)
        model = nn.Sequential(*(Residual(0.1) for _ in range(16))).double()
        net = pararealize(model, 4, method=method, example_inputs=(torch.ones(2, 12).double(),))
    assert net.plan.pieces[1].coarse == "mean"


def test_cycles_are_written_once_whatever_kinds_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    written, tried = [], []
    iteration, build = mgrit_passes.iteration, mgrit_passes.LevelBuilder.build

    def counted(*args: Any, **kwargs: Any) -> Any:
        written.append(1)
        return iteration(*args, **kwargs)

    def counting(*args: Any) -> Any:
        tried.append(1)
        return build(*args)

    monkeypatch.setattr(mgrit_passes, "iteration", counted)
    monkeypatch.setattr(mgrit_passes.LevelBuilder, "build", counting)
    model = nn.Sequential(*(Block(1.0) for _ in range(12))).double()
    inputs = (torch.randn(3, 12, dtype=torch.float64),)
    with pytest.warns(InaccurateWarning):
        pararealize(model, 6, method=MGRIT(wanted_error=1e-9), example_inputs=inputs)
    assert len(tried) > 3
    assert len(written) == 1
