"""State that moves as in the serial network, once a step: buffers, modes, masks, names."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from networks import Step, assert_equal_steps, seeded, step
from pararealize import ParallelNetwork, Parareal, load, pararealize
from pararealize.cli.zoos import import_torchvision
from pararealize.errors import ModelSpecError, TraceError

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
]
Block = Callable[[], nn.Module]
FINE = Parareal(coarse="fine", correction="difference")
SWEEPS = Parareal(iterations=3)
every_exact = pytest.mark.parametrize("method", [FINE, SWEEPS], ids=["fine", "sweeps"])
every_method = pytest.mark.parametrize(
    "method", [FINE, SWEEPS, Parareal()], ids=["fine", "sweeps", "default"]
)
BATCH, CHANNELS, WIDTH = 6, 4, 5
ROUNDING = 1e-9  # of three corrected training steps in float64; a wrong state is off by 1e-3


def layer() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def then(part: Block, first: Block = layer) -> Block:
    return lambda: nn.Sequential(first(), part(), nn.Tanh())


class DropPath(nn.Module):
    """Leaves out whole samples, by numbers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, dtype=x.dtype) > 0.3) / 0.7


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = layer()

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.dropout(self.map(x).tanh(), 0.3, self.training)


class Moving(nn.Module):
    """Counts its calls and keeps a moving average, each in one of the ways people write it."""

    def __init__(self, how: str, persistent: bool = True) -> None:
        super().__init__()
        self.how, self.calls, self.last = how, 0, torch.zeros(())
        self.map = layer()
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=persistent)
        self.register_buffer("average", torch.zeros(WIDTH), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x).tanh()
        mean = y.detach().mean((0, 1))
        if self.training and self.how == "in place":
            self.count += 1
            self.average.mul_(0.9).add_(0.1 * mean)
        elif self.training and self.how == "copied":
            with torch.no_grad():
                self.average.copy_(0.9 * self.average + 0.1 * y.mean((0, 1)))
        elif self.training and self.how == "replaced":
            self.count, self.average = self.count + 1, 0.9 * self.average + 0.1 * mean
        elif self.training and self.how == "plain":
            self.calls, self.last = self.calls + 1, y
        return y / (1 + self.calls) - 0.1 * self.average


