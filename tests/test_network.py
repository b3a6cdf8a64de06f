"""The emitted module: called, trained, copied, compiled and saved as the original is."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.errors import ShapeError, TraceError
from pararealize.models import ResNet, odenet, resnet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

EXACT = Parareal(coarse="fine", correction="difference")


class Chain(nn.Module):
    """Keyword arguments, two outputs."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 1.0, *, shift: Any = 0.0) -> Any:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * scale
        logits = self.out(x + shift)
        return logits, {"state": x, "both": (x, logits)}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
        self.layers[4].weight = self.layers[1].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def model() -> ResNet:
    torch.manual_seed(0)
    return resnet(20, width=4)


@pytest.fixture
def net(model: ResNet) -> ParallelNetwork:
    return pararealize(model, 3)


@pytest.fixture
def deep() -> ParallelNetwork:
    """A network whose classifier is its head."""
    torch.manual_seed(0)
    net = pararealize(odenet(24, width=8, in_features=6), 3)
    assert net.plan.head == "closing.0"
    return net


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


def train_step(net: nn.Module, batch: int = 4) -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        optimiser.zero_grad()
        functional.cross_entropy(net(images(batch)), torch.arange(batch) % 10).backward()
        optimiser.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


# names and checkpoints


def test_names_are_the_originals_with_two_reserved_prefixes(
    model: ResNet, net: ParallelNetwork
) -> None:
    added = [name for name in net.state_dict() if name.startswith(("coarse.", "guess."))]
    assert [name for name in net.state_dict() if name not in added] == list(model.state_dict())
    assert {name.split(".")[1] for name in added if name.startswith("coarse.")} == {"2", "3"}
    assert {name.split(".")[1] for name in added if name.startswith("guess.")} == {"1", "2"}
    names = [name for name, _ in model.named_modules()]
    assert [name for name, _ in net.named_modules() if name in names] == names
    assert len(dict(net.named_parameters())) == len(list(net.parameters()))


def test_a_serial_checkpoint_loads_strictly(net: ParallelNetwork) -> None:
    other = resnet(20, width=4)
    added = {k: v.clone() for k, v in net.state_dict().items() if k.startswith(("coarse", "guess"))}
    result = net.load_state_dict(other.state_dict(), strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    state = net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in (other.state_dict() | added).items())


