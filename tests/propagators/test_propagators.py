"""Propagators: fine views, registered networks, corrections that keep zero."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from pararealize.ir.program import Segment, cut_segment
from pararealize.propagators import fresh
from pararealize.propagators.fine import Fine
from pararealize.propagators.fresh import Fresh, normalises
from pararealize.propagators.propagator import Propagator, ZeroPreserving, with_state
from pararealize.propagators.registered import Registered
from pararealize.runtime.effects.masks import Masks
from pararealize.tracing.trace import trace


class Pair(nn.Module):
    """A state of two tensors between its halves, and an input read late."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, late: float = 1.0) -> Tensor:
        left = self.a(x)
        right = torch.tanh(self.b(left))
        return self.c(self.drop(self.norm(left + right)) * late)


@pytest.fixture
def model() -> Pair:
    torch.manual_seed(0)
    return Pair()


def segments(model: nn.Module) -> tuple[Segment, Segment]:
    program = trace(model).train
    at = program.index["tanh"] + 1
    live = ("a", "tanh")
    return (
        cut_segment(program, 0, at, (), live),
        cut_segment(program, at, len(program), live, None),
    )


def fine(model: nn.Module, i: int, **options: bool) -> Fine:
    segment = segments(model)[i]
    return Fine(model, segment, segment, f"half {i + 1}", **options)


def test_fine_halves_are_the_network(model: Pair) -> None:
    first, second, x = fine(model, 0), fine(model, 1), torch.randn(4, 3)
    model.eval()
    state = first(x)
    assert isinstance(state, tuple)
    assert (first.inputs, second.inputs) == (("x",), ("late",))
    assert (first.leaves, second.leaves) == (0, 2)
    assert torch.equal(second(state, 2.0), model(x, 2.0))


def test_fine_views_own_nothing(model: Pair) -> None:
    first = fine(model, 0)
    assert not list(first.parameters())
    assert not first.state_dict()
    model.a = nn.Linear(3, 3)
    x = torch.randn(4, 3)
    assert torch.equal(first(x)[0], model.a(x))


def test_commits_decide_whether_statistics_move(model: Pair) -> None:
    second, state = fine(model, 1), (torch.randn(4, 3), torch.randn(4, 3))
    for commits, count in ((False, 0), (True, 1), (False, 1), (True, 2)):
        second(state, 1.0, commits=commits)
        assert int(model.norm.num_batches_tracked) == count  # type: ignore[arg-type]