class Positions(nn.Module):
    """Parameters of the root, learned positions and a list of parameters, used all along."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*(then(nn.Tanh)() for _ in range(3)))
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.positions, self.embedding = nn.Parameter(torch.randn(4, 5)), nn.Embedding(4, WIDTH)
        self.register_buffer("index", torch.arange(CHANNELS), persistent=False)
        self.shifts = nn.ParameterList(nn.Parameter(torch.randn(WIDTH)) for _ in range(3))
        self.second = nn.Sequential(*(then(nn.Tanh)() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x + self.positions + self.embedding(self.index)) * self.scale
        for shift in self.shifts:
            x = x + shift
        return self.second(x) * self.scale


def frozen_norm() -> nn.Module:
    return nn.BatchNorm1d(CHANNELS).eval()


def stochastic_depth() -> nn.Module:
    try:
        import_torchvision()
    except ModelSpecError:
        pytest.skip("no torchvision")
    from torchvision.ops import StochasticDepth  # noqa: PLC0415  # only after the above

    return StochasticDepth(0.3, "row")


def symmetric() -> nn.Module:
    class Symmetric(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.triu() + w.triu(1).T

    return nn.utils.parametrize.register_parametrization(layer(), "weight", Symmetric())


BLOCKS: dict[str, Block] = {
    "batch norm": then(partial(nn.BatchNorm1d, CHANNELS)),
    "cumulative batch norm": then(partial(nn.BatchNorm1d, CHANNELS, momentum=None)),
    "untracked batch norm": then(partial(nn.BatchNorm1d, CHANNELS, track_running_stats=False)),
    "synchronised batch norm": then(partial(nn.SyncBatchNorm, CHANNELS)),
    "instance norm": then(partial(nn.InstanceNorm1d, CHANNELS, track_running_stats=True)),
    "group norm": then(partial(nn.GroupNorm, 2, CHANNELS)),
    "layer norm": then(partial(nn.LayerNorm, WIDTH)),
    "dropout": then(partial(nn.Dropout, 0.3)),
    "alpha dropout": then(partial(nn.AlphaDropout, 0.3)),
    "functional dropout": Functional,
    "drop path": then(DropPath),
    "stochastic depth": then(stochastic_depth),
    "weight norm": then(nn.Tanh, lambda: parametrizations.weight_norm(layer())),
    "spectral norm": then(nn.Tanh, lambda: parametrizations.spectral_norm(layer())),
    "orthogonal": then(nn.Tanh, lambda: parametrizations.orthogonal(layer())),
    "symmetric": then(nn.Tanh, symmetric),
    "weight norm of old": then(nn.Tanh, lambda: nn.utils.weight_norm(layer())),
    "spectral norm of old": then(nn.Tanh, lambda: nn.utils.spectral_norm(layer())),
    "written in place": partial(Moving, "in place"),
    "written in place, not saved": partial(Moving, "in place", persistent=False),
    "copied": partial(Moving, "copied"),
    "replaced": partial(Moving, "replaced"),
    "plain attributes": partial(Moving, "plain"),
    "root's parameters": Positions,
}
every_block = pytest.mark.parametrize("name", BLOCKS)


def model_of(name: str) -> nn.Module:
    build = BLOCKS[name]
    layers = [build() for _ in range(1 if name == "root's parameters" else 4)]
    return (nn.Sequential(*layers) if len(layers) > 1 else layers[0]).double()


def batch(seed: int = 0) -> Tensor:
    with seeded(seed):
        return torch.randn(BATCH, CHANNELS, WIDTH, dtype=torch.float64)


def compiled(model: nn.Module, method: Parareal, n: int = 3) -> ParallelNetwork:
    return pararealize(model, n, method=method, example_inputs=(batch(),))


def trained(module: nn.Module, names: nn.Module, seed: int) -> Step:
    """One step of stochastic gradient descent."""
    found = step(module, names, batch(seed), seed)
    with torch.no_grad():
        for name, _ in names.named_parameters():
            module.get_parameter(name).sub_(0.05 * found.gradients[name])
    return found


def assert_same_state(found: nn.Module, wanted: nn.Module) -> None:
    left, right = found.state_dict(), wanted.state_dict()
    own = [name for name in left if not name.startswith(("coarse.", "guess."))]
    assert own == list(right)
    assert all(torch.equal(left[name], right[name]) for name in own)


@every_block
def test_training_is_that_of_the_serial_network(name: str) -> None:
    model, method = model_of(name), (FINE, SWEEPS)[list(BLOCKS).index(name) % 2]  # in turn
    net = compiled(model, method)
    assert_same_state(net, model)
    for seed, training in enumerate((True, True, False, True)):
        net.train(training)
        model.train(training)
        assert_equal_steps(trained(net, model, seed), trained(model, model, seed), ROUNDING)


@every_block
def test_names_and_state_go_there_and_back(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    net = compiled(model, Parareal())
    for seed in range(2):
        trained(net, model, seed)
    assert_same_state(net, net.to_serial())
    net.save(tmp_path)
    n = (None, 2)[list(BLOCKS).index(name) % 2]
    assert_same_state(load(tmp_path, model_of(name), n=n), net.to_serial())
    net.load_state_dict(model.state_dict())
    assert_same_state(net, model)


@every_block
def test_compiling_and_evaluating_move_nothing(name: str) -> None:
    model = model_of(name)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    net = compiled(model, Parareal())
    for moved in (net.eval(), model):
        moved.eval()(batch())
        assert all(torch.equal(moved.get_buffer(key), b) for key, b in before.items())


@every_method
@pytest.mark.parametrize("name", ["spectral norm", "spectral norm of old", "batch norm"])
def test_what_depends_on_no_input_moves_once_a_step(name: str, method: Parareal) -> None:
    """Power iterations and counts are the serial network's, whatever the guesses."""
    model = model_of(name)
    net = compiled(model, method)
    for seed in range(3):
        model(batch(seed))
        net(batch(seed))
    for key, buffer in model.named_buffers():
        if "running" not in key:
            assert torch.equal(net.get_buffer(key), buffer), key


