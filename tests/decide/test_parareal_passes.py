"""Parareal's passes: coarse networks of groups of subnetworks, and what is made of them."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import Case, Recipe, compiled
from pararealize import Parareal, Rehearsal, load, one_gpu, pararealize
from pararealize.errors import CoarseError, InaccurateWarning, MethodError, SlowerThanSerialWarning
from pararealize.ir.methods import coarse_names
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.network import ParallelNetwork

RECIPE = Recipe("residual", 12, width=4)
#: Kinds with which the laws are tried as well.
ON_LAWS = {"network", "identity", "rediscretized", "auto"}
GROUPED = Parareal(levels=3, coarsening=2)


def case(method: Parareal, n: int = 5, **recipe: Any) -> Case:
    return Case(replace(RECIPE, **recipe), n, method)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        warnings.simplefilter("ignore", InaccurateWarning)
        yield


@pytest.mark.parametrize(
    "coarse",
    [
        pytest.param(kind, marks=[pytest.mark.rest] * (kind in ON_LAWS))
        for kind in coarse_names(Parareal)
        if kind != "fine"
    ],
)
@pytest.mark.parametrize(
    ("correction", "guess"), [("residual", "network"), ("difference", "coarse")]
)
def test_every_kind_corrects_groups_as_well(coarse: str, correction: str, guess: str) -> None:
    """Of the kind of the subnetworks; all weights get gradients, also those of groups."""
    method = replace(GROUPED, coarse=coarse, correction=correction, guess=guess)
    with quiet():
        net = case(method).compile()
        net(case(method).x).square().sum().backward()
    used = [group for group in net.plan.groups if group.coarse != "none"]
    assert [group.index for group in used] == [1, 2, 3][guess == "network" :]
    pieces = {piece.coarse_kind for piece in net.plan.pieces if piece.coarse != "none"}
    if coarse not in {"auto", "network"}:
        assert {group.coarse_kind for group in used} == pieces
    own = {k: p for k, p in net.named_parameters() if k.startswith("coarse.level3_")}
    assert sum(p.numel() for p in own.values()) == sum(g.coarse_parameters for g in used)
    corrects = {k: p for k, p in own.items() if not k.startswith("coarse.level3_1")}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in corrects.values())


def test_a_function_makes_the_networks_of_groups_of_all_their_layers() -> None:
    seen: list[tuple[Any, Any]] = []

    def factory(fine: nn.Module, before: Any, after: Any) -> nn.Module:
        x = torch.ones(before.shape, dtype=before.dtype)
        seen.append((before.shape, fine(x)))
        return nn.Linear(before.shape[-1], after.shape[-1])

    one = case(replace(GROUPED, coarse=factory), n=4)
    net = one.compile().eval()
    assert [key for key in net.state_dict() if key.startswith("coarse.level3")] == [
        "coarse.level3_2.weight",
        "coarse.level3_2.bias",
    ]
    shape, image = seen[-1]  # of the group of subnetworks 3 and 4
    state = torch.ones(shape, dtype=torch.float64)
    for j in (3, 4):
        state = net._emission.propagators[Target.fine(j)](state)
    assert torch.equal(image, state)


@pytest.mark.rest
def test_a_refusal_names_the_group() -> None:
    def wrong(_fine: nn.Module, before: Any, after: Any) -> nn.Module:
        return nn.Linear(before.shape[-1], after.shape[-1] + (len(made) == 2))

    made: list[int] = []

    def factory(*args: Any) -> nn.Module:
        network = wrong(*args)
        made.append(1)
        return network

    with pytest.raises(CoarseError, match="made for the group of subnetworks 3 … 4 maps"):
        case(replace(GROUPED, coarse=factory), n=4).compile()


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_the_network_itself_is_exact_by_groups(levels: int, correction: str) -> None:
    """Law 2: linear networks, any guesses; law 3: by difference any network, to the last bit."""
    activation = "linear" if correction == "residual" else "tanh"
    method = Parareal("fine", correction, levels=levels, coarsening=2)
    one = case(method, n=8, activation=activation)
    model = one.model()
    with quiet():
        error = relative(one.compile()(one.x), model(one.x))
    assert error == 0.0 if correction == "difference" else error < 1e-12


@pytest.mark.rest
def test_statistics_of_networks_of_groups_move_once_a_step() -> None:
    def factory(_fine: nn.Module, before: Any, after: Any) -> nn.Module:
        width = after.shape[-1]
        return nn.Sequential(nn.Linear(before.shape[-1], width), nn.BatchNorm1d(width))

    for correction, iterations in (("residual", 1), ("residual", 2), ("difference", 2)):
        method = Parareal(factory, correction, iterations, levels=3, coarsening=2)
        one = case(method, n=6, norm="batch")
        with quiet():
            net = one.compile()
        net(one.x)
        counts = {k: int(b) for k, b in net.named_buffers() if k.endswith("num_batches_tracked")}
        assert any("level3_3" in name for name in counts)
        assert set(counts.values()) == {1}


@pytest.mark.rest
def test_captured_calls_and_steps_answer_as_eager_ones() -> None:
    """Law 15: with dropout and BatchNorm, on lanes, groups side by side."""
    one = case(GROUPED, norm="batch", dropout="module")
    with quiet():
        net = compiled(one.model(), 5, one.method, one.x)
    fast = net.eval().capture((one.x,), device=Rehearsal())
    x = one.x + 1
    assert torch.equal(fast(x), net(x))
    net.train()
    twin = copy.deepcopy(net)
    step = net.capture_step(lambda out: out.square().mean(), (one.x,), device=Rehearsal())
    before = {k: b.clone() for k, b in net.named_buffers()}
    torch.manual_seed(3)
    step(x)
    twin.load_state_dict({**twin.state_dict(), **before})
    torch.manual_seed(3)
    twin(x).square().mean().backward()
    found = dict(net.named_parameters())
    for name, p in twin.named_parameters():
        assert found[name].grad is not None
        assert p.grad is None or relative(found[name].grad, p.grad) < 1e-10, name
    counts = [int(b) for k, b in net.named_buffers() if k.endswith("num_batches_tracked")]
    moved = [int(b) for k, b in twin.named_buffers() if k.endswith("num_batches_tracked")]
    assert counts == moved


def test_a_saved_network_has_its_levels_and_their_weights(tmp_path: Path) -> None:
    one = case(Parareal("auto", guess="coarse", levels=4, coarsening=(2, 2)), n=7)
    with quiet():
        net = one.compile()
        net.save(tmp_path / "net")
        again = load(tmp_path / "net", one.model())
    assert again.plan.method == one.method
    assert again.plan.groups == net.plan.groups
    assert Plan.from_json(net.plan.to_json()) == net.plan
    assert {group.level for group in net.plan.groups} == {3, 4}
    assert list(again.state_dict()) == list(net.state_dict())
    assert torch.equal(again(one.x), net(one.x))


def test_on_devices_groups_answer_as_on_one() -> None:
    """Law 8: the network of a group lies with its last subnetwork, and its weights as well."""
    one = case(GROUPED, n=6)
    with quiet():
        net = compiled(one.model(), 6, one.method, one.x)
        apart = compiled(one.model(), 6, one.method, one.x, devices=["cpu"] * 4)
    ranks = {task.target: task.rank for task in apart.schedule if task.target is not None}
    assert ranks[Target.coarse(2, 3)] == ranks[Target.fine(4)]
    assert ranks[Target.coarse(3, 3)] == ranks[Target.fine(6)]
    assert torch.equal(apart(one.x), net(one.x))


@pytest.mark.rest
def test_slices_of_the_batch_need_networks_of_groups_that_take_samples_one_by_one() -> None:
    made: list[int] = []

    def factory(_fine: nn.Module, before: Any, after: Any) -> nn.Module:
        made.append(1)
        layer = nn.Linear(before.shape[-1], after.shape[-1])
        return layer if len(made) < 3 else nn.Sequential(layer, nn.BatchNorm1d(after.shape[-1]))

    from local_ranks import all_of  # noqa: PLC0415
    from local_transport import LocalTransport  # noqa: PLC0415

    one = case(replace(GROUPED, coarse=factory), n=4)

    def work(transport: LocalTransport) -> str:
        made.clear()
        try:
            compiled(one.model(), 4, one.method, one.x, comm=transport, chunks=2)
        except MethodError as error:
            return str(error)
        return ""

    with quiet():
        (said,) = all_of(1, work)
    assert "the coarse network of the group of subnetworks 3 … 4 does not treat" in said


@pytest.mark.rest
def test_a_tolerance_goes_on_by_sweeps_in_levels() -> None:
    one = case(Parareal(tolerance=1e-9, levels=3, coarsening=2), n=6)
    with quiet():
        net = one.compile()
    answer = net(one.x)
    assert relative(answer, one.model()(one.x)) < 1e-9


@pytest.mark.rest
def test_where_levels_collapse_calibrating_goes_on() -> None:
    """One group of all is no level: the network is that of two."""
    with quiet():
        net = case(Parareal(levels=3), n=2).compile()
        plain = case(Parareal(), n=2).compile()
    assert net.plan.groups == ()
    assert net.schedule == plain.schedule
    assert "Of levels=3 there are 2: 2 subnetworks or groups would be one group" in " ".join(
        net.explain().split()
    )


def test_groups_are_shown_and_their_parameters_counted() -> None:
    with quiet():
        net = case(GROUPED).compile()
    text = " ".join(net.explain().split())
    assert "corrections in levels level # subnetworks coarse parameters ms" in text
    assert "3 1 1 … 2 –" in text
    assert "3 3 5 network" in text or "3 3 5 own layers" in text
    assert "Corrections run in 3 levels: inside groups of subnetworks side by side" in text
    own = sum(p.numel() for k, p in net.named_parameters() if k.startswith(("coarse", "guess")))
    assert net.plan.added_parameters == own


@pytest.mark.rest
def test_the_path_of_a_deep_network_is_shorter_in_levels() -> None:
    """On ranks, and on one device: what the schedule takes, of coarse networks of equal cost."""

    def seconds(levels: int, **options: Any) -> float:
        plan = planned(16, Parareal(levels=levels), **options).plan
        assert bool(plan.groups) == (levels > 2)
        return plan.parallel_seconds

    for options in ({}, {"machine": one_gpu()}):
        two, three = seconds(2, **options), seconds(3, **options)
        assert three < 0.9 * two


@pytest.mark.rest
def test_the_targets_of_groups_are_named_after_their_level() -> None:
    with quiet():
        net: ParallelNetwork = case(GROUPED).compile()
    assert Target.coarse(2, 3) in {task.target for task in net.schedule}
    assert "coarse3.2" in str(net.schedule)
    assert "coarse3.2" in dict(net.runner.graph.named_modules()) or "coarse3" in net.code


# levels="auto"


def deep() -> nn.Module:
    """Small kernels, many of them: what pays on one device."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(96)))