def test_a_checkpoint_of_another_network_is_refused(net: ParallelNetwork) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(resnet(11, width=4).state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict(resnet(29, width=4).state_dict())
    state = net.state_dict()
    state.pop(next(name for name in state if name.startswith("coarse.")))
    with pytest.raises(RuntimeError, match=r"Missing key.*coarse\."):
        net.load_state_dict(state)


def test_to_serial_has_the_class_and_todays_weights(model: ResNet, net: ParallelNetwork) -> None:
    before = copy.deepcopy(model.state_dict())
    train_step(net)
    serial = net.to_serial()
    assert type(serial) is ResNet
    state = net.state_dict()
    assert list(serial.state_dict()) == list(model.state_dict())
    assert all(torch.equal(state[k], v) for k, v in serial.state_dict().items())
    assert not torch.equal(serial.state_dict()["conv1.weight"], before["conv1.weight"])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_to_serial_is_a_copy_in_the_networks_mode(net: ParallelNetwork) -> None:
    serial = net.eval().to_serial()
    assert not serial.training
    with torch.no_grad():
        next(serial.parameters()).add_(1)
    assert not torch.equal(next(serial.parameters()), next(net.parameters()))
    assert net.train().to_serial().training


def test_to_serial_keeps_the_modes_of_parts(net: ParallelNetwork) -> None:
    net.layer1.eval()
    serial = net.to_serial()
    assert serial.training
    assert not any(module.training for module in serial.layer1.modules())
    assert all(module.training for module in serial.layer2.modules())


def test_one_subnetwork_is_the_original(model: ResNet) -> None:
    net, x = pararealize(model, 1), images()
    assert same(net, model)
    for mode in (True, False):
        assert torch.equal(net.train(mode)(x), model.train(mode)(x))
    assert same(net, model)


# the graph and what is seen of it


def test_the_code_is_the_schedule_one_node_a_task(net: ParallelNetwork) -> None:
    nodes = [n for n in net.graph_module.graph.nodes if n.op in {"call_module", "call_function"}]
    tasks = net.schedule.tasks
    assert [n.name for n in nodes] == [t.value.replace(".", "_") for t in tasks]
    kinds = {"apply": "call_module", "combine": "call_function"}
    assert [n.op for n in nodes] == [kinds[t.op] for t in tasks]
    assert [n.target for n in nodes if n.op == "call_module"] == [
        t.propagator for t in tasks if t.op == "apply"
    ]
    lines = net.code.splitlines()
    for task in tasks:
        assert sum(f"    {task.value.replace('.', '_')} = " in line for line in lines) == 1
    assert "combine('+-', v1_0, u1_0)" in net.code


def test_quiet_evaluations_are_told_so() -> None:
    net = pararealize(resnet(20, width=4), 3, method=Parareal(iterations=2))
    quiet = [t.value for t in net.schedule if not t.commits]
    nodes = {n.name: n.kwargs for n in net.graph_module.graph.nodes}
    assert quiet
    assert all(nodes[value.replace(".", "_")] == {"commits": False} for value in quiet)
    assert sum(kwargs == {"commits": False} for kwargs in nodes.values()) == len(quiet)


def test_the_report_is_of_the_last_call(net: ParallelNetwork) -> None:
    assert net.report.jumps == ()
    assert "no jumps" in str(net.report)
    net(images())
    report = net.report
    assert [(jump.sweep, jump.interface) for jump in report.jumps] == [(0, 1), (0, 2)]
    assert all(jump.norm > 0 and jump.relative > 0 for jump in report.jumps)
    assert report.largest == max(jump.relative for jump in report.jumps)
    net(images(5))
    assert net.report != report
    assert str(net.report).count("\n") == 2


def test_the_report_of_an_exact_guess_is_zero(model: ResNet) -> None:
    net = pararealize(model, 2, method=Parareal(coarse="fine", guess="coarse")).eval()
    net(images())
    assert net.report.largest == 0.0


def test_the_plan_prints(net: ParallelNetwork) -> None:
    assert "ResNet in 3 subnetworks" in str(net.plan)
    assert "n=3" in repr(net)
    assert f"{len(net.schedule.tasks)} tasks" in repr(net)


# copies and other machinery


def test_copies_compute_the_same_and_share_nothing(net: ParallelNetwork) -> None:
    x = images()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same(twin, net)
        assert torch.equal(twin.eval()(x), net.eval()(x))
        train_step(twin.train())
        assert not torch.equal(twin.eval()(x), net(x))
        assert type(twin.to_serial()) is ResNet
        assert twin.to_serial().state_dict().keys() == net.to_serial().state_dict().keys()
        assert torch.equal(twin.conv1.weight, twin.to_serial().conv1.weight)


def test_a_copy_after_a_call_has_no_report(net: ParallelNetwork) -> None:
    net(images())
    assert copy.deepcopy(net).report.jumps == ()


def test_compiled_by_torch() -> None:
    torch.manual_seed(0)
    method = Parareal(iterations=2, correction="difference", coarse_budget=1)
    layers = [nn.Linear(5, 8), *(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in "abc")]
    net = pararealize(nn.Sequential(*layers, nn.Linear(8, 2)), 3, method=method)
    twin, x = copy.deepcopy(net), torch.randn(6, 5)
    fast = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for module in (fast, net):
        module(x).sum().backward()
    torch.testing.assert_close(twin.state_dict(), net.state_dict())
    torch.testing.assert_close(
        [p.grad for p in twin.parameters()], [p.grad for p in net.parameters()]
    )
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(x), net.eval()(x))


def test_exported_by_torch(deep: ParallelNetwork) -> None:
    x = torch.randn(3, 6)
    exported = torch.export.export(deep.eval(), (x,))
    torch.testing.assert_close(exported.module()(x), deep(x))
    assert set(exported.state_dict) == set(deep.state_dict())


def test_functional_call_replaces_parameters(deep: ParallelNetwork) -> None:
    x = torch.randn(3, 6)
    zeros = {name: torch.zeros_like(p) for name, p in deep.named_parameters()}
    assert not torch.func.functional_call(deep, zeros, (x,)).any()
    assert deep(x).any()


def test_hooks_on_the_network_and_its_layers(net: ParallelNetwork) -> None:
    seen: list[str] = []
    net.register_forward_hook(lambda *_: seen.append("network"))
    net.register_forward_pre_hook(lambda *_: seen.append("before"))
    net.fc.register_forward_hook(lambda *_: seen.append("fc"))
    net.layer2[1].conv2.register_forward_hook(lambda *_: seen.append("conv2"))
    net.fc.register_full_backward_hook(lambda *_: seen.append("backward"))
    net(images()).sum().backward()
    assert seen == ["before", "conv2", "fc", "network", "backward"]