@every_method
@pytest.mark.parametrize("name", ["written in place", "replaced", "plain attributes"])
def test_calls_are_counted_once_a_step(name: str, method: Parareal) -> None:
    net = compiled(model_of(name), method)
    for seed in range(3):
        net(batch(seed))
    serial = net.to_serial()
    assert all(int(part.count) + part.calls == 3 for part in serial)


@every_exact
@pytest.mark.parametrize("name", ["dropout", "functional dropout", "drop path", "alpha dropout"])
def test_every_step_draws_anew(name: str, method: Parareal) -> None:
    net = compiled(model_of(name), method)
    assert not torch.equal(net(batch()), net(batch()))
    net.eval()
    assert torch.equal(net(batch()), net(batch()))


class WritingRoot(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.steps = how, 0
        self.layers = nn.Sequential(*(layer() for _ in range(4)))
        self.register_buffer("count", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.how == "buffer":
            self.count += 1
        elif self.how == "attribute":
            self.steps += 1
        else:
            self.count.copy_(y[0, 0])
        return y


@pytest.mark.parametrize("how", ["buffer", "attribute", "copy"])
def test_a_root_that_writes_on_itself_is_refused(how: str) -> None:
    attribute = "steps" if how == "attribute" else "count"
    model = WritingRoot(how)
    with pytest.raises(
        TraceError, match=rf"writes on self\.{attribute}.*into the forward of a sub-"
    ):
        pararealize(model, 2)
    assert not model.count.any()
    assert model.steps == 0


def test_modules_called_whole_for_their_state_are_explained() -> None:
    net = compiled(model_of("written in place"), FINE)
    assert "Moving writes on its 'count' when it is called" in str(net.plan.tracing.found)


@every_exact
@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_weights_and_statistics_stay(when: str, method: Parareal) -> None:
    model = model_of("batch norm")

    def freeze(module: nn.Module) -> None:
        module.get_submodule("2").requires_grad_(False)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
                part.get_buffer("running_mean").fill_(0.3)

    if when == "before":
        freeze(model)
    net = compiled(model, method)
    if when == "after":
        freeze(model)
        freeze(net)
    for module in (model, net):
        module(batch()).square().sum().backward()
    for name, wanted in model.named_parameters():
        found = net.get_parameter(name)
        assert (found.grad is None) == (wanted.grad is None) == name.startswith("2."), name
        if wanted.grad is not None and found.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(net.get_buffer(k), buffer) for k, buffer in model.named_buffers())


@every_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_networks_compiled_without_gradients_can_be_trained(
    mode: Callable[[], torch.no_grad], method: Parareal
) -> None:
    model = model_of("batch norm")
    with mode():
        net = compiled(model, method)
        quiet = copy.deepcopy(net)(batch())
    output = net(batch())
    assert torch.equal(output, quiet)
    output.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_hooks_of_the_root_run_as_on_the_original() -> None:
    model = model_of("layer norm")
    model.register_forward_pre_hook(lambda _m, args: (args[0] + 1,))
    model.register_forward_hook(lambda _m, _i, output: 3 * output)
    model.register_full_backward_hook(lambda _m, grads, _o: (2 * grads[0],))
    net = compiled(model, FINE)
    assert_equal_steps(step(net, model, batch()), step(model, model, batch()), ROUNDING)
    net.register_forward_hook(lambda _m, _i, output: -output)
    assert torch.equal(net.to_serial()(batch()), -model(batch()))


def test_activations_that_a_layer_keeps_do_not_keep_it_from_being_copied() -> None:
    model = model_of("plain attributes")
    model(batch())
    net = compiled(model, FINE)
    net(batch())
    kept = net.to_serial()[0].last
    assert kept.grad_fn is None
    assert kept.shape == batch().shape
