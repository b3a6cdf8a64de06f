"""Coarse and guess networks: they fit, cost little, keep zero, and come from their own seed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.errors import CoarseError, MethodError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.methods import Method
from pararealize.ir.serialise import read
from pararealize.models import odenet, resnet, vgg11, vgg16, vit

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: resnet(47, width=4), (2, 3, 32, 32)),
    "vgg": (lambda: vgg11(head="small", width=4, classes=10, batch_norm=True), (2, 3, 32, 32)),
    "dense": (lambda: odenet(9, width=8, in_features=6), (2, 6)),
    "conv": (lambda: odenet(9, width=4, kind="conv"), (2, 1, 28, 28)),
}
KINDS = ("network", "fine", "identity", "rediscretized", "factored", "auto")
#: VGG has no residual layers, and its last subnetwork flattens images.
CASES = [
    (name, kind)
    for name in NETWORKS
    for kind in KINDS
    if name != "vgg" or kind not in {"identity", "rediscretized"}
]


def compiled(name: str, n: int = 3, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    return pararealize(NETWORKS[name][0](), n, method=Parareal(**options))


def inputs_of(name: str) -> Tensor:
    return torch.randn(NETWORKS[name][1])


def states(net: ParallelNetwork, j: int) -> tuple[TensorSpec, TensorSpec]:
    """Specs before and after subnetwork j."""
    before, after = net.plan.pieces[j - 2].state, net.plan.pieces[j - 1].state
    return TensorSpec.parse(*before), TensorSpec.parse(*after or before)


def coarse(net: ParallelNetwork, j: int) -> nn.Module:
    return net.graph_module.get_submodule(f"coarse.{j}")


def kinds(net: ParallelNetwork) -> list[str]:
    """Which coarse propagators subnetworks 2 … n have."""
    return [piece.coarse for piece in net.plan.pieces[1:]]


def weighted(module: nn.Module) -> int:
    return sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in module.modules())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_difference_corrections_run_forward_and_backward(name: str, kind: str) -> None:
    net = compiled(name, coarse=kind, correction="difference", guess="coarse")
    out = net(inputs_of(name))
    assert out.shape == (2, 10)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_residual_corrections_fit_and_keep_zero(name: str, kind: str) -> None:
    net = compiled(name, coarse=kind)
    before, after = states(net, 2)
    assert coarse(net, 2)(torch.randn(before.shape)).shape == after.shape
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
        for mode in (True, False):
            assert not coarse(net.train(mode), 2)(torch.zeros(before.shape)).any()


def test_own_layers_are_positively_homogeneous() -> None:
    net = compiled("resnet", coarse_budget=1).eval()
    assert net.plan.pieces[1].coarse == "own layers"
    jump = torch.randn(states(net, 2)[0].shape)
    torch.testing.assert_close(coarse(net, 2)(3 * jump), 3 * coarse(net, 2)(jump))
    assert not [m for m in net.coarse.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("guess", ["network", "coarse"])
def test_difference_corrections_keep_biases_and_normalise_by_no_batch(guess: str) -> None:
    """A batch is another one for each of the two states, and in eval mode there is none."""
    method = Parareal(correction="difference", coarse_budget=1, guess=guess)
    net = pararealize(resnet(47, width=4), 3, method=method)
    assert kinds(net) == ["own layers"] * 2
    assert not [m for m in net.coarse.modules() if isinstance(m, nn.BatchNorm2d)]
    net.coarse.train()
    state = torch.randn(states(net, 2)[0].shape)
    trained = coarse(net, 2)(state)
    net.coarse.eval()
    assert torch.equal(coarse(net, 2)(state), trained)


def test_difference_corrections_keep_what_normalises_samples() -> None:
    net = pararealize(vit(8, width=16), 3, method=Parareal(coarse_depth=2, correction="difference"))
    assert [m for m in net.coarse.modules() if isinstance(m, nn.LayerNorm)]


@pytest.mark.parametrize("budget", [0.02, 0.25, 1.0])
def test_the_budget_bounds_own_layers(budget: float) -> None:
    net = compiled("resnet", coarse_budget=budget)
    for piece in net.plan.pieces[1:]:
        if piece.coarse == "own layers":
            assert piece.coarse_seconds <= budget * piece.seconds


def test_above_the_budget_networks_are_generic() -> None:
    assert kinds(compiled("resnet", coarse_budget=1)) == ["own layers"] * 2
    assert "generic" in kinds(compiled("resnet", coarse_budget=1e-6))


def test_the_depth_is_the_least_number_of_layers() -> None:
    found = []
    for depth in range(5):
        model = odenet(20, width=8, in_features=6)
        net = pararealize(model, 2, method=Parareal(coarse_depth=depth, coarse_budget=1))
        found.append((net.plan.pieces[1].coarse, weighted(net.coarse)))
    assert [count for _, count in found[1:]] == [1, 2, 3, 4]
    assert found[0][0] != "own layers"


@pytest.mark.parametrize(("coarse", "more"), [("network", 2), ("thinned", 2), ("stepped", 3)])
def test_every_subnetwork_may_have_a_depth_of_its_own(coarse: str, more: int) -> None:
    """Steps come besides the opening layer of the first subnetwork."""
    method = Parareal(coarse, "difference", guess="coarse", coarse_depth=(3, 1), coarse_budget=1)
    net = pararealize(odenet(20, width=8, in_features=8), method=method)  # as many as depths
    assert net.plan.n == 2
    counts = [weighted(net.coarse[j]) for j in ("1", "2")]
    assert counts[0] - counts[1] == more
    assert read(Method, json.loads(net.plan.to_json())["method"]) == method
    with pytest.raises(MethodError, match=r"\(3, 1\)\) is for 2 subnetworks, and there are 3"):
        pararealize(odenet(20, width=8, in_features=8), 3, method=method)


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.linear(x)))


def test_stepped_copies_start_with_steps_as_long_as_those_they_stand_for() -> None:
    model = nn.Sequential(*(_Dropping() for _ in range(10))).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=2)
    net = pararealize(model, 2, method=method, example_inputs=(x,), interfaces=["4"])
    assert kinds(net) == ["stepped 2"]
    wanted = x + torch.tanh(model[0].linear(x))  # the opening layer has no state before it
    for i in (1, 3):
        wanted = wanted + 2 * torch.tanh(model[i].linear(wanted))
    assert torch.equal(net.coarse["1"].train()(x), wanted)  # and nothing is left out at random


def test_where_no_residual_blocks_repeat_a_stepped_copy_is_a_thinned_one() -> None:
    model = vgg16(head="small", width=4, classes=10)
    method = Parareal("stepped", "difference", guess="coarse")
    net = pararealize(model, 2, method=method, example_inputs=(torch.randn(2, 3, 32, 32),))
    assert [piece.coarse for piece in net.plan.pieces] == ["thinned 1"] * 2


@pytest.mark.parametrize("kind", ["stepped", "thinned"])
def test_where_there_is_nothing_to_leave_out_a_copy_is_whole(kind: str) -> None:
    model, x = resnet(20, width=4).double().eval(), torch.randn(2, 3, 32, 32).double()
    method = Parareal(kind, "difference", guess="coarse")
    cuts = ["layer1.0", "layer2.0"]
    net = pararealize(model, 3, method=method, example_inputs=(x,), interfaces=cuts).eval()
    assert "whole" in kinds(net)
    at = kinds(net).index("whole") + 2
    state = torch.randn(states(net, at)[0].shape).double()
    assert torch.equal(net.coarse[str(at)](state), net.propagators[f"fine.{at}"](state))
    assert net.plan.pieces[at - 1].coarse_seconds == pytest.approx(net.plan.pieces[at - 1].seconds)


def test_layers_that_change_the_shape_count_as_depth() -> None:
    nets = [
        pararealize(resnet(47, width=4), 3, method=Parareal(coarse_depth=d, coarse_budget=1))
        for d in (0, 1, 2)
    ]
    blocks = [weighted(net.coarse["2"]) for net in nets]
    assert blocks[0] == blocks[1] < blocks[2]
    assert any("shortcut" in name for name, _ in nets[0].coarse["2"].named_modules())


def test_fresh_networks_share_nothing_with_the_fine_ones() -> None:
    net = compiled("resnet")
    fine = {p.data_ptr() for name, p in net.named_parameters() if not name.startswith("coarse")}
    added = list(net.coarse.parameters())
    assert added
    assert not fine & {p.data_ptr() for p in added}
    assert all(p.requires_grad for p in added)


def test_frozen_models_get_trainable_coarse_networks() -> None:
    model = resnet(20, width=4).requires_grad_(False)
    net = pararealize(model, 3)
    assert all(p.requires_grad for p in (*net.coarse.parameters(), *net.guess.parameters()))
    assert not net.conv1.weight.requires_grad


@pytest.mark.parametrize("kind", ["fine", "identity", "rediscretized"])
def test_kinds_without_new_parameters(kind: str) -> None:
    net = compiled("dense", coarse=kind, guess="coarse")
    assert list(net.state_dict()) == list(NETWORKS["dense"][0]().state_dict())
    assert net.plan.added_parameters == 0


def test_rediscretization_lengthens_the_first_step() -> None:
    net = compiled("dense", n=2, coarse="rediscretized", correction="difference").double()
    assert net.plan.head == "closing.0"
    first, c = net.plan.pieces[1].layers[0], net.plan.pieces[1].depth
    step = net.get_submodule(first)
    x = torch.randn(2, 8, dtype=torch.float64)
    euler = step.dt * torch.tanh(step.linear(x))
    torch.testing.assert_close(coarse(net, 2)(x), x + c * euler, rtol=1e-12, atol=1e-12)


def test_rediscretization_shares_the_fine_weights() -> None:
    net = compiled("dense", n=2, coarse="rediscretized", correction="difference")
    step = net.get_submodule(net.plan.pieces[1].layers[0])
    x = torch.randn(2, 8)
    with torch.no_grad():
        step.linear.weight.zero_()
        step.linear.bias.zero_()
    assert torch.equal(coarse(net, 2)(x), x)
    assert not hasattr(net, "coarse")


def test_rediscretization_needs_residual_layers() -> None:
    with pytest.raises(CoarseError) as caught:
        compiled("vgg", coarse="rediscretized")
    text = str(caught.value)
    assert "no 'rediscretized' coarse propagator for subnetwork 2 (features." in text
    assert "no two neighbouring residual layers" in text
    assert "Parareal(coarse='network')" in text


def test_identity_is_the_state_itself_or_padded() -> None:
    dense = compiled("dense", coarse="identity", correction="difference")
    x = torch.randn(2, 8)
    assert torch.equal(coarse(dense, 2)(x), x)
    net = compiled("resnet", coarse="identity", correction="difference")
    before, after = states(net, 2)
    assert after.shape[1] > before.shape[1]
    state = torch.ones(before.shape)
    result = coarse(net, 2)(state)
    assert result.shape == after.shape
    assert torch.equal(result[:, : before.shape[1]], torch.ones_like(result)[:, : before.shape[1]])
    assert not result[:, before.shape[1] :].any()


def test_auto_takes_what_contracts_and_says_how_much() -> None:
    for piece in compiled("dense", coarse="auto").plan.pieces[1:]:
        assert piece.coarse == "identity"
        assert piece.error is not None
        assert 0 < piece.error < 0.5


def test_auto_rediscretizes_where_the_identity_does_not_contract() -> None:
    model = odenet(16, width=8, in_features=6)
    with torch.no_grad():
        for step in model.steps:
            step.linear.weight.copy_(-2 * torch.eye(8))
            step.linear.bias.zero_()
        model.opening[1].weight.mul_(0.1)
    net = pararealize(model, 3, method=Parareal(coarse="auto"))
    assert kinds(net) == ["rediscretized"] * 2


def test_auto_builds_a_network_where_nothing_contracts() -> None:
    net = compiled("resnet", coarse="auto")
    for piece in net.plan.pieces[1:]:
        assert piece.coarse in {"own layers", "generic"}
        assert piece.error is None


def test_auto_measures_on_the_given_inputs() -> None:
    torch.manual_seed(0)
    model, method = Growing(), Parareal(coarse="auto")
    small, large = (torch.randn(2, 4) * scale for scale in (1e-3, 3.0))
    assert kinds(pararealize(model, 2, method=method, example_inputs=(small,))) == ["identity"]
    assert kinds(pararealize(model, 2, method=method, example_inputs=(large,))) != ["identity"]


class Growing(nn.Module):
    """Nearly the identity at small states, far from it at large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x) * x.abs().clamp(max=4)
        return x