def planned(n: int | str, method: Parareal, **options: Any) -> ParallelNetwork:
    with quiet():
        x = torch.zeros(1, 16)
        return pararealize(deep(), n, method=method, example_inputs=(x,), verify=False, **options)


def test_on_a_shared_device_levels_are_chosen_by_predicted_time() -> None:
    shared = {"machine": one_gpu()}
    chosen = planned(16, Parareal(), **shared)
    assert chosen.plan.method == Parareal(coarsening=(4,))
    assert len(chosen.plan.groups) == 4
    text = " ".join(chosen.explain().split())
    assert "They were chosen (levels='auto')" in text
    few = planned(3, Parareal(), **shared)
    assert few.plan.method == Parareal()
    assert few.plan.groups == ()
    assert "levels" not in few.explain()


@pytest.mark.rest
def test_the_number_of_subnetworks_is_chosen_with_their_levels() -> None:
    shared = {"machine": one_gpu()}
    chosen, two = (planned("auto", Parareal(levels=kind), **shared) for kind in ("auto", 2))
    assert chosen.plan.n > two.plan.n
    assert chosen.plan.parallel_seconds <= 0.9 * two.plan.parallel_seconds


@pytest.mark.rest
def test_elsewhere_there_are_two_levels() -> None:
    """Where every subnetwork has a device of its own: predictions are what they were."""
    assert planned(16, Parareal()).schedule == planned(16, Parareal(levels=2)).schedule
    grouped = planned(16, Parareal(coarsening=4))
    assert grouped.plan.groups == ()
    assert grouped.plan.method == Parareal()


@pytest.mark.rest
def test_what_was_chosen_is_saved_and_not_chosen_again(tmp_path: Path) -> None:
    net = planned(16, Parareal(coarsening=3), machine=one_gpu())
    assert net.plan.method.coarsening == 3
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", deep())
    assert again.plan.groups == net.plan.groups
    assert again.plan.method == net.plan.method
    assert again.schedule == net.schedule


@pytest.mark.rest
def test_calibrating_keeps_the_levels_that_were_chosen_where_they_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pararealize.calibration.calibrate.score", lambda *_: (1.0, 0.0))
    net = planned(12, Parareal(), machine=one_gpu())
    groups = [(group.first, group.last) for group in net.plan.groups]
    data = [(torch.randn(8, 16),) for _ in range(3)]
    found = net.calibrate(data, agreement=0.9, epochs=1, progress=False)
    assert {candidate.levels for candidate in found.candidates} == {2, 3}
    assert found.levels == 3
    assert [(group.first, group.last) for group in net.plan.groups] == groups
    assert "They were chosen" not in net.explain()
    net.save(tmp_path)
    again = load(tmp_path, deep())
    assert torch.equal(again(data[0][0]), net(data[0][0]))
