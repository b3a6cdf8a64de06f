"""Calibration of corrections in levels: coarse networks of groups of subnetworks, in float64."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from local_transport import LocalGroup
from networks import Recipe, build, compiled
from pararealize import ParallelNetwork, Parareal, load, one_gpu
from pararealize.calibration import latency
from pararealize.errors import CalibrationError
from pararealize.ir.calibration import Calibration
from pararealize.runtime.monitoring.answers import agreements, errors
from sampling import pairwise

pytestmark = pytest.mark.filterwarnings(
    "ignore::pararealize.SlowerThanSerialWarning", "ignore::pararealize.AgreementWarning"
)

N, SAMPLES, BATCH = 6, 60, 12
QUICK: dict[str, Any] = {"epochs": 1, "batch": BATCH, "progress": False}
#: One residual block for every subnetwork and group, and groups of three or of two.
STEPPED: dict[str, Any] = {"coarse": "stepped", "correction": "difference", "guess": "coarse"}
GROUPED: dict[str, Any] = {**STEPPED, "levels": 3, "coarsening": 3}


def images(samples: int = SAMPLES, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 3, dtype=torch.float64, generator=generator)


@lru_cache
def trained() -> nn.Module:
    """200 steps of Adam on whether an image's first number is above the product of the others."""
    model, x = build(Recipe("residual", 12, width=8, seed=1)), images(256, seed=0)
    labels = (x[:, 0] > x[:, 1] * x[:, 2]).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


def network(
    model: nn.Module | None = None, n: int = N, at: Any = None, **options: Any
) -> ParallelNetwork:
    model = copy.deepcopy(trained()) if model is None else model
    method = Parareal(**{**GROUPED, **options})
    return compiled(model, n, method, images(6), **(at or {})).eval()


def calibrated(model: nn.Module | None = None, **options: Any) -> ParallelNetwork:
    method = {name: options.pop(name) for name in list(options) if hasattr(Parareal, name)}
    net = network(model, **method)
    net.calibrate(images(), **{**QUICK, **options})
    return net


def found(net: ParallelNetwork) -> Calibration:
    assert net.plan.calibration is not None
    return net.plan.calibration


def timeless(calibration: Calibration) -> Calibration:
    """Without what was measured with a clock."""
    candidates = tuple(
        replace(c, sweeps=tuple(replace(row, seconds=0.0) for row in c.sweeps))
        for c in calibration.candidates
    )
    return replace(calibration, seconds=0.0, serial_seconds=0.0, candidates=candidates)


# what is fitted


@pytest.mark.parametrize("levels", [2, 3])
def test_one_sweep_of_a_trained_network_becomes_its_answer(levels: int) -> None:
    """As nearly with groups as with two levels, where two levels have more than twice as many."""
    rows = {}
    groups = {"levels": levels, "coarsening": 3 if levels > 2 else None}
    for epochs in (0, 30):
        net = network(**groups)
        net.calibrate(images(240), **{**QUICK, "epochs": epochs, "rate": 1e-2})
        rows[epochs] = found(net).chosen
    before, after = rows[0].sweeps[1], rows[30].sweeps[1]
    assert after.error < 0.2 * before.error
    assert after.error < 0.05  # with two levels 0.017 as well as with three
    assert after.agreement >= 0.97
    fits = {(fit.level, fit.piece): fit for fit in rows[30].fits}
    assert (3, 2) in fits or levels == 2
    for old in rows[0].fits:
        new = fits[old.level, old.piece]
        if old.level > 2 and old.contraction is not None:
            assert new.contraction < 0.7 * old.contraction


