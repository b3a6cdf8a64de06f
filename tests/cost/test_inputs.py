"""Inputs inferred from the first layers, without computing anything."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import pararealize
from pararealize.cost.inputs import bind, expectations, infer_profile
from pararealize.errors import ShapeError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet, resnet1001, vgg11, vgg13, vgg16, vgg19
from pararealize.tracing.trace import trace

Build = Callable[[], nn.Module]

#: Networks and the inputs that are found for them.
KNOWN: dict[str, tuple[Build, tuple[int, ...]]] = {
    "vgg11": (vgg11, (2, 3, 224, 224)),
    "vgg13": (vgg13, (2, 3, 224, 224)),
    "vgg16": (vgg16, (2, 3, 224, 224)),
    "vgg19-bn": (lambda: vgg19(batch_norm=True), (2, 3, 224, 224)),
    "vgg16-small": (lambda: vgg16(head="small", classes=10), (2, 3, 32, 32)),
    "vgg11-digits": (lambda: vgg11(head="small", classes=10, channels=1), (2, 1, 28, 28)),
    "resnet20": (lambda: resnet(20), (2, 3, 32, 32)),
    "resnet20-digits": (lambda: resnet(20, channels=1), (2, 1, 28, 28)),
    "resnet1001": (resnet1001, (2, 3, 32, 32)),
    "odenet-dense": (lambda: odenet(4), (2, 784)),
    "odenet-narrow": (lambda: odenet(4, in_features=3), (2, 3)),
    "odenet-conv": (lambda: odenet(4, kind="conv"), (2, 1, 28, 28)),
    "sequence": (lambda: nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU()), (2, 6, 128)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU()), (2, 2, 16, 112, 112)),
    "flat image": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), (2, 48)),
}


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Rows(nn.Module):
    """A linear layer that must be given images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).reshape(x.size(0), 3 * 8 * 8))


def inferred(model: nn.Module) -> Mapping[str, Any]:
    return infer_profile(trace(model).train, model, Machine()).inputs


@pytest.mark.parametrize("name", KNOWN)
def test_inputs_are_found_without_data(name: str) -> None:
    build, shape = KNOWN[name]
    with torch.device("meta"):
        model = build()
    (spec,) = inferred(model).values()
    assert spec == TensorSpec(shape)


@pytest.mark.parametrize("name", ["vgg11-digits", "resnet20", "odenet-dense", "odenet-conv"])
def test_the_network_takes_what_was_found(name: str) -> None:
    build, shape = KNOWN[name]
    assert build().eval()(torch.zeros(shape)).shape == (2, 10)


def test_integers_for_embeddings() -> None:
    spec = TensorSpec((2, 128), torch.int64)
    assert list(inferred(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))).values()) == [spec]


def test_the_dtype_is_the_models() -> None:
    spec = TensorSpec((2, 3), torch.float64)
    assert list(inferred(nn.Sequential(nn.Linear(3, 3)).double()).values()) == [spec]


def test_later_layers_rule_candidates_out() -> None:
    assert inferred(Rows())["x"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(nn.ReLU()), "input"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 3)), "input"),
        (Two(), "left, right"),
    ],
)
def test_a_failure_prints_the_call_to_write(model: nn.Module, names: str) -> None:
    with pytest.raises(ShapeError) as caught:
        pararealize(model, 2)
    text = str(caught.value)
    assert f"{type(model).__name__}'s inputs ({names}) cannot be inferred" in text
    examples = ", ".join("torch.randn(batch, ...)" for _ in names.split(","))
    assert f"pararealize(model, n, example_inputs=({examples},))" in text


def test_example_inputs_override() -> None:
    net = pararealize(resnet(11, width=4), 1, example_inputs=(torch.zeros(5, 3, 20, 20),))
    assert net.plan.inputs == {"images": "[5, 3, 20, 20] float32"}


def test_binding_names_the_arguments() -> None:
    left, right = torch.zeros(1), torch.ones(1)
    assert bind(Two(), None, None) is None
    assert bind(Two(), (left,), {"right": right}) == {"left": left, "right": right}
    assert list(bind(nn.ReLU(), left, None) or {}) == ["input"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2, 3), None), ((), None), ((1,), None), (None, {"middle": 1}), ((1, 2), {"left": 3})],
)
def test_arguments_that_do_not_fit_show_the_signature(args: Any, kwargs: Any) -> None:
    with pytest.raises(ShapeError, match=r"Two\.forward\(left: .*right: .*\).*example_inputs="):
        bind(Two(), args, kwargs)


def test_expectations_are_of_the_first_layer_that_reads_an_input() -> None:
    model = resnet(11, channels=5, width=4)
    (expected,) = expectations(trace(model).train, model).values()
    assert (expected.rank, expected.axis, expected.size) == (4, 1, 5)
    assert expected.layer.startswith("conv1 = Conv2d(5")
    assert expectations(trace(Two()).train, Two()) == {}


@pytest.mark.parametrize(
    ("layer", "good", "bad"),
    [
        (nn.Conv2d(3, 2, 1), [(2, 3, 9, 9), (3, 9, 9)], [(2, 4, 9, 9), (4, 9, 9), (9, 9)]),
        (nn.Conv1d(3, 2, 1), [(2, 3, 9), (3, 9)], [(2, 9, 3), (3,), (2, 3, 3, 3)]),
        (nn.Linear(3, 2), [(3,), (2, 3), (4, 2, 3)], [(2,), (3, 2), (3, 3, 4)]),
    ],
)
def test_shapes_are_compared_with_the_layer(
    layer: nn.Module, good: list[tuple[int, ...]], bad: list[tuple[int, ...]]
) -> None:
    model = nn.Sequential(layer)
    expected = expectations(trace(model).train, model)["input"]
    assert [expected.mismatch(shape) for shape in good] == [None] * len(good)
    assert all("0 = " in (expected.mismatch(shape) or "") for shape in bad)