def test_a_borrower_never_moves_statistics(model: Pair) -> None:
    second, state = fine(model, 1, borrows=True), (torch.randn(4, 3), torch.randn(4, 3))
    second(state, 1.0)
    assert int(model.norm.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_a_fine_view_knows_its_buffers_and_whether_it_draws(model: Pair) -> None:
    assert list(fine(model, 0).stateful()) == []
    assert list(fine(model, 1).stateful()) == [model.norm]
    assert (fine(model, 0).draws, fine(model, 1).draws) == (False, True)


def test_masks_are_the_same_at_every_evaluation(model: Pair) -> None:
    second, state = fine(model, 1), (torch.randn(4, 3), torch.randn(4, 3))
    assert not torch.equal(second(state, 1.0), second(state, 1.0))
    second.masks = Masks(own_stream=False)
    assert torch.equal(second(state, 1.0), second(state, 1.0, commits=False))


def test_errors_say_where_and_with_what(model: Pair) -> None:
    second = fine(model, 1)
    with pytest.raises(RuntimeError) as caught:
        second((torch.randn(4, 3), torch.randn(4, 5)), 1.0)
    assert caught.value.__notes__ == [
        "in half 2, at add = a + tanh, called with [4, 3] torch.float32, [4, 5] torch.float32"
    ]


def test_fine_views_survive_copies(model: Pair) -> None:
    holder = nn.Module()
    holder.root, holder.view = model.eval(), fine(model, 0)
    x = torch.randn(4, 3)
    for twin in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        torch.testing.assert_close(twin.view(x), holder.view(x))
        assert twin.view.root is twin.root


def test_a_registered_network_may_be_replaced() -> None:
    registry = nn.ModuleDict({"2": nn.Linear(3, 3)})
    part = Registered(registry, "2", "the coarse network")
    x = torch.randn(4, 3)
    assert torch.equal(part(x), registry["2"](x))
    registry["2"] = nn.Identity()
    assert part(x) is x
    assert not list(part.parameters())


def test_a_registered_network_takes_leaves_apart() -> None:
    part = Registered(nn.ModuleDict({"2": nn.Bilinear(3, 3, 2)}), "2", "coarse", leaves=2)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(part((a, b)), part.module(a, b))


class Affine(Propagator):
    """G(x) = 3 x + 1 + mask, counting what it commits."""

    def __init__(self) -> None:
        super().__init__("affine", 1)
        self.committed = 0
        self.norm = nn.BatchNorm1d(2)

    def forward(self, *values: Tensor, commits: bool = True) -> Tensor:
        self.committed += commits
        return super().forward(*values, commits=commits)

    def propagate(self, *values: Tensor) -> Tensor:
        return 3 * values[0] + 1 + torch.rand(2)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    @property
    def draws(self) -> bool:
        return True

    def stateful(self) -> list[nn.Module]:
        return [self.norm]


def test_a_correction_is_the_linear_part() -> None:
    inner = Affine()
    inner.masks = Masks(own_stream=True)
    part = ZeroPreserving(inner, shared=False)
    x = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(part(x), 3 * x)
    assert not part(torch.zeros(4, 2)).any()


@pytest.mark.parametrize(("shared", "count"), [(False, 1), (True, 0)])
def test_a_correction_commits_once_or_not_at_all(shared: bool, count: int) -> None:
    inner = Affine()
    part = ZeroPreserving(inner, shared=shared)
    part(torch.zeros(4, 2))
    assert inner.committed == count
    assert list(part.stateful()) == [inner.norm]
    assert part.inputs == ()
    assert not part.draws


def test_a_correction_of_several_leaves() -> None:
    inner = Registered(nn.ModuleDict({"2": Swap()}), "2", "swap", leaves=2)
    part = ZeroPreserving(inner, shared=False)
    a, b = torch.randn(4, 2), torch.randn(4, 2)
    left, right = part((a, b))
    torch.testing.assert_close((left, right), (b, 2 * a))


class Swap(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return b + 1, 2 * a - 1


def test_fresh_networks_are_new_layers_of_the_same_kind(model: Pair) -> None:
    first, second = segments(model)
    torch.manual_seed(1)
    fresh = Fresh(model, first, bias=True)
    assert sorted(fresh.layers) == ["a", "b"]
    assert not torch.equal(fresh.layers["a"].weight, model.a.weight)
    x = torch.randn(4, 3)
    left, right = fresh(x)
    torch.testing.assert_close(right, torch.tanh(fresh.layers["b"](left)))
    assert Fresh(model, second, bias=True).training


def test_fresh_networks_without_biases(model: Pair) -> None:
    fresh = Fresh(model, segments(model)[0], bias=False)
    assert not any("bias" in name for name, _ in fresh.named_parameters())
    assert not fresh(torch.zeros(4, 3))[0].any()


def test_fresh_composite_layers_stay_whole() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    program = trace(nn.Sequential(layer)).train
    fresh = Fresh(nn.Sequential(layer), cut_segment(program, 0, 2, (), ("_0",)), bias=False)
    for mode in (True, False):
        assert fresh.train(mode)(torch.randn(2, 5, 8)).shape == (2, 5, 8)
    assert {name for name, _ in fresh.layers["0"].named_parameters()} == {
        name for name, _ in layer.named_parameters()
    }


def test_fresh_networks_survive_copies(model: Pair) -> None:
    fresh, x = Fresh(model, segments(model)[0], bias=True), torch.randn(4, 3)
    for twin in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        torch.testing.assert_close(twin(x), fresh(x))


class Own(nn.Module):
    """Weights without a layer, and hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3) * 5 + 7, requires_grad=False)
        self.register_buffer("shift", torch.ones(3))
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.relu(x @ self.weight + self.shift))


def test_fresh_networks_renew_weights_without_a_layer() -> None:
    torch.manual_seed(0)
    model, seen = Own(), []
    model.linear.register_forward_hook(lambda *_: seen.append(1))
    program = trace(model).train
    fresh = Fresh(model, cut_segment(program, 0, len(program), (), None), bias=True)
    (key,) = fresh.weights
    assert not torch.equal(fresh.weights[key], model.weight)
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    assert abs(fresh.weights[key].detach().mean() - 7) < 5
    fresh(torch.randn(2, 3))
    assert seen == []
    assert not any(getattr(part, "inplace", False) for part in fresh.modules())
    assert model.relu.inplace


def test_what_normalises() -> None:
    assert all(normalises(m) for m in (nn.BatchNorm2d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2)))
    assert not any(normalises(m) for m in (nn.Linear(2, 2), nn.ReLU(), nn.Dropout()))


def test_modules_with_state() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert with_state([inner]) == [inner[1]]


def test_paths_that_look_alike_without_dots_keep_their_own_weights() -> None:
    paths = ("a.b_c", "a_b.c", "a.b.c")
    keys = fresh._keys(paths)
    assert list(keys) == list(paths)
    assert len(set(keys.values())) == 3
    assert not any("." in key for key in keys.values())


def test_the_users_hooks_stay_with_the_users_layers() -> None:
    layer = nn.Linear(2, 2)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        register(lambda *_: pytest.fail("a copy called the user's hook"))
    copied = fresh._renewed(layer, bias=True)
    assert copied(torch.ones(1, 2)).shape == (1, 2)


def test_hooks_that_make_weights_stay_with_copies() -> None:
    copied = fresh._renewed(nn.utils.spectral_norm(nn.Linear(2, 2)), bias=True)
    before = copied(torch.ones(1, 2))
    copied.weight_orig.data.uniform_(1, 2)
    assert not torch.equal(copied(torch.ones(1, 2)), before)