@pytest.mark.parametrize(
    ("correction", "guess", "sizes"),
    pairwise(["residual", "difference"], ["network", "coarse"], [(3, 2), (3, 3), (4, 2)]),
)
def test_a_group_is_fitted_to_all_of_its_subnetworks(
    correction: str, guess: str, sizes: tuple[int, int]
) -> None:
    """Errors, reckoned again with the subnetworks applied one after another."""
    levels, size = sizes
    # What guesses and corrects moves on after the guesses that it was fitted to were made.
    epochs = 1 if guess == "network" else 0
    net = calibrated(
        correction=correction, guess=guess, levels=levels, coarsening=size, epochs=epochs
    )
    serial, held_out = trained(), images().split(BATCH)[4]
    fine = [net.propagators[f"fine.{j}"] for j in range(1, N + 1)]
    points = net.plan.method.points(N)
    with torch.no_grad():
        states = [held_out]
        for part in fine:
            states.append(part(states[-1]))
        head = net.propagators.get("head", lambda x: x)
        assert torch.allclose(head(states[-1]), serial(held_out), rtol=1e-12)
        guesses = guessed(net, held_out)
        for fit in found(net).chosen.fits:
            start, end = points[fit.level - 2][fit.piece - 1 : fit.piece + 1]
            coarse = net.propagators.get(str(fit_target(fit.level, fit.piece)))
            if fit.contraction is None or coarse is None:
                continue
            reached = guesses[start]
            for part in fine[start:end]:
                reached = part(reached)
            old, new = guesses[start], states[start]
            answer = coarse(new) - coarse(old) if correction == "difference" else coarse(new - old)
            wrong, jump = reached + answer, states[end] - reached
            if end == N:
                jump = head(states[end]) - head(reached)
                wrong, wanted = head(wrong), head(states[end])
            else:
                wanted = states[end]
            contraction = float((wrong - wanted).norm() / jump.norm())
            # Squares are added up in single precision.
            assert fit.contraction == pytest.approx(contraction, rel=1e-4), (fit.level, fit.piece)


def fit_target(level: int, number: int) -> str:
    return f"coarse{level if level > 2 else ''}.{number}"


