"""Multigrid networks as users use them: training loops, saving, precision, guards, own coarse."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chains import WIDTH, Chain, batch, chain, cuts
from networks import compiled, gradients, relative, seeded, step
from pararealize import MGRIT, load, pararealize
from pararealize.errors import CoarseError, CutError, DivergenceWarning, MethodError
from pararealize.models import resnet
from pararealize.network import ParallelNetwork

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: Sums of a few dozen terms of the order of one, each rounded to 1e-16.
ROUNDING = 1e-12
CONVERGED = 1e-10

#: As many cycles as the four slices, so that all is as serially.
EXACT: dict[str, Any] = {"forward_cycles": 4, "backward_cycles": 4}


def network(
    model: Chain | None = None, n: int = 4, each: int = 2, **options: Any
) -> ParallelNetwork:
    options = {"coarse": "rediscretized", "coarsening": each, **options}
    model = chain(n * each) if model is None else model
    return compiled(model, n, MGRIT(**options), batch(), cuts(n, each))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items()}  # noqa: C416


# names and files


def test_names_are_the_models_and_serial_checkpoints_load() -> None:
    model, other = chain(8, "norm"), chain(8, "norm")
    for p in other.parameters():
        p.data.mul_(1.5)
    net = network(model)
    assert list(net.state_dict()) == list(model.state_dict())
    net.load_state_dict(other.state_dict())
    model.load_state_dict(net.state_dict())
    assert relative(weights(net), weights(other)) == 0
    exact = network(other, **EXACT)
    assert relative({"": exact.eval()(batch())}, {"": other.eval()(batch())}) <= ROUNDING


def test_to_serial_has_todays_weights() -> None:
    net = network(chain(8, "norm"), **EXACT)
    for p in net.parameters():
        p.data.add_(0.1)
    serial = net.eval().to_serial()
    assert type(serial) is Chain
    assert relative(weights(serial), weights(net)) == 0
    assert relative({"": serial(batch())}, {"": net(batch())}) <= ROUNDING


@pytest.mark.parametrize("coarse", ["rediscretized", "mean", "auto", "fitted"])
def test_what_was_saved_does_the_same(coarse: str, tmp_path: Path) -> None:
    method = {"levels": 3, "coarsening": [2, 2], "relaxation": "FCF", "forward_cycles": 2}
    net = network(chain(8, "norm"), coarse=coarse, **method)
    net(batch()).sum().backward()
    net.save(tmp_path / "net")
    found = load(tmp_path / "net", chain(8, "norm")).eval()
    assert found.plan.method == net.plan.method
    assert torch.equal(found(batch()), net.eval()(batch()))


@pytest.mark.parametrize("kind", ["deepcopy", "pickle"])
@pytest.mark.parametrize("coarse", ["rediscretized", "mean"])
def test_copies_do_the_same_with_weights_of_their_own(kind: str, coarse: str) -> None:
    net = network(chain(8, "norm"), coarse=coarse, guess="previous")
    net(batch()).sum().backward()
    net.eval()
    twin = copy.deepcopy(net) if kind == "deepcopy" else pickle.loads(pickle.dumps(net))
    fresh = copy.deepcopy(twin)  # neither knows states of a call before
    before = fresh(batch()).detach().clone()
    assert torch.equal(twin(batch()), before)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    assert not torch.equal(twin(batch()), before)
    assert torch.equal(copy.deepcopy(net)(batch()), before)


# training loops


@pytest.mark.parametrize("storage", ["all", "points"])
def test_gradients_accumulate_over_two_forward_passes(storage: str) -> None:
    """Every backward pass has the masks of its forward pass."""
    model = chain(8, dropout=0.4)
    net = network(model, storage=storage, **EXACT)
    for module in (net, model):
        with seeded(1):
            first, second = module(batch(6, 1)), module(batch(4, 2))
        second.square().sum().backward()
        first.square().sum().backward()
    found = {name: p.grad for name, p in net.named_parameters()}
    wanted = {name: p.grad for name, p in model.named_parameters()}
    assert relative(found, wanted) <= CONVERGED


@pytest.mark.filterwarnings("ignore::pararealize.DivergenceWarning")
def test_gradients_accumulate_where_statistics_were_moved_back() -> None:
    """The guard's further cycles move statistics of which an earlier graph holds the buffers."""
    model = chain(8, "norm")
    net = network(model, guard=1e-30)
    for module in (net, model):
        first, second = module(batch(6, 1)), module(batch(4, 2))
        (first.square().sum() + second.square().sum()).backward()
    found = {name: p.grad for name, p in net.named_parameters()}
    wanted = {name: p.grad for name, p in model.named_parameters()}
    assert relative(found, wanted) <= CONVERGED
    assert relative(dict(net.named_buffers()), dict(model.named_buffers())) <= ROUNDING