class Recorder:
    """A user's factory that remembers how it was called."""

    def __init__(self, make: Callable[..., object]) -> None:
        self.make, self.calls = make, list[Any]()

    def __call__(self, fine: nn.Module, before: TensorSpec, after: TensorSpec) -> Any:
        self.calls.append((fine, before, after))
        return self.make(before, after)


def linear(before: TensorSpec, after: TensorSpec) -> nn.Module:
    return nn.Linear(before.shape[-1], after.shape[-1])


def test_a_users_factory_is_given_fine_and_interfaces() -> None:
    factory = Recorder(linear)
    net = compiled("dense", coarse=factory)
    spec = TensorSpec((2, 8))
    assert [call[1:] for call in factory.calls] == [(spec, spec)] * 2
    fine = factory.calls[0][0]
    assert fine(torch.randn(2, 8)).shape == (2, 8)
    assert isinstance(net.coarse["2"], nn.Linear)
    assert {name.split(".")[0] for name in net.state_dict()} >= {"coarse", "guess", "steps"}


class TwoInputs(nn.Module):
    """No single input that a coarse network could start from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x + other)))


def test_a_refusal_names_what_is_known_and_advises_another_kind() -> None:
    method, given = Parareal(coarse="identity", guess="coarse"), (torch.ones(2, 4),) * 2
    with pytest.raises(CoarseError) as caught:
        pararealize(TwoInputs(), 2, method=method, example_inputs=given)
    assert "none is known from the inputs to [2, 4] float32" in str(caught.value)
    assert "Parareal(coarse='network')" in str(caught.value)
    method = Parareal(coarse="network", guess="coarse")
    assert pararealize(TwoInputs(), 2, method=method, example_inputs=given).plan.n == 2


class Adding(nn.Module):
    """Adds in place to what a layer made that a coarse network leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Linear(4, 4) for _ in range(3))
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.b(torch.tanh(self.a(x))).add_(x)
        return self.last(torch.cat([y, x], 1))


