"""Profiles: shapes and costs of every value, as a real run has them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pararealize import one_gpu
from pararealize.cost.profile import module_cost, profile, unresolved, without_data
from pararealize.errors import ShapeError
from pararealize.ir.chain import Profile, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet, vgg11
from pararealize.tracing.trace import trace

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: resnet(20), (2, 3, 32, 32)),
    "vgg11": (lambda: vgg11(head="small", width=8, channels=1, batch_norm=True), (3, 1, 28, 28)),
    "odenet": (lambda: odenet(5, width=8, kind="conv"), (1, 1, 12, 12)),
    "attention": (lambda: nn.Sequential(nn.Linear(8, 8), Attention()), (2, 5, 8)),
}


class Attention(nn.Module):
    """Products of activations, which no layer with weights computes."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(x @ x.transpose(1, 2), dim=-1)
        return torch.bmm(weights, x) * x.shape[-1] ** -0.5


class Varied(nn.Module):
    """Attributes, defaults, integers and tuples among the values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.zeros(4))

    def forward(self, x: Tensor, times: float = 2.0) -> Tensor:
        left, right = torch.split(x * self.scale + self.shift, 2, dim=1)
        rows = x.size(0)
        return (left * times + right).reshape(rows, -1).sum(dim=1)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    return build(), torch.randn(shape)


def profiled(model: nn.Module, *inputs: Any, training: bool = True) -> Profile:
    program = trace(model).train
    given = {o.target: x for o, x in zip(program.inputs, inputs, strict=False)}
    return profile(program, model, given, Machine(), training=training)


def total(profile: Profile) -> float:
    return sum(cost.flops for cost in profile.costs.values())


def test_flops_are_those_of_a_real_run(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    for mode in (True, False):
        with FlopCounterMode(display=False) as counter:
            model.train(mode)(x)
        assert total(profiled(model, x, training=mode)) == counter.get_total_flops() > 0


def test_shapes_are_those_of_a_real_run(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    found = profiled(model, x)
    called = {o.target: o.name for o in trace(model).train if o.kind == "module"}
    seen: dict[str, TensorSpec] = {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: TensorSpec(tuple(out.shape))})
        )
    model(x)
    assert called
    assert all(found.specs[value] == seen[path] for path, value in called.items())


def test_nothing_moves(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    profiled(model, x)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_specs_stand_in_for_tensors() -> None:
    model = resnet(11, width=4)
    assert profiled(model, TensorSpec((2, 3, 32, 32))) == profiled(model, torch.zeros(2, 3, 32, 32))


def test_values_that_are_no_tensors_have_no_spec() -> None:
    found = profiled(Varied(), torch.zeros(3, 4))
    assert found.specs["size"] is None
    assert found.specs["split"] is None
    assert found.specs["sum_1"] == TensorSpec((3,))
    assert found.inputs == {"x": TensorSpec((3, 4)), "times": None}


def test_dtypes_are_seen() -> None:
    found = profiled(Varied().double(), torch.zeros(3, 4, dtype=torch.float64))
    assert found.specs["sum_1"] == TensorSpec((3,), torch.float64)


def test_bytes_count_what_is_read_and_written() -> None:
    found = profiled(nn.Sequential(nn.Linear(3, 5)), torch.zeros(2, 3))
    cost = found.costs["_0"]
    assert cost.bytes == 4 * (2 * 3 + 2 * 5 + 3 * 5 + 5)
    assert cost.flops == 2 * 2 * 3 * 5
    assert cost.launches == 1
    assert cost.seconds == Machine().cost(cost.flops, cost.bytes, launches=1).seconds


def test_a_shape_that_does_not_fit_names_layer_and_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 3))
    with pytest.raises(ShapeError) as caught:
        profiled(model, torch.zeros(2, 3, 9, 9))
    text = str(caught.value)
    assert "layer 1 = Conv2d(8, 4" in text
    assert "[2, 4, 7, 7]" in text
    assert "example_inputs=" in text


def test_a_function_that_refuses_is_named_with_its_module() -> None:
    with pytest.raises(ShapeError, match=r"matmul in 1 .*\[2, 5, 8\], \[2, 5, 8\]"):
        profiled(nn.Sequential(nn.Linear(8, 8), Wrong()), torch.zeros(2, 5, 8))


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, x)


def test_equal_layers_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = nn.Linear.forward
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, x: (calls.append(self), forward(self, x))[1]
    )
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)), nn.Linear(4, 2))
    found = profiled(model, torch.zeros(2, 4))
    assert len(calls) == 2
    assert total(found) == 2 * 2 * (9 * 16 + 8)


def test_cost_of_a_module_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    cost = module_cost(module, (TensorSpec((3, 4)),), Machine())
    assert cost.flops == 2 * 3 * (32 + 16)
    assert cost.launches == 2


def test_a_module_without_data_keeps_kinds_and_ties() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    module[0].weight.requires_grad_(False)
    twin = without_data(module)
    assert {t.device.type for t in twin.state_dict().values()} == {"meta"}
    assert twin.get_parameter("0.weight") is twin.get_parameter("2.weight")
    assert not twin.get_parameter("0.weight").requires_grad
    assert {t.device.type for t in module.state_dict().values()} == {"cpu"}


def test_inputs_without_default_are_unresolved() -> None:
    assert unresolved(trace(Varied()).train) == ("x",)


class Attending(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.own = kind, nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return self.own(x, x, x, need_weights=False)[0]
        if self.kind == "function":
            return nn.functional.scaled_dot_product_attention(x, x, x)
        return x.transpose(1, 2).unflatten(1, (2, 4)).detach()


@pytest.mark.parametrize(("kind", "kernels"), [("layer", 6), ("function", 1), ("views", 0)])
def test_kernels_are_those_that_a_device_launches(kind: str, kernels: int) -> None:
    """Attention is fused there, and what looks at memory otherwise is no kernel."""
    spec = (TensorSpec((2, 4, 8), torch.float32),)
    assert module_cost(Attending(kind), spec, one_gpu()).launches == kernels
    assert module_cost(Attending(kind), spec, Machine()).launches == 1  # of the one leaf