def test_storage_does_not_change_gradients_at_exact_states() -> None:
    """Before, states inside slices are linearised at newer ones: other gradients, as good."""
    found = [
        step(network(storage=storage, forward_cycles=4), chain(8), batch()).gradients
        for storage in ("all", "points")
    ]
    assert relative(*found) <= ROUNDING
    one, other = (
        step(network(storage=storage), chain(8), batch()).gradients for storage in ("all", "points")
    )
    exact = step(chain(8), chain(8), batch()).gradients
    assert relative(other, exact) < 3 * relative(one, exact)


def test_a_graph_can_be_kept() -> None:
    net = network(chain(8, "norm", dropout=0.2))
    loss = net(batch()).square().sum()
    parameters = list(net.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    second = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradients_of_some_weights_only() -> None:
    net = network()
    every = gradients(net(batch()), dict(net.named_parameters()))
    for name in ("stem.weight", "layers.3.map.bias", "layers.7.map.weight", "head.bias"):
        (found,) = torch.autograd.grad(
            net(batch()).mul(1).square().sum(), [net.get_parameter(name)]
        )
        assert found.shape == every[name].shape
        some = gradients(net(batch()), {name: net.get_parameter(name)})
        assert relative(some, {name: every[name]}) <= ROUNDING


def test_frozen_parts_get_no_gradients_and_change_no_others() -> None:
    net, frozen = network(), network()
    for name, p in frozen.named_parameters():
        p.requires_grad_(not name.startswith(("stem", "layers.1", "layers.2", "layers.3")))
    for module in (net, frozen):
        module(batch()).square().sum().backward()
    for name, p in frozen.named_parameters():
        if p.requires_grad:
            assert relative({"": p.grad}, {"": net.get_parameter(name).grad}) <= ROUNDING
        else:
            assert p.grad is None


def test_weights_that_slices_share_get_the_sum_of_their_gradients() -> None:
    model = chain(8)
    model.layers[6].map.weight = model.layers[1].map.weight
    net = network(model, **EXACT)
    found, wanted = step(net, model, batch()), step(model, model, batch())
    assert relative(found.gradients, wanted.gradients) <= CONVERGED


def test_residuals_are_relative_to_the_state() -> None:
    net = network(chain(8))
    net(batch())
    first = net.report.jumps[0]
    with torch.no_grad():
        state = net.propagators["fine.1"](batch(), commits=False)
    assert first.interface == 1
    assert first.relative == pytest.approx(first.norm / float(state.norm()))


def test_only_the_input_wants_a_gradient() -> None:
    model = chain(8).requires_grad_(False)
    net = network(model, **EXACT)
    x, y = (batch().requires_grad_() for _ in range(2))
    net(x).sum().backward()
    model(y).sum().backward()
    assert relative({"": x.grad}, {"": y.grad}) <= CONVERGED


def test_without_gradients_nothing_is_kept() -> None:
    net = network()
    with torch.no_grad():
        quiet = net(batch())
    assert not quiet.requires_grad
    assert torch.equal(net(batch()), quiet)
    with torch.inference_mode():
        assert torch.equal(net(batch()), quiet)
    for p in net.parameters():
        p.requires_grad_(False)
    assert not net(batch()).requires_grad


@pytest.mark.parametrize("guess", ["coarse", "previous"])
def test_batches_of_all_sizes(guess: str) -> None:
    """A last partial batch; states of another batch size are no guesses."""
    model = chain(8)
    net = network(model, guess=guess, forward_cycles=3, guard=1e9)
    for size in (6, 6, 4, 6, 1, 1):
        found = net(batch(size))
        found.sum().backward()
        assert relative({"": found}, {"": model(batch(size))}) < 1e-2


def test_states_of_the_call_before_are_better_guesses() -> None:
    model = chain(16)
    net = network(model, n=8, guess="previous", guard=1e9)
    wanted = model(batch())
    errors = [relative({"": net(batch())}, {"": wanted}) for _ in range(4)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[3] < 1e-2 * errors[0]


def test_after_a_call_with_nan_the_next_one_is_as_before() -> None:
    model = chain(8)
    net = network(model, guess="previous", forward_cycles=3, guard=1e9)
    with pytest.warns(DivergenceWarning):
        net(torch.full_like(batch(), torch.nan))
    net(batch())
    assert relative({"": net(batch())}, {"": model(batch())}) < 1e-2


def test_training_lessens_the_loss() -> None:
    net = network(chain(8, "norm", dropout=0.1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (net(batch()) - batch()[:, :2]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


# precision


def test_single_precision() -> None:
    model = chain(8).float()
    net = compiled(model, 4, MGRIT(coarse="mean", coarsening=2, **EXACT), batch().float())
    found = step(net, model, batch().float())
    wanted = step(model, model, batch().float())
    assert relative({"": found.output}, {"": wanted.output}) <= 1e-6  # rounding of float32
    assert relative(found.gradients, wanted.gradients) <= 1e-5


@pytest.mark.parametrize("storage", ["all", "points"])
def test_autocast_reaches_what_the_backward_pass_evaluates(storage: str) -> None:
    model = chain(8).float()
    method = MGRIT(coarse="sampled", coarsening=2, storage=storage, **EXACT)
    net = compiled(model, 4, method, batch().float())
    for module in (net, model):
        with torch.autocast("cpu", torch.bfloat16):
            output = module(batch().float())
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
    found = {name: p.grad for name, p in net.named_parameters()}
    wanted = {name: p.grad for name, p in model.named_parameters()}
    assert relative(found, wanted) <= 2e-2  # bfloat16 has 8 bits


# the guard


def test_a_tolerance_that_is_reached_adds_cycles() -> None:
    model = chain(16, horizon=0.5)
    net = network(model, n=8, tolerance=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DivergenceWarning)
        found = net(batch())
        found.sum().backward()
    assert relative({"": found}, {"": model(batch())}) < 1e-7
    report = net.report
    assert (report.calls, report.serial_steps) == (1, 0)
    assert report.extra_cycles >= 2  # some for the states, some for the adjoints
    assert report.largest <= 1e-8
    assert report.bias <= 1e-8
    assert "1 calls" in str(report)


@pytest.mark.parametrize("storage", ["all", "points"])
@pytest.mark.parametrize(
    "options", [{"tolerance": 1e-30}, {"guard": 1e-30}], ids=["tolerance", "guard"]
)
def test_what_does_not_converge_is_run_serially_with_one_warning(
    options: dict[str, float], storage: str
) -> None:
    model = chain(16, "norm", dropout=0.2, horizon=8.0)
    net = network(model, n=8, max_cycles=2, storage=storage, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DivergenceWarning)
        for seed in range(3):
            found, wanted = step(net, model, batch(), seed), step(model, model, batch(), seed)
            assert relative({"": found.output}, {"": wanted.output}) <= ROUNDING
            assert relative(found.gradients, wanted.gradients) <= CONVERGED
            assert relative(found.buffers, wanted.buffers) <= ROUNDING
    (warning,) = (w for w in caught if issubclass(w.category, DivergenceWarning))
    assert "this step is run serially" in str(warning.message)
    report = net.report
    assert (report.calls, report.serial_steps, report.extra_cycles) == (3, 6, 12)
    assert "6 solves run serially" in str(report)


class Huge(nn.Module):
    """A coarse network that overflows."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].expand(-1, WIDTH) * torch.inf


def test_numbers_that_are_not_finite_are_run_serially() -> None:
    model = chain(8)
    net = network(model, coarse=lambda *_: Huge())
    with pytest.warns(DivergenceWarning, match="not finite"):
        found = step(net, model, batch())
    wanted = step(model, model, batch())
    assert relative({"": found.output}, {"": wanted.output}) <= ROUNDING
    assert relative(found.gradients, wanted.gradients) <= CONVERGED
    assert net.report.serial_steps == 2


def test_a_bias_bound_raises_the_backward_cycles() -> None:
    net = network(chain(16), n=8, bias_bound=1e-3)
    counts, biases = [], []
    for _ in range(6):
        net(batch()).sum().backward()
        counts.append(net.report.backward_cycles)
        biases.append(net.report.bias)
    assert counts[0] == 2
    assert counts == sorted(counts)
    assert biases[0] > 1e-3 >= biases[-1]
    assert counts[-1] == counts[-2] < 8


# coarse propagators of the user's own, and what stays as it is


class Rough(nn.Module):
    """One long step that has a weight of its own."""

    def __init__(self, fine: nn.Module) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.map(x)


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


def rough(fine: nn.Module, before: Any, after: Any) -> nn.Module:
    return First() if before.shape[1] == 3 else Rough(fine)


def test_a_function_makes_the_coarse_propagators(tmp_path: Path) -> None:
    model = chain(8)
    net = network(model, coarse=rough, guard=1e9, forward_cycles=3, backward_cycles=3)
    found, wanted = step(net, model, batch()), step(model, model, batch())
    assert relative({"": found.output}, {"": wanted.output}) < 0.2
    added = set(net.state_dict()) - set(model.state_dict())
    assert added
    assert all(name.startswith("coarse.") for name in added)
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", chain(8), coarse=rough)
    assert torch.equal(again(batch()), net(batch()))
    exact = network(model, coarse=rough, **EXACT)
    assert relative({"": exact(batch())}, {"": model(batch())}) <= ROUNDING


class Widening(nn.Module):
    """Residual layers between which the state gets wider, inside a slice."""

    def __init__(self) -> None:
        super().__init__()
        narrow, wide = Chain(8).layers, Chain(8).layers
        self.stem, self.wider = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widest = nn.Linear(WIDTH, 2 * WIDTH)
        self.layers = nn.Sequential(
            *narrow[:6], self.widest, nn.Linear(2 * WIDTH, WIDTH), *wide[:6]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.wider(self.stem(x)))


@pytest.mark.parametrize("coarse", ["rediscretized", "mean", "summed", "identity", "auto"])
def test_a_state_may_change_its_shape_inside_an_interval(coarse: str) -> None:
    """Layers that change it are kept."""
    with seeded(2):
        model = Widening().double()
    method = MGRIT(coarse=coarse, coarsening=4, guard=1e9, forward_cycles=2, backward_cycles=2)
    net = compiled(model, 3, method, batch(), ("layers.3", "layers.9"))
    assert "own layers" not in str(net.plan.pieces[1].coarse)
    found, wanted = step(net, model, batch()), step(model, model, batch())
    assert relative({"": found.output}, {"": wanted.output}) < 0.05
    assert relative(found.gradients, wanted.gradients) < 0.2


# what cannot be


def test_bad_hierarchies_name_what_to_write() -> None:
    cases: list[tuple[MGRIT, type[Exception], str]] = [
        (MGRIT(coarsening=99), MethodError, "coarsening=99 is more than the 8 residual layers"),
        (MGRIT(levels=5, coarsening=2), MethodError, "level 5 would leave nothing"),
        (MGRIT(levels=3, coarse=rough), MethodError, r"write MGRIT\(levels=2"),
    ]
    for method, kind, message in cases:
        with pytest.raises(kind, match=message):
            compiled(chain(8), 4, method, batch(), cuts(4, 2))


@pytest.mark.parametrize("coarse", ["rediscretized", "mean", "auto"])
def test_a_chain_without_residual_layers_has_no_coarse_propagators(coarse: str) -> None:
    plain = nn.Sequential(*(nn.Linear(3, 3) for _ in range(6))).double()
    with pytest.raises(CoarseError, match=r"(?s)no two neighbouring residual layers.*Parareal\(\)"):
        pararealize(plain, 3, method=MGRIT(coarse=coarse, coarsening=2), example_inputs=(batch(),))


def test_fewer_layers_than_slices() -> None:
    with pytest.raises(CutError, match=r"n=50 subnetworks need 49 interfaces.*write n="):
        pararealize(chain(4), 50, method=MGRIT(coarsening=2), example_inputs=(batch(),))


def test_an_automatic_choice_is_saved_where_some_slices_have_nothing_that_repeats(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model, x = resnet(29, width=4).double(), torch.randn(2, 3, 16, 16).double()
    cuts = ["layer1.0", "layer2.0"]
    method = MGRIT(coarsening=3, wanted_error=2.0)  # anything will do: the cheapest kind is taken
    net = pararealize(model, 3, method=method, example_inputs=(x,), interfaces=cuts).eval()
    kinds = [piece.coarse for piece in net.plan.pieces]
    assert kinds[0] == "own layers" != kinds[1]
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", model).eval()
    assert [piece.coarse for piece in again.plan.pieces] == kinds
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
