"""Bad input: one clear error each, with what was found and the line to write instead."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, PararealizeError, errors, pararealize
from pararealize.errors import CutError, MethodError, NotAModuleError, ShapeError, TraceError
from pararealize.models import resnet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def mlp(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))


class Uncuttable(nn.Module):
    """One operation, which nothing precedes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Dense(nn.Module):
    """Every layer reads every value before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        values = [layer(x) for layer in self.layers]
        return sum(values[1:], values[0])


class Recurrent(nn.Module):
    """What its second layer gives is no tensor, but a nest of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.last = nn.Linear(4, 4), nn.LSTM(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(self.first(x))[0])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.mean() > 0 else x


class Reserved(nn.Module):
    def __init__(self, name: str, part: object) -> None:
        super().__init__()
        self.layers = mlp()
        setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x + y)


def build(channels: int) -> nn.Module:
    return resnet(11, channels=channels, width=4)


Case = tuple[Callable[[], object], type[PararealizeError], list[str]]
CASES: dict[str, Case] = {
    "no interface": (
        lambda: pararealize(Uncuttable(), 2),
        CutError,
        ["no legal interface", "3 operations", "n=1"],
    ),
    "no narrow interface": (
        lambda: pararealize(Dense(), 20),
        CutError,
        ["n=20 subnetworks need 19 interfaces", "write n="],
    ),
    "too many": (
        lambda: pararealize(mlp(), 9),
        CutError,
        ["n=9 subnetworks need 8 interfaces", "has 3 (after 0, 1, 2)", "write n=4 or less"],
    ),
    "zero": (lambda: pararealize(mlp(), 0), CutError, ["n=0", "1 or more", "n=4"]),
    "negative": (lambda: pararealize(mlp(), -3), CutError, ["n=-3", "1 or more"]),
    "true": (lambda: pararealize(mlp(), True), CutError, ["n=True", "pararealize(model, n=4)"]),
    "fraction": (lambda: pararealize(mlp(), 2.5), CutError, ["n=2.5"]),  # type: ignore[arg-type]
    "word": (lambda: pararealize(mlp(), "three"), CutError, ["n='three'", "'auto'"]),
    "none": (lambda: pararealize(mlp(), None), CutError, ["n=None"]),  # type: ignore[arg-type]
    "unknown interface": (
        lambda: pararealize(resnet(20, width=4), 2, interfaces=["layer22"]),
        CutError,
        ["no module is called 'layer22'", "interfaces=[", "'layer2"],
    ),
    "interface that is no tensor": (
        lambda: pararealize(
            Recurrent(), 2, example_inputs=(torch.randn(2, 3, 4),), interfaces=["lstm"]
        ),
        CutError,
        ["cannot be cut after 'lstm'", "neither one tensor nor a few of them", "'first'"],
    ),
    "interfaces without n": (
        lambda: pararealize(mlp(), 4, interfaces=["0"]),
        CutError,
        ["n=4 takes the names of 3 modules", "found 1", "n=2"],
    ),
    "branch on data": (
        lambda: pararealize(Branching(), 2),
        TraceError,
        ["Branching cannot be traced", "test_errors.py:", "x.mean() > 0", "torch.where"],
    ),
    "wrong channels to compile for": (
        lambda: pararealize(build(3), 2, example_inputs=(torch.zeros(2, 4, 16, 16),)),
        ShapeError,
        ["layer conv1 = Conv2d(3, 4", "[2, 4, 16, 16]", "example_inputs="],
    ),
    "wrong channels to call with": (
        lambda: pararealize(build(3), 2)(torch.zeros(2, 1, 16, 16)),
        ShapeError,
        ["'images'", "[2, 1, 16, 16]", "conv1 = Conv2d(3, 4", "3 on axis 1"],
    ),
    "wrong arguments to compile for": (
        lambda: pararealize(mlp(), 2, example_inputs=(1, 2)),
        ShapeError,
        ["example_inputs do not fit Sequential.forward(input)", "example_inputs=(x,)"],
    ),
    "shapes unknown": (
        lambda: pararealize(TwoInputs(), 2),
        ShapeError,
        ["inputs (x, y) cannot be inferred", "pararealize(model, n, example_inputs=("],
    ),
    "number": (lambda: pararealize(3, 2), NotAModuleError, ["found 3"]),  # type: ignore[arg-type]
    "nothing": (lambda: pararealize(None), NotAModuleError, ["None"]),  # type: ignore[arg-type]
    "number with inputs": (
        lambda: pararealize(3, 2, example_inputs=(torch.zeros(1),)),  # type: ignore[arg-type]
        NotAModuleError,
        ["torch.nn.Module", "found 3"],
    ),
    "class": (
        lambda: pararealize(Uncuttable, 2),  # type: ignore[arg-type]
        NotAModuleError,
        ["the class Uncuttable", "pararealize(Model(), n=...)"],
    ),
    "function": (
        lambda: pararealize(resnet, 2),  # type: ignore[arg-type]
        NotAModuleError,
        ["function resnet", "Call it first"],
    ),
    "reserved module": (
        lambda: pararealize(Reserved("coarse", nn.Linear(2, 2)), 2),
        TraceError,
        ["Reserved has something called 'coarse'", "rename self.coarse"],
    ),
    "reserved parameter": (
        lambda: pararealize(Reserved("guess", nn.Parameter(torch.zeros(2))), 2),
        TraceError,
        ["'guess'", "rename self.guess"],
    ),
    "method": (
        lambda: pararealize(mlp(), 2, method="parareal"),  # type: ignore[arg-type]
        MethodError,
        ["method='parareal'", "Parareal(...)"],
    ),
    "method class": (
        lambda: pararealize(mlp(), 2, method=Parareal),  # type: ignore[arg-type]
        MethodError,
        ["expected Parareal(...)"],
    ),
    "cost": (
        lambda: pararealize(mlp(), 2, cost="guessed"),
        MethodError,
        ["cost='guessed'", "'predicted' or 'measured'"],
    ),
    "option": (
        lambda: Parareal(correction="sum"),
        MethodError,
        ["correction='sum'", "Parareal(correction='residual')"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_one_clear_error(name: str) -> None:
    call, kind, parts = CASES[name]
    with pytest.raises(PararealizeError) as caught:
        call()
    assert type(caught.value) is kind
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert "\n" not in text
    assert len(text) < 800


def test_a_refused_model_is_left_alone() -> None:
    model = build(3).eval()
    state = copy.deepcopy(model.state_dict())
    for options in ({"n": 999}, {"n": 2, "interfaces": ["nowhere"]}):
        with pytest.raises(CutError):
            pararealize(model, **options)  # type: ignore[arg-type]
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def subclasses(kind: type[BaseException]) -> list[type[Any]]:
    return [errors_ for errors_ in vars(errors).values() if _is_error(errors_, kind)]


def _is_error(value: object, kind: type[BaseException]) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def test_every_error_is_one_of_ours() -> None:
    kinds = subclasses(Exception)
    assert len(kinds) >= 10
    for kind in kinds:
        assert issubclass(kind, (PararealizeError, UserWarning))
        assert kind.__doc__


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(NotAModuleError, TypeError)
    assert issubclass(CutError, ValueError)
    assert issubclass(errors.StorageError, OSError)
    assert issubclass(errors.SlowerThanSerialWarning, UserWarning)


def test_weights_without_numbers_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to("meta")
    with pytest.raises(TraceError, match=r"'0.weight' is on the meta device.*to_empty"):
        pararealize(model, 2)
