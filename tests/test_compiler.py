"""The compiler as a whole: what it decides, says and leaves alone."""

import copy
import warnings
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pararealize import (
    Machine,
    ParallelNetwork,
    Parareal,
    Plan,
    Schedule,
    SlowerThanSerialWarning,
    pararealize,
)
from pararealize.models import odenet, resnet, resnet1001, vgg16


def mlp() -> nn.Sequential:
    sizes = (16, 32, 32, 32, 10)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@cache
def deepest() -> ParallelNetwork:
    torch.manual_seed(0)
    return pararealize(resnet1001(), 6, verify=False)


def test_a_small_network_is_said_to_lose() -> None:
    with pytest.warns(SlowerThanSerialWarning, match="will LOSE") as caught:
        net = pararealize(mlp(), 4)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    text = " ".join(net.explain().split())
    assert net.plan.speedup < 1
    assert "This will LOSE: predicted 0." in text
    assert "too small for the messages and corrections" in text
    assert "Use fewer subnetworks, or n=1" in text


def test_a_network_that_gains_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pararealize(resnet(110), 2).plan.speedup > 1
        pararealize(mlp(), 1)


def test_resnet1001_adds_little() -> None:
    plan = deepest().plan
    assert plan.n == 6
    assert plan.added_parameters <= 0.10 * plan.parameters
    assert plan.coarse_share <= 0.10
    assert plan.speedup > 5
    assert plan.parameters == 10_327_706


def test_resnet1001_is_explained() -> None:
    text = deepest().explain()
    assert "ResNet in 6 subnetworks" in text
    assert "Predicted 5." in text
    assert "layer3.110" in text
    for piece in deepest().plan.pieces[1:]:
        assert f"{piece.coarse_parameters:,}" in text
        assert piece.coarse in text
    assert "Added parameters: " in text
    assert "LOSE" not in text


def test_vgg16_with_imagenet_inputs() -> None:
    with torch.device("meta"):
        shape = vgg16()(torch.empty(2, 3, 224, 224)).shape
    assert shape == (2, 1000)
    net = pararealize(vgg16(head="small", classes=10, width=16), 3)
    assert net.plan.n == 3
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_what_the_network_carries() -> None:
    net = deepest()
    assert isinstance(net, nn.Module)
    assert isinstance(net.plan, Plan)
    assert isinstance(net.schedule, Schedule)
    assert net.plan.method == Parareal()
    assert "u1_0" in net.code


def test_compiling_leaves_the_model_alone() -> None:
    model = resnet(20, width=4)
    model.layer1.eval()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    flags = [module.training for module in model.modules()]
    ids = [id(p) for p in model.parameters()]
    net = pararealize(model, 3, method=Parareal(coarse="auto"), cost="measured")
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert flags == [module.training for module in model.modules()]
    assert ids == [id(p) for p in model.parameters()]
    assert not set(ids) & {id(p) for p in net.parameters()}
    assert all(p.grad is None for p in model.parameters())
    after = torch.get_rng_state()
    torch.set_rng_state(random)
    torch.randn(2, 3, 16, 16)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_compiling_twice_gives_the_same_network() -> None:
    torch.manual_seed(0)
    model, x = resnet(20, width=4).eval(), torch.randn(2, 3, 16, 16)
    first, second = pararealize(model, 3), pararealize(model, 3)
    assert first.plan == second.plan
    assert first.schedule == second.schedule
    assert torch.equal(first(x), second(x))


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_named_interfaces_fix_the_cuts() -> None:
    model = resnet(20, width=4)
    net = pararealize(model, 3, interfaces=["layer1", "layer2"])
    assert [piece.module for piece in net.plan.pieces] == ["layer1.1", "layer2.1", ""]
    assert pararealize(model, interfaces=["layer2"]).plan.n == 2
    again = pararealize(model, 3, interfaces=net.plan.cuts)
    assert again.plan == net.plan


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_skips_are_cut_through_tuples() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            old, new = x, self.layers[0](x)
            for layer in self.layers[1:]:
                old, new = new, torch.tanh(layer(new)) + 0.5 * old
            return new

    torch.manual_seed(0)
    model, x = Skips().double(), torch.randn(3, 4, dtype=torch.float64)
    net = pararealize(model, 4, method=Parareal(coarse="fine", correction="difference"))
    assert max(len(piece.state) for piece in net.plan.pieces) > 1
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "n"), [("network", 3), ("network", 4), ("auto", 3), ("auto", 4), ("identity", 3)]
)
@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_tuples_take_coarse_networks(kind: str, n: int) -> None:
    class TwoStreams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.layers[0](x), self.layers[1](x)
            for layer in self.layers[2:]:
                a, b = b, a + torch.tanh(layer(b))
            return self.last(a * b)

    net = pararealize(TwoStreams(), n, method=Parareal(coarse=kind, guess="coarse"))
    net(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_layers_made_of_layers() -> None:
    torch.manual_seed(0)
    layers = (nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True) for _ in range(5))
    x = torch.randn(3, 5, 8)
    net = pararealize(nn.Sequential(*layers), 2, example_inputs=(x,))
    assert net.eval()(x).shape == x.shape
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_machine_decides_the_prediction() -> None:
    model = odenet(32, width=32, in_features=8)
    machine = Machine(launch_seconds=0.0, flops_per_second=1e3)
    plan = pararealize(model, 4, machine=machine).plan
    assert plan.machine == machine
    assert plan.speedup > 2


@pytest.mark.parametrize("n", ["auto", 1, 2])
@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_counts_of_subnetworks(n: int | str) -> None:
    plan = pararealize(mlp(), n).plan
    assert plan.n == (1 if n == "auto" else n)