def guessed(net: ParallelNetwork, x: Tensor) -> dict[int, Tensor]:
    """The guesses of a call, by the interface."""
    values: dict[str, Any] = {}
    handles = [
        net.propagators[f"fine.{j}"].register_forward_pre_hook(
            lambda _part, given, j=j: values.setdefault(j - 1, given[0])
        )
        for j in range(2, N + 1)
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return values


def test_layers_of_less_rank_start_from_the_states_of_whole_groups() -> None:
    """Where states never leave a plane of that rank nothing is lost, of groups as of one."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(3, 16, dtype=torch.float64, generator=generator)
    x = 1.0 + torch.randn(50, 3, dtype=torch.float64, generator=generator) @ basis
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(9))).double().eval()
    method = Parareal("factored", "difference", guess="coarse", levels=3, coarsening=2)
    net = compiled(model, 4, method, x)
    net.calibrate(x, **{**QUICK, "epochs": 0, "batch": 10})
    steps = {(fit.level, fit.piece): fit.step_error for fit in found(net).chosen.fits}
    assert steps[3, 1] <= 1e-10  # products of nine matrices of the order of one
    assert steps[2, 1] <= 1e-10
    assert found(net).chosen.sweeps[0].error <= 1e-10


@pytest.mark.parametrize("coarse", ["identity", "rediscretized"])
def test_kinds_without_weights_are_scored_as_they_are(coarse: str) -> None:
    net = calibrated(coarse=coarse)
    chosen = found(net).chosen
    assert chosen.parameters == 0
    assert {fit.level for fit in chosen.fits} == {2, 3}
    assert all(fit.kind == coarse for fit in chosen.fits)
    tells_the_truth(net)


@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_subnetworks_that_correct_themselves_have_no_groups_to_fit(correction: str) -> None:
    net = calibrated(coarse="fine", correction=correction)
    assert {fit.level for fit in found(net).chosen.fits} == {2}
    tells_the_truth(net)
    if correction == "difference":  # law 3
        assert found(net).reached.error <= 1e-12


def test_a_group_of_one_subnetwork_has_one_network() -> None:
    net = network(n=7)
    net.calibrate(images(), **QUICK)
    fits = {(fit.level, fit.piece) for fit in found(net).chosen.fits}
    assert (3, 3) in fits
    assert (2, 7) not in fits
    assert found(net).chosen.parameters == net.plan.added_parameters
    tells_the_truth(net)


# what it says, and keeps


def tells_the_truth(net: ParallelNetwork) -> None:
    """Agreement and error, reckoned again with the network and the original."""
    batches = images().split(BATCH)
    held_out = [batch for i, batch in enumerate(batches, start=1) if i % 5 == 0]
    serial = net.to_serial().eval()
    with torch.no_grad():
        pairs = [(net(x), serial(x)) for x in held_out]
    reached = found(net).reached
    same = torch.cat([agreements(a, b).double() for a, b in pairs])
    wrong = torch.cat([errors(a, b) for a, b in pairs])
    assert reached.count == net.report.sweeps
    assert reached.agreement == pytest.approx(float(same.mean()), abs=1e-12)
    assert reached.error == pytest.approx(float(wrong.mean()), rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("coarsening", [2, 3])
def test_what_it_says_is_what_the_network_does(iterations: int, coarsening: int) -> None:
    net = calibrated(iterations=iterations, coarsening=coarsening)
    assert found(net).iterations == iterations
    assert found(net).levels == 3
    assert {fit.level for fit in found(net).chosen.fits} == {2, 3}
    tells_the_truth(net)
    text = str(net.explain())
    assert "'stepped, 3 levels' coarse networks" in text
    assert "Corrections run in 3 levels" in text


def test_only_coarse_networks_change() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.calibrate(images(), **QUICK)
    after = net.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before.get(name, after[name]))}
    assert moved
    assert all(name.startswith("coarse.") for name in moved)
    assert any(name.startswith("coarse.level3_") for name in moved)


def test_it_goes_on_from_where_it_is() -> None:
    net = network()
    contractions = []
    for _ in range(2):
        net.calibrate(images(), **{**QUICK, "epochs": 4})
        fits = {(fit.level, fit.piece): fit.contraction for fit in found(net).chosen.fits}
        contractions.append(fits[3, 2])
    assert contractions[1] < 0.9 * contractions[0]


@pytest.mark.parametrize("guess", ["network", "coarse"])
def test_after_all_sweeps_it_is_the_serial_network(guess: str) -> None:
    """Law 4, bit for bit: where all answers are doubted it sweeps on until none can be."""
    net = calibrated(guess=guess, above="exact", limit=1e-12)
    x = images(seed=8)
    assert torch.equal(net(x), trained()(x))
    assert net.report.sweeps == N
    assert not any(net.report.doubtful)


def test_nothing_exact_is_evaluated_again() -> None:
    net = calibrated(above="exact", limit=1e-12)
    calls: Counter[str] = Counter()
    for name, part in net.propagators.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    net(images())
    assert [calls[f"fine.{j}"] for j in range(1, N + 1)] == list(range(1, N + 1))


def test_estimates_are_those_of_the_jumps_reported() -> None:
    net = calibrated(iterations=2)
    net(images())
    certificate = found(net).certificate
    assert certificate is not None
    jumps = {j.interface: torch.tensor(j.samples) for j in net.report.jumps if j.sweep == 1}
    wanted = sum(weight * jumps[j] for j, weight in certificate.weights.items())
    assert torch.allclose(torch.tensor(net.report.errors), wanted.float(), rtol=1e-6)
    assert [region.interface for region in certificate.regions] == sorted(certificate.weights)


@pytest.mark.parametrize("guess", ["network", "coarse"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_files_and_copies_are_calibrated(tmp_path: Path, guess: str, iterations: int) -> None:
    net = calibrated(guess=guess, iterations=iterations)
    net.save(tmp_path)
    x = images(seed=3)
    output = net(x)
    for twin in (load(tmp_path, copy.deepcopy(trained())).eval(), copy.deepcopy(net)):
        assert torch.equal(twin(x), output)
        assert twin.plan == net.plan
        assert twin.report == net.report
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in twin.state_dict().items())
    again = load(tmp_path, copy.deepcopy(trained())).eval()
    again.calibrate(images(), **QUICK)
    assert found(again).levels == 3


# which levels are kept


def shared(monkeypatch: pytest.MonkeyPatch, agreement: dict[int, float]) -> ParallelNetwork:
    """On one device that is shared, and elsewhere: its seconds are those that are predicted.

    One sweep in so many levels agrees that often, and two always do.
    """

    def score(subject: Any, _parts: Any, count: int, _records: Any) -> tuple[float, float]:
        return (
            (0.0, 1.0)
            if count == 0
            else (agreement[subject.levels], 0.1)
            if count == 1
            else (1.0, 0.0)
        )

    monkeypatch.setattr("pararealize.calibration.calibrate.score", score)
    net = network(n=N, levels="auto", coarsening=None, at={"machine": one_gpu()})
    assert net.plan.groups
    return net


@pytest.mark.parametrize(
    ("agreement", "asked", "levels", "sweeps"),
    [
        ({2: 1.0, 3: 1.0}, 0.9, 3, 1),  # both agree: the faster of them
        ({2: 1.0, 3: 0.8}, 0.9, 2, 1),  # one sweep more takes longer than corrections in a row
        ({2: 0.8, 3: 0.8}, 0.9, 2, 2),  # of so few subnetworks
        ({2: 0.8, 3: 0.95}, 0.9, 3, 1),
    ],
)
def test_levels_that_were_predicted_are_compared_with_two(
    monkeypatch: pytest.MonkeyPatch,
    agreement: dict[int, float],
    asked: float,
    levels: int,
    sweeps: int,
) -> None:
    net = shared(monkeypatch, agreement)
    net.calibrate(images(), **QUICK, agreement=asked, confidence=0.5)
    tried = {candidate.levels: candidate for candidate in found(net).candidates}
    assert sorted(tried) == [2, 3]
    assert (found(net).levels, found(net).iterations) == (levels, sweeps)
    assert bool(net.plan.groups) == (levels == 3)
    assert net.plan.parallel_seconds == min(
        row.seconds for c in tried.values() for row in c.certified if row.agreement >= asked
    )
    assert any(k.startswith("coarse.level3_") for k in net.state_dict()) == (levels == 3)
    net(images())
    assert net.report.sweeps == net.plan.method.iterations == sweeps
    assert tried[3].sweeps[1].seconds < tried[2].sweeps[1].seconds


def test_what_takes_a_sweep_more_on_all_data_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few of them three levels agreed after one sweep, and were the fastest."""
    net = shared(monkeypatch, {2: 1.0, 3: 1.0})
    times: Counter[tuple[int, int]] = Counter()

    def score(subject: Any, _parts: Any, count: int, _records: Any) -> tuple[float, float]:
        times.update([(subject.levels, count)])
        once = 0.8 if times[3, 1] == 2 and subject.levels == 3 else 1.0
        return {0: (0.0, 1.0), 1: (once, 0.1)}.get(count, (1.0, 0.0))

    monkeypatch.setattr("pararealize.calibration.calibrate.score", score)
    net.calibrate(images(), **QUICK, agreement=0.9, confidence=0.5)
    assert times[2, 1] == times[3, 1] == 2  # each on a few, and then on all
    assert (found(net).levels, found(net).iterations) == (2, 1)


def test_without_an_agreement_levels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    net = shared(monkeypatch, {2: 1.0, 3: 0.1})
    net.calibrate(images(), **QUICK)
    assert [candidate.levels for candidate in found(net).candidates] == [3]


def test_levels_that_were_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {0: (0.0, 1.0), 1: (0.5, 0.1)}
    monkeypatch.setattr(
        "pararealize.calibration.calibrate.score",
        lambda _s, _p, count, _r: scores.get(count, (0.9, 0.1)),
    )
    net = network()
    with pytest.raises(CalibrationError, match=r"'stepped, 3 levels' with 90.00%"):
        net.calibrate(images(), **QUICK, agreement=0.99)
    net.calibrate(images(), **QUICK, agreement=0.8, confidence=0.5)
    assert (found(net).levels, found(net).iterations) == (3, 2)


def test_kinds_are_compared_with_groups_of_their_own() -> None:
    """Of a shared device each kind with either number of levels, and the fastest that agrees."""
    net = network(coarse="auto", levels="auto", coarsening=None, at={"machine": one_gpu()})
    net.calibrate(images(), **QUICK, agreement=0.5, confidence=0.5)
    names = {candidate.name for candidate in found(net).candidates}
    assert {"stepped 1", "stepped 1, 3 levels", "identity, 3 levels"} <= names
    assert found(net).name in names
    assert len(names) == len(found(net).candidates)
    tells_the_truth(net)


def test_groups_are_timed_on_the_states_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def clock(*functions: Any, runs: int) -> list[float]:
        """The i-th function of the k-th turns takes 100 k + i seconds."""
        del runs
        turns.append(len(functions))
        for function in functions:
            function()
        return [100.0 * len(turns) + i for i in range(len(functions))]

    monkeypatch.setattr(latency, "medians", clock)
    net = calibrated(epochs=0)
    assert turns == [N, 2 * N + 2]  # with six coarse networks, and then two of groups
    assert [group.coarse_seconds for group in net.plan.groups] == [212, 213]


# where it lies


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {"coarse": "stepped"}),
        (3, {"coarse": "stepped", "coarsening": 2, "iterations": 2}),
        (3, {"coarse": "identity", "guess": "network", "correction": "residual"}),
        (2, {"coarse": "factored", "coarsening": 2}),
        (3, {"coarse": "rediscretized"}),
        (N, {"coarse": "factored", "levels": 4, "coarsening": 2}),
    ],
)
def test_ranks_do_what_one_process_does(ranks: int, options: dict[str, Any]) -> None:
    """Groups lie on several of them."""
    group, nets = LocalGroup(ranks, patience=30), {}
    models = [copy.deepcopy(trained()) for _ in range(ranks)]

    def work(rank: int) -> None:
        net = network(models[rank], **options, at={"comm": group.member(rank)})
        net.calibrate(images(), **QUICK)
        nets[rank] = net, net(images())

    on_threads(work, ranks)
    alone = calibrated(**options)
    wanted, output = timeless(found(alone)), alone(images())
    assert len(nets) == ranks
    for net, here in nets.values():
        calibration = timeless(found(net))
        assert calibration.chosen == wanted.chosen
        assert calibration.certificate == wanted.certificate
        assert torch.equal(here, output)
        assert net.report.errors == alone.report.errors


