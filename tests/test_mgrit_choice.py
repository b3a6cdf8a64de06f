"""MGRIT's coarse="auto": the error that is reported is the error that is had."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, pararealize
from pararealize.cost import probe
from pararealize.decide import mgrit_passes, solve_error
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


class Restless(nn.Module):
    """A branch that counts its calls, and is another one after each."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(12, 12), kept
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []
        self.number = 0
        if kept == "generator":
            self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return (0.1 + self.moved()) * torch.tanh(self.layer(x))

    def moved(self) -> float | Tensor:
        match self.kept:
            case "buffer":
                self.calls += 1
                return 0.01 * self.calls
            case "list":
                self.seen.append(1)
                return 0.01 * len(self.seen)
            case "attribute":
                self.number += 1
                return 0.01 * self.number
        return 0.1 * torch.rand((), generator=self.generator)


class Beside(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize(
    "kept",
    [
        "buffer",
        pytest.param("list", marks=pytest.mark.rest),
        pytest.param("attribute", marks=pytest.mark.rest),
        "generator",
    ],
)
def test_trials_leave_nothing_behind(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All run on one copy of the network: a kind is as exact after another one as before it."""
    errors: list[float] = []
    error = solve_error.Trials.error

    def twice(self: solve_error.Trials, decisions: Any) -> float:
        errors.extend(error(self, decisions) for _ in range(2))
        return errors[-1]

    monkeypatch.setattr(solve_error.Trials, "error", twice)
    torch.manual_seed(0)
    model = nn.Sequential(*(Beside(Restless(kept)) for _ in range(9))).double()
    inputs = (torch.randn(3, 12, dtype=torch.float64),)
    method = MGRIT(coarsening=2, wanted_error=1e-9, batched="never")
    with pytest.warns(InaccurateWarning):
        pararealize(model, 3, method=method, example_inputs=inputs, verify=False)
    assert errors[::2] == errors[1::2]
    assert len(errors) > 3


def tried_of(n: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    """Kinds of coarse propagators that are solved with, and the chosen one."""
    tried: list[str] = []
    error = solve_error.Trials.error

    def noted(self: solve_error.Trials, decisions: Any) -> float:
        (kind,) = {coarse.kind for coarse in decisions.levels.values()}
        tried.append(kind)
        return error(self, decisions)

    torch.manual_seed(0)
    model = nn.Sequential(*(Block(0.4) for _ in range(4 * n))).double()
    inputs = (torch.randn(3, 12, dtype=torch.float64),)
    method = MGRIT(wanted_error=1e-9, batched="never")
    monkeypatch.setattr(solve_error.Trials, "error", noted)
    with pytest.warns(InaccurateWarning):
        net = pararealize(model, n, method=method, example_inputs=inputs, verify=False)
    monkeypatch.setattr(solve_error.Trials, "error", error)
    return tried, net.plan.pieces[1].coarse


def test_of_many_slices_only_kinds_are_tried_that_may_be_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every, chosen = tried_of(6, monkeypatch)
    monkeypatch.setattr(solve_error, "MANY", 5)
    some, same = tried_of(6, monkeypatch)
    assert len(every) == 5
    assert some == every[: len(some)]
    assert len(some) < 4
    assert same == chosen


def test_networks_are_copied_and_slices_compiled_once_whatever_kinds_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One copy for a probe and all solves; the serial answer of it, once; slices for each."""
    calls: Counter[str] = Counter()

    def counting(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    counting(probe, "copy_tree")
    counting(solve_error, "assemble")
    counting(solve_error, "with_levels")
    counting(solve_error.Trials, "_answer")
    tried, _ = tried_of(4, monkeypatch)
    assert calls["copy_tree"] == calls["assemble"] == 1
    assert calls["with_levels"] == len(tried) - 1 == 4
    assert calls["_answer"] == len(tried) + 1