def test_a_thin_network_writes_on_nothing_that_autograd_needs() -> None:
    method = Parareal(correction="difference", guess="coarse", coarse_budget=1.0)
    given = (torch.randn(2, 4),)
    net = pararealize(Adding(), 2, method=method, example_inputs=given, interfaces=["%cat"])
    net(*given).sum().backward()
    assert all(parameter.grad is not None for parameter in net.get_submodule("coarse").parameters())


def test_a_users_factory_names_the_kind() -> None:
    def mine(fine: nn.Module, before: TensorSpec, after: TensorSpec) -> nn.Module:
        return nn.Linear(8, 8)

    net = compiled("dense", coarse=mine)
    assert [p.coarse for p in net.plan.pieces] == ["none", "mine", "mine"]
    assert net.plan.pieces[1].coarse_parameters == 72
    assert "mine" in net.explain()


def test_a_users_network_that_is_no_network() -> None:
    with pytest.raises(CoarseError, match=r"must return a torch.nn.Module.*returned a int .*2"):
        compiled("dense", coarse=Recorder(lambda *_: 3))


def test_a_users_network_of_another_shape() -> None:
    with pytest.raises(CoarseError) as caught:
        compiled("dense", coarse=Recorder(lambda *_: nn.Linear(8, 5)))
    text = str(caught.value)
    assert "subnetwork 2" in text
    assert "[[2, 8]] to [[2, 5]]" in text
    assert "[[2, 8]]: make its output that shape" in text