def test_ranks_compare_kinds_whose_groups_have_weights_of_their_own() -> None:
    """A group's own layers lie elsewhere: kinds that would run them are left out."""
    group, nets = LocalGroup(2, patience=30), {}
    models = [copy.deepcopy(trained()) for _ in range(2)]

    def work(rank: int) -> None:
        net = network(models[rank], coarse="auto", coarsening=2, at={"comm": group.member(rank)})
        net.calibrate(images(), **QUICK, agreement=0.3, confidence=0.5)
        nets[rank] = net, net(images())

    on_threads(work, 2)
    assert len(nets) == 2
    (one, first), (other, second) = nets.values()
    assert torch.equal(first, second)
    assert timeless(found(one)) == timeless(found(other))
    kinds = {candidate.kind for candidate in found(one).candidates}
    assert {"stepped 1", "identity"} <= kinds
    reason = "its groups would run layers of other ranks"
    assert found(one).left_out["rediscretized, 3 levels"] == reason
    alone = calibrated(coarse="auto", coarsening=2, agreement=0.3, confidence=0.5)
    wanted = {c.name: c for c in timeless(found(alone)).candidates}
    for candidate in timeless(found(one)).candidates:
        if candidate.kind != found(one).kind:  # that one is fitted to all data
            assert candidate.fits == wanted[candidate.name].fits


def on_threads(work: Any, ranks: int) -> None:
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_devices_do_what_one_does() -> None:
    several = network(at={"devices": ["cpu"] * 2})
    several.calibrate(images(), **QUICK)
    one = calibrated()
    assert all(torch.equal(v, one.state_dict()[k]) for k, v in several.state_dict().items())
    assert timeless(found(several)).chosen == timeless(found(one)).chosen