def test_a_hook_may_change_what_a_layer_returns(net: ParallelNetwork, model: ResNet) -> None:
    exact, x = pararealize(model, 3, method=EXACT).eval(), images()
    for module in (exact, model.eval()):
        module.get_submodule("layer1.1.conv2").register_forward_hook(lambda _m, _i, out: 2 * out)
    torch.testing.assert_close(exact(x), model(x))


def test_double_precision(net: ParallelNetwork) -> None:
    x = images().double()
    assert net.double()(x).dtype == torch.float64
    assert net.float()(images()).dtype == torch.float32
    assert {p.dtype for p in net.to_serial().parameters()} == {torch.float32}


def test_bfloat16_autocast(net: ParallelNetwork) -> None:
    x = images(4)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
        loss = functional.cross_entropy(out, torch.arange(4))
    assert out.dtype == torch.bfloat16
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)
    torch.testing.assert_close(out.float(), net(x), rtol=0.2, atol=0.2)


def test_without_gradients(net: ParallelNetwork) -> None:
    with torch.no_grad():
        assert not net(images()).requires_grad
    with torch.inference_mode():
        assert net(images()).is_inference()


# arguments and outputs


@pytest.mark.parametrize("n", [1, 3])
def test_keyword_arguments(n: int) -> None:
    model = Chain().double()
    net, x = pararealize(model, n, method=EXACT), torch.randn(3, 4, dtype=torch.float64)
    shift = torch.randn(3, 4, dtype=torch.float64)
    calls: list[Callable[[nn.Module], Any]] = [
        lambda m: m(x),
        lambda m: m(x=x),
        lambda m: m(x, 0.5),
        lambda m: m(scale=0.5, x=x, shift=shift),
        lambda m: m(x, torch.tensor(2.0), shift=1.0),
    ]
    for call in calls:
        (expected, rest), (found, others) = call(model), call(net)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(others["both"], rest["both"], rtol=1e-12, atol=1e-12)
        assert isinstance(others["both"], tuple)


def test_arguments_that_are_not_the_models() -> None:
    net, x = pararealize(Chain(), 3), torch.randn(3, 4)
    for call in (net, lambda: net(x, scales=1.0), lambda: net(x, 1.0, 2.0, 3.0)):
        with pytest.raises(TypeError):
            call()


def test_outputs_of_the_last_subnetwork_keep_their_structure() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = x, x
            for layer in self.layers:
                a, b = layer(b), torch.tanh(a)
            return a, b

    torch.manual_seed(0)
    net = pararealize(Pair().double(), 2, method=Parareal(coarse="fine", correction="difference"))
    x = torch.randn(3, 4, dtype=torch.float64)
    out = net(x)
    assert isinstance(out, tuple)
    torch.testing.assert_close(out, net.to_serial()(x), rtol=1e-12, atol=1e-12)


def test_batches_of_any_size(net: ParallelNetwork) -> None:
    for batch in (5, 1, 2, 7):
        assert net.eval()(images(batch)).shape == (batch, 10)
    train_step(net.train(), 3)
    assert net.eval()(images(0)).shape == (0, 10)


def test_images_of_other_sizes_where_everything_fits(net: ParallelNetwork) -> None:
    for side in (8, 16, 32):
        assert net.eval()(torch.randn(2, 3, side, side)).shape == (2, 10)


# parts of it


def test_freezing_a_part(net: ParallelNetwork) -> None:
    net.layer1.requires_grad_(False)
    net(images(4)).sum().backward()
    frozen = list(net.layer1.parameters())
    assert all(p.grad is None for p in frozen)
    others = [p for p in net.parameters() if all(p is not q for q in frozen)]
    assert all(p.grad is not None for p in others)


def test_a_new_classifier_takes_effect(deep: ParallelNetwork) -> None:
    deep.closing = nn.Linear(8, 3)
    with pytest.raises(TraceError, match=r"traced with 'closing.0', and there is no '0' in Linear"):
        deep(torch.randn(2, 6))
    deep.closing = nn.Sequential(nn.Linear(8, 3))
    x = torch.randn(2, 6)
    assert deep(x).shape == (2, 3)
    assert deep.to_serial()(x).shape == (2, 3)
    assert deep.state_dict()["closing.0.weight"].shape == (3, 8)