def test_a_users_network_that_fails_says_where() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled("dense", coarse=Recorder(lambda *_: nn.Linear(5, 8)))


def test_weights_come_from_the_methods_seed() -> None:
    first, again = compiled("resnet", seed=1), compiled("resnet", seed=1)
    other = compiled("resnet", seed=2)
    added = [name for name in first.state_dict() if name.startswith(("coarse.", "guess."))]
    weights = [n for n in added if n.endswith("weight") and first.state_dict()[n].dim() > 1]
    assert weights
    assert all(torch.equal(first.state_dict()[n], again.state_dict()[n]) for n in added)
    assert not any(torch.equal(first.state_dict()[n], other.state_dict()[n]) for n in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_random_state_is_left_alone(kind: str) -> None:
    model = NETWORKS["dense"][0]()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pararealize(model, 3, method=Parareal(coarse=kind))
    assert torch.equal(before, torch.get_rng_state())


def test_added_networks_have_the_models_dtype() -> None:
    net = pararealize(resnet(20, width=4).double(), 3)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


def test_guesses_have_the_interfaces_shapes() -> None:
    for name in NETWORKS:
        net, x = compiled(name), inputs_of(name)
        for j in (1, 2):
            spec = TensorSpec.parse(*net.plan.pieces[j - 1].state)
            assert net.guess[str(j)](x).shape == spec.shape
            assert net.plan.pieces[j].guess_parameters == sum(
                p.numel() for p in net.guess[str(j)].parameters()
            )


def test_nothing_is_built_that_no_sweep_applies() -> None:
    for options in ({"iterations": 3}, {"iterations": 0}):
        net = compiled("dense", **options)
        assert not hasattr(net, "coarse")
        assert hasattr(net, "guess") == (options["iterations"] == 0)


def test_the_users_hooks_stay_on_the_users_layers() -> None:
    model, seen = odenet(9, width=8, in_features=6), []
    for step in model.steps:
        step.linear.register_forward_hook(lambda *_: seen.append(1))
    net = pararealize(model, 3, method=Parareal(coarse_budget=1))
    seen.clear()
    net(torch.randn(2, 6))
    assert len(seen) == 9