def test_a_new_head_of_a_resnet_takes_effect() -> None:
    net = pararealize(resnet(56, width=4), 3)
    assert net.plan.head
    net.fc = nn.Linear(64, 7)
    assert net(images()).shape == (2, 7)
    net(images()).sum().backward()
    assert net.fc.weight.grad is not None
    assert net.to_serial()(images()).shape == (2, 7)


def test_a_replaced_layer_takes_effect(model: ResNet) -> None:
    net, x = pararealize(model, 3, method=EXACT).eval(), images()
    before = net(x)
    net.layer2[1].conv2 = nn.Conv2d(8, 8, 1)
    assert not torch.allclose(net(x), before)
    torch.testing.assert_close(net(x), net.to_serial()(x), rtol=1e-4, atol=1e-5)


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    net = pararealize(model, 3)
    layers = net.layers
    assert layers[1].weight is layers[4].weight
    assert len(list(net.layers.parameters())) == len(list(model.parameters()))
    assert sum(p.parameters for p in net.plan.pieces) >= sum(p.numel() for p in model.parameters())
    serial = net.to_serial()
    assert serial.layers[1].weight is serial.layers[4].weight


# modes


def test_modes_reach_layers_and_root(net: ParallelNetwork) -> None:
    for mode in (False, True):
        net.train(mode)
        assert all(module.training == mode for module in net.modules())
        assert net.to_serial().training == mode


def test_evaluation_is_deterministic_and_moves_nothing(net: ParallelNetwork) -> None:
    state, x = copy.deepcopy(net.eval().state_dict()), images()
    assert torch.equal(net(x), net(x))
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


def test_training_moves_batch_statistics_once(net: ParallelNetwork) -> None:
    net.train()(images(4))
    counts = [v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert {int(count) for count in counts} == {1}


# errors


def test_an_exception_says_in_which_subnetwork(net: ParallelNetwork) -> None:
    net.layer2[0].conv2 = nn.Conv2d(5, 8, 3)
    with pytest.raises(RuntimeError) as caught:
        net(images())
    (note,) = caught.value.__notes__
    assert note.startswith("in subnetwork ")
    assert "layer" in note
    assert "torch.float32" in note
    assert "[2, " in note


def test_an_exception_in_the_head_says_so(deep: ParallelNetwork) -> None:
    deep.closing[0] = nn.Linear(7, 3)
    with pytest.raises(RuntimeError) as caught:
        deep(torch.randn(2, 6))
    (note,) = caught.value.__notes__
    assert note.startswith("in the head (closing.0), at closing_0 = ")
    assert note.endswith("called with [2, 8] torch.float32")


@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (1, 16, 16), (16, 16), (2, 3, 4, 16, 16)])
def test_an_input_that_does_not_fit_is_named(net: ParallelNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        net(torch.randn(shape))
    text = str(caught.value)
    assert f"'images' has shape {list(shape)}" in text
    assert "conv1 = Conv2d(3, 4" in text
    with pytest.raises(ShapeError):
        net(images=torch.randn(shape))


def test_guesses_fit_sizes_that_are_rounded_otherwise() -> None:
    layers = [nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(4)]
    model = nn.Sequential(layers[0], nn.MaxPool2d(2), *layers[1:])
    net = pararealize(model, 2, interfaces=["1"], example_inputs=(torch.zeros(2, 1, 8, 8),))
    assert net(torch.randn(2, 1, 12, 12)).shape == (2, 4, 6, 6)
    assert net(torch.randn(2, 1, 9, 9)).shape == (2, 4, 4, 4)


# n


def test_auto_chooses_the_least_predicted_time() -> None:
    torch.manual_seed(0)
    model = odenet(30, width=256, in_features=16)
    best = pararealize(model)
    assert best.plan.n > 1
    others = [pararealize(model, n).plan for n in {1, best.plan.n - 1, best.plan.n + 1}]
    assert all(best.plan.parallel_seconds <= plan.parallel_seconds for plan in others)
    assert best(torch.randn(2, 16)).shape == (2, 10)


def test_auto_leaves_small_networks_serial() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    net = pararealize(model, "auto")
    assert net.plan.n == 1
    assert torch.equal(net(torch.ones(1, 4)), model(torch.ones(1, 4)))
