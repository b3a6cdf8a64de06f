"""Calibration as its users see it: what it changes, what it takes, what it says, what it keeps."""

from __future__ import annotations

import copy
import pickle
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from local_transport import LocalGroup
from networks import Recipe, build, compiled
from pararealize import MGRIT, ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import CalibrationError, CertificateWarning, MethodError
from pararealize.ir.calibration import Calibration
from pararealize.runtime.monitoring.rules import Certified, answer
from sampling import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

N, SAMPLES, BATCH = 4, 60, 12
#: Few steps: these tests are not about how well it fits.
QUICK: dict[str, Any] = {"epochs": 1, "batch": BATCH, "progress": False}
#: Sums of a few dozen terms of the order of one in another order, then a few steps of Adam, which
#: divides by roots of small numbers.
FITTED = 1e-7

every_correction = pytest.mark.parametrize("correction", ["residual", "difference"])
every_guess = pytest.mark.parametrize("guess", ["network", "coarse"])


def trained(family: str = "residual", depth: int = 8) -> nn.Module:
    return build(Recipe(family, depth, norm="batch", dropout="module"))


def images(samples: int = SAMPLES, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 3, dtype=torch.float64, generator=generator)


def network(
    model: nn.Module | None = None, *, n: int = N, at: Any = None, **options: Any
) -> ParallelNetwork:
    model = trained() if model is None else model
    return compiled(model, n, Parareal(**options), images(6), **(at or {}))


def calibrated(
    model: nn.Module | None = None, method: dict[str, Any] | None = None, **options: Any
) -> ParallelNetwork:
    net = network(model, **(method or {}))
    net.calibrate(images(), **{**QUICK, **options})
    return net.eval()


def added(net: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in net.state_dict().items() if k.startswith(("coarse.", "guess."))}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def timeless(calibration: Calibration) -> Calibration:
    """Without what was measured with a clock."""
    candidates = tuple(
        replace(c, sweeps=tuple(replace(row, seconds=0.0) for row in c.sweeps))
        for c in calibration.candidates
    )
    return replace(calibration, seconds=0.0, serial_seconds=0.0, candidates=candidates)


# what it changes


@pytest.mark.parametrize("training", [True, False])
def test_only_coarse_networks_change(training: bool) -> None:
    model = trained()
    net = network(model.train(training))
    net.get_submodule("layers.3").train(not training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    own = {name: p for name, p in net.named_parameters() if not name.startswith("coarse.")}
    modes = [module.training for module in net.modules()]
    torch.manual_seed(9)
    random = torch.get_rng_state()
    net.calibrate(images(), **QUICK)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    after, fitted = net.state_dict(), added(net)
    assert after.keys() == before.keys()
    assert any(not torch.equal(fitted[name], before[name]) for name in fitted)
    rest = {name: value for name, value in after.items() if name not in fitted}
    assert_same(rest, {name: before[name] for name in rest})
    for name in rest.keys() & own.keys():
        assert net.get_parameter(name) is own[name]
        assert own[name].grad is None
        assert own[name].requires_grad
    assert_same(net.to_serial().state_dict(), model.state_dict())


def test_frozen_networks_stay_frozen() -> None:
    net = network().requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.calibrate(images(), **QUICK)
    assert any(not torch.equal(value, before[name]) for name, value in added(net).items())


@pytest.mark.parametrize("cause", ["agreement", "data", "interrupt"])
@every_guess
def test_a_failed_calibration_changes_nothing(
    guess: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(coarse="identity", guess=guess).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = net.plan, net.schedule, net.stages, net.rule, net.code
    output, report = net(images()), net.report
    data, error, options = images(), CalibrationError, {**QUICK, "agreement": 1.0}
    if cause == "data":
        data[-1, 0] = torch.nan
    elif cause == "interrupt":
        error = KeyboardInterrupt  # type: ignore[assignment]
        monkeypatch.setattr("pararealize.calibration.calibrate.certify", interrupted)
        options["agreement"] = 0.01
    else:
        monkeypatch.setattr("pararealize.calibration.calibrate.score", lambda *_: (0.5, 1.0))
    random = torch.get_rng_state()
    with pytest.raises(error) as caught:
        net.calibrate(data, **options)
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(net.state_dict(), state)
    assert before == (net.plan, net.schedule, net.stages, net.rule, net.code)
    assert net.report == report
    assert torch.equal(net(images()), output)
    if cause == "agreement":
        assert "best is 'identity' with 50.00% after 1" in str(caught.value)


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_seeds_decide_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do files: what does not fit into memory is written, read and removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders: list[int] = []
    save = torch.save

    def counted(record: Any, file: Any) -> None:
        save(record, file)
        folders.append(len(list(tmp_path.iterdir())))

    monkeypatch.setattr(torch, "save", counted)
    method = {"coarse": "network", "correction": "difference"}
    nets = []
    for ambient, options in enumerate(({}, {"memory": 0}, {"seed": 1})):
        torch.manual_seed(7)
        net = network(trained(), **method)
        torch.manual_seed(ambient)
        net.calibrate(images(), **QUICK, **options)
        nets.append(net)
        assert bool(folders) == (ambient > 0)
        assert not list(tmp_path.iterdir())
    assert_same(added(nets[1]), added(nets[0]))
    first, second = (timeless(net.plan.calibration) for net in nets[:2])
    assert first == second
    assert any(not torch.equal(v, added(nets[0])[name]) for name, v in added(nets[2]).items())


def test_gradients_may_be_off_around_it() -> None:
    wanted = calibrated()
    for block in (torch.no_grad, torch.inference_mode):
        with block():
            net = calibrated()
        assert_same(net.state_dict(), wanted.state_dict())
        net.train()(images()).sum().backward()
        assert all(p.grad is not None for name, p in net.named_parameters() if "coarse" in name)


# what it takes


class Scaled(nn.Module):
    """Two inputs, of which the second is read by every layer; states of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(9))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        first = x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = x + scale * torch.tanh(layer(x))
        return torch.cat([x, first], 1)


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda x, _: x,
    "array": lambda x, _: x.numpy(),
    "batches": lambda x, _: x.split(BATCH),
    "generator": lambda x, _: (batch for batch in x.split(BATCH)),
    "tuples with labels": lambda x, y: list(zip(x.split(BATCH), y.split(BATCH), strict=True)),
    "dictionaries": lambda x, y: [{"y": y, "x": batch} for batch in x.split(BATCH)],
    "dataset": TensorDataset,
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), BATCH),
}


def test_data_of_every_kind_are_the_same_data() -> None:
    """The last batch is a partial one."""
    x, y = images(SAMPLES - 5), torch.arange(SAMPLES - 5)
    found = {}
    for kind, given in KINDS.items():
        net = network(coarse="identity")
        net.calibrate(given(x, y), **QUICK)
        found[kind] = net
    wanted = found["tensor"]
    assert wanted.plan.calibration.samples == 48
    assert wanted.plan.calibration.held_out == 7
    for kind, net in found.items():
        assert_same(added(net), added(wanted))
        assert timeless(net.plan.calibration) == timeless(wanted.plan.calibration), kind


@every_correction
def test_several_inputs_and_states_of_several_tensors(correction: str) -> None:
    torch.manual_seed(1)
    x = images()
    scale = 0.1 + x[:, :1].abs()
    model = Scaled().double()
    method = Parareal(correction=correction)
    net = pararealize(model, 3, method=method, example_inputs=(x[:6], scale[:6]))
    data = list(zip(x.split(BATCH), scale.split(BATCH), strict=True))
    net.calibrate(data, **{**QUICK, "epochs": 10})
    assert any(len(piece.state) > 1 for piece in net.plan.pieces)
    tells_the_truth(net, model, data, lambda module, batch: module(*batch))
    rows = net.plan.calibration.chosen.sweeps
    assert rows[-1].error < rows[0].error


@every_guess
def test_tokens(guess: str) -> None:
    """Of an argument that is called input, which the first coarse network reads in a sweep."""
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    model = nn.Sequential(nn.Embedding(7, 4), *layers, nn.Linear(4, 7)).double()
    tokens = torch.randint(0, 7, (SAMPLES, 5))
    net = pararealize(model, 3, method=Parareal(guess=guess), example_inputs=(tokens[:6],))
    net.calibrate(tokens, **QUICK)
    tells_the_truth(net, model, tokens.split(BATCH), lambda module, batch: module(batch))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no data"),
        (torch.ones(60, 5, dtype=torch.float64), r"\[12, 5\].*\[batch, 3\]"),
        (torch.ones(60, 3, dtype=torch.int64), "int64"),
        (torch.ones(7, 3, dtype=torch.float64), "batch=1"),
        ([torch.ones(1, 3, dtype=torch.float64)], "one sample"),
        ([torch.ones(0, 3, dtype=torch.float64)], "no samples"),
        ([{"z": torch.ones(6, 3)}], "'x'"),
        ([None], "NoneType"),
        (5, "int"),
        ("images", "str"),
        (torch.full((60, 3), torch.inf, dtype=torch.float64), "infinite"),
    ],
)
def test_data_that_do_not_fit(data: Any, words: str) -> None:
    net = network(coarse="identity")
    with pytest.raises(CalibrationError, match=words):
        net.calibrate(data, **QUICK)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"agreement": 0}, "agreement=0"),
        ({"agreement": 99.5}, "agreement=99.5"),
        ({"held_out": 1.0}, "held_out=1"),
        ({"epochs": -1}, "epochs"),
        ({"steps": 0}, "steps"),
        ({"above": "stop"}, "above='stop'"),
        ({"limit": 0.0}, "limit=0.0"),
    ],
)
def test_options_that_cannot_be(option: dict[str, Any], words: str) -> None:
    net = network(coarse="identity")
    with pytest.raises(MethodError, match=words):
        net.calibrate(images(), **{**QUICK, **option})


def test_networks_that_have_no_coarse_ones() -> None:
    with pytest.raises(MethodError, match=r"n=2 or more"):
        network(n=1).calibrate(images(), **QUICK)
    multigrid = compiled(trained(), 2, MGRIT(coarsening=2), images(6))
    with pytest.raises(MethodError, match=r"method=Parareal"):
        multigrid.calibrate(images(), **QUICK)


def test_half_precision() -> None:
    model = trained().bfloat16()
    net = pararealize(model, N, example_inputs=(images(6).bfloat16(),))
    found = net.calibrate(images().bfloat16(), **QUICK)
    assert all(value.dtype == torch.bfloat16 for value in added(net).values() if value.dim())
    assert 0 < found.chosen.sweeps[-1].error < 1
    assert net.eval()(images().bfloat16()).isfinite().all()


# what it says


def tells_the_truth(
    net: ParallelNetwork,
    model: nn.Module,
    data: Any,
    call: Callable[[nn.Module, Any], Any] = lambda module, batch: module(batch),
) -> None:
    """Agreement and error, reckoned again with the network and the original."""
    net.eval()
    twin = copy.deepcopy(model).eval()
    held_out = [batch for i, batch in enumerate(data, start=1) if i % 5 == 0]
    with torch.no_grad():
        pairs = [(answer(call(net, b)), answer(call(twin, b))) for b in held_out]
    same = torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in pairs])
    wrong = [(a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1) for a, b in pairs]
    reached = net.plan.calibration.reached
    assert reached.count == net.plan.calibration.iterations == net.report.sweeps
    assert reached.agreement == pytest.approx(float(same.double().mean()), abs=1e-12)
    assert reached.error == pytest.approx(float(torch.cat(wrong).mean()), rel=1e-9, abs=1e-15)


def own_coarse(_fine: nn.Module, before: Any, _after: Any) -> nn.Module:
    return nn.Linear(before.shape[-1], 4)


COARSE = ("network", "fine", "identity", "rediscretized", "factored", own_coarse)


@pytest.mark.parametrize(
    ("coarse", "correction", "guess"),
    pairwise(COARSE, ["residual", "difference"], ["network", "coarse"]),
)
def test_what_it_says_is_what_the_network_does(coarse: Any, correction: str, guess: str) -> None:
    model = trained()
    method = {"coarse": coarse, "correction": correction, "guess": guess}
    net = calibrated(model, method, agreement=0.3)
    tells_the_truth(net, model, images().split(BATCH))
    found = net.plan.calibration
    first = 1 if guess == "coarse" else 2
    assert [fit.piece for fit in found.chosen.fits] == list(range(first, N + 1))
    assert found.chosen.parameters == sum(p.numel() for p in coarse_parameters(net))
    if coarse == "fine" and correction == "difference":  # law 3
        assert found.reached.error <= 1e-12
        assert all((fit.contraction or 0.0) <= 1e-12 for fit in found.chosen.fits)


def coarse_parameters(net: nn.Module) -> Iterator[nn.Parameter]:
    return (p for name, p in net.named_parameters() if name.startswith("coarse."))


def test_auto_compares_kinds_and_takes_the_fastest_that_agrees() -> None:
    model = trained()
    net = calibrated(model, {"coarse": "auto", "correction": "difference"}, agreement=0.9)
    tells_the_truth(net, model, images().split(BATCH))
    found = net.plan.calibration
    kinds = [candidate.kind for candidate in found.candidates]
    assert {"identity", "rediscretized", "thinned 1"} <= set(kinds)
    assert {fit.piece for fit in found.chosen.fits} == {2, 3, 4}
    assert found.reached.agreement >= 0.9


def test_agreement_decides_on_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest predicted seconds among those that agree."""
    rows = {0: (1.0, 0.0), 1: (0.8, 0.1), 2: (0.95, 0.1), 3: (0.9, 0.01)}
    monkeypatch.setattr(
        "pararealize.calibration.calibrate.score", lambda _s, _p, count, _r: rows[count]
    )
    for agreement, count in ((0.7, 1), (0.8, 1), (0.85, 2), (0.95, 2)):
        net = calibrated(method={"coarse": "identity"}, agreement=agreement, confidence=0.5)
        assert net.plan.calibration.iterations == count
        net(images())
        assert net.report.sweeps == count
        assert net.plan.calibration.wanted == agreement
    with pytest.raises(CalibrationError, match=r"99.00% .*95.00% after 2.*agreement=0.950"):
        calibrated(method={"coarse": "identity"}, agreement=0.99)
    net = calibrated(method={"coarse": "identity"}, agreement=0.99, best=True)
    assert net.plan.calibration.iterations == 2


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, N, 9])
@every_guess
def test_without_an_agreement_sweeps_stay(guess: str, iterations: int) -> None:
    """One at least, for there has to be a jump to judge by, and fewer than make it exact."""
    model = trained()
    method = {"coarse": "identity", "iterations": iterations, "guess": guess}
    net = calibrated(model, method)
    tells_the_truth(net, model, images().split(BATCH))
    assert net.plan.calibration.iterations == min(max(1, iterations), N - 1)


def test_fitting_makes_errors_small() -> None:
    """Smooth layers, and coarse networks as wide as they are."""
    errors = {}
    for epochs in (0, 30):
        method = {"coarse": "network", "correction": "difference", "guess": "coarse"}
        net = network(trained(), **method)
        net.calibrate(images(120), **{**QUICK, "epochs": epochs, "rate": 1e-2})
        errors[epochs] = net.plan.calibration.chosen
    for before, after in zip(errors[0].fits, errors[30].fits, strict=True):
        if before.step_error is not None:
            assert after.step_error < 0.5 * before.step_error
        if before.contraction is not None:
            assert after.contraction < 0.6 * before.contraction
    assert errors[30].sweeps[1].error < 0.5 * errors[0].sweeps[1].error


def test_it_goes_on_from_where_it_is() -> None:
    """After another calibration, and after the fine weights have moved."""
    net = network(coarse="network", correction="difference")
    errors = []
    for _ in range(3):
        net.calibrate(images(), **{**QUICK, "epochs": 4})
        errors.append([fit.contraction for fit in net.plan.calibration.chosen.fits])
    assert all(c < 0.9 * a for a, _, c in zip(*errors, strict=True))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("layers."):
                p.mul_(1.2)
    model = net.to_serial()
    net.calibrate(images(), **QUICK)
    tells_the_truth(net, model, images().split(BATCH))


# sweeps


@pytest.mark.parametrize("above", ["report", "exact"])
@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_nothing_exact_is_evaluated_again(iterations: int, above: str) -> None:
    """In sweep k only pieces after the k-th are; nor what the output does not depend on."""
    method = {"coarse": "identity", "iterations": iterations}
    net = calibrated(method=method, above=above, limit=1e-12)
    calls: Counter[str] = Counter()
    for name, part in net.propagators.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    net(images())
    found = [calls[f"fine.{j}"] for j in range(1, N + 1)]
    asked = [min(j, iterations, N - iterations + 1, N - j + 1) for j in range(1, N + 1)]
    if above == "exact":
        assert net.report.sweeps == N
        assert found == [a + max(0, j - iterations) for j, a in enumerate(asked, start=1)]
    else:
        assert net.report.sweeps == iterations
        assert found == asked


# the certificate


def test_the_estimate_is_that_of_the_jumps_reported() -> None:
    net = calibrated(method={"coarse": "identity", "iterations": 2})
    net(images())
    certificate = net.plan.calibration.certificate
    assert certificate.sweeps == net.report.sweeps == 2
    jumps = {j.interface: torch.tensor(j.samples) for j in net.report.jumps if j.sweep == 1}
    wanted = sum(weight * jumps[j] for j, weight in certificate.weights.items())
    assert torch.allclose(torch.tensor(net.report.errors), wanted.float(), rtol=1e-6)
    assert any(weight > 0 for weight in certificate.weights.values())


def test_coverage_is_that_of_held_out_answers() -> None:
    model = trained()
    net = calibrated(model, {"coarse": "identity"})
    held_out, certificate = images().split(BATCH)[4], net.plan.calibration.certificate
    found, true = net(held_out), copy.deepcopy(model).eval()(held_out)
    wrong = (found - true).norm(dim=1) / true.norm(dim=1)
    estimates = torch.tensor(net.report.errors, dtype=torch.float64)
    assert certificate.coverage == float((wrong <= estimates)[1::2].double().mean())
    assert certificate.limit == pytest.approx(float(estimates[0::2].max()), rel=1e-9)
    best = found.topk(2).values
    times = (estimates / certificate.usual).clamp(min=1)
    close = best[:, 0] - best[:, 1] <= certificate.margin * times
    regions = {region.interface: region for region in certificate.regions}
    away = {m.interface: m.distances for m in net.runner.measures}
    strange = torch.stack([away[j] > r.limit * (1 + 1e-9) for j, r in regions.items()]).any(0)
    doubts = close | strange | (estimates > certificate.limit * (1 + 1e-9))
    assert list(net.report.doubtful) == doubts.tolist()
    assert certificate.doubted == float(doubts[1::2].double().mean())


@pytest.mark.parametrize("tolerance", [None, 0.5])
def test_doubtful_answers_are_reported_warned_of_or_made_exact(tolerance: float | None) -> None:
    x, model = images(seed=8), trained()
    serial = copy.deepcopy(model).eval()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CertificateWarning)
        method = {"coarse": "identity", "tolerance": tolerance}
        net = calibrated(model, method, above="report", limit=1e-9)
        assert not torch.equal(net(x), serial)
        assert all(net.report.doubtful)
        assert f"{SAMPLES} doubtful" in str(net.report)
        net = calibrated(model, method, above="exact", limit=1e-9)
        assert torch.equal(net(x), serial)  # bit for bit
        assert net.report.sweeps == N
        assert not any(net.report.doubtful)
        assert not any(net.report.errors)
    net = calibrated(model, method, above="warn", limit=1e-9)
    with pytest.warns(CertificateWarning, match=f"{SAMPLES} of {SAMPLES} answers"):
        net(x)


def test_where_nothing_is_doubtful_it_stops() -> None:
    net = calibrated(trained(), {"coarse": "fine", "correction": "difference"}, above="exact")
    net(images())
    assert net.report.sweeps == 1
    assert not any(net.report.doubtful)


def test_texts_are_flagged_where_their_answers_are_less_sure(tmp_path: Path) -> None:
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    model = nn.Sequential(nn.Embedding(7, 4), *layers, nn.Linear(4, 7)).double()
    tokens = torch.randint(0, 7, (SAMPLES, 5))
    method = Parareal(correction="difference", guess="coarse")
    net = pararealize(model, 3, method=method, example_inputs=(tokens[:6],))
    net.calibrate(tokens, **QUICK)
    held_out, certificate = tokens.split(BATCH)[4], net.eval().plan.calibration.certificate
    net.save(tmp_path)
    assert load(tmp_path, model).plan.calibration.certificate == certificate
    with torch.no_grad():
        chances = net(held_out).softmax(-1)
    entropy = -(chances * chances.log()).sum(-1).mean(1)
    assert certificate.unsure == pytest.approx(float(entropy[0::2].quantile(0.99)), rel=1e-6)
    assert certificate.margin is None
    half = float(entropy.median()) + 1e-6  # in single precision
    net.rule = Certified(replace(certificate, limit=torch.inf, regions=(), unsure=half))
    net(held_out)
    assert list(net.report.doubtful) == (entropy > half).tolist()
    assert 0 < sum(net.report.doubtful) < BATCH


def test_other_inputs_are_flagged() -> None:
    """Noise many times as large as the data, and what is no number."""
    net = calibrated(epochs=20)
    net(images())
    usual = sum(net.report.doubtful)
    net(30 * images(seed=6))
    assert sum(net.report.doubtful) > max(2 * usual, 0.7 * SAMPLES)
    broken = images()
    broken[3] = torch.nan
    net(broken)
    assert net.report.doubtful[3]
    assert sum(net.report.doubtful) < SAMPLES


# what it keeps


def test_copies_and_files_are_calibrated(tmp_path: Path) -> None:
    net = calibrated(method={"coarse": "network", "iterations": 2}, above="exact", limit=1e-9)
    output, x = net(images()), images()
    net.save(tmp_path)
    copies = [
        load(tmp_path, trained()).eval(),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
    ]
    for twin in copies:
        assert twin.plan.calibration == net.plan.calibration
        assert_same(twin.state_dict(), net.state_dict())
        assert torch.equal(twin(x), output)
        assert twin.report == net.report
        assert twin.report.sweeps == N
    copies[0].calibrate(images(), **QUICK)
    assert copies[0].plan.calibration.certificate.above == "report"
    assert_same(added(copies[1]), added(net))


def test_of_auto_the_kind_is_kept(tmp_path: Path) -> None:
    net = calibrated(method={"coarse": "auto", "guess": "coarse"}, agreement=0.5)
    net.save(tmp_path)
    again = load(tmp_path, trained()).eval()
    assert torch.equal(again(images()), net(images()))
    assert [p.coarse for p in again.plan.pieces] == [p.coarse for p in net.plan.pieces]
    assert again.calibrate(images(), **QUICK, agreement=0.5).candidates


# where it lies


def test_devices_do_what_one_does() -> None:
    method = {"coarse": "network"}
    one = network(**method)
    several = network(**method, at={"devices": ["cpu"] * 2})
    for net in (one, several):
        net.calibrate(images(), **QUICK)
    assert_same(several.state_dict(), one.state_dict())
    found, wanted = (timeless(net.plan.calibration) for net in (several, one))
    assert replace(found, certificate=None) == replace(wanted, certificate=None)
    assert torch.equal(several.eval()(images()), one.eval()(images()))
    assert several.report.errors == one.report.errors


@pytest.mark.parametrize(
    ("ranks", "coarse"), [(2, "identity"), (3, "thinned"), (3, "factored"), (N, "factored")]
)
def test_ranks_do_what_one_process_does(ranks: int, coarse: str) -> None:
    """Threads for ranks; without dropout, for they share PyTorch's random numbers."""
    model = build(Recipe("residual", 8, norm="batch")).eval()
    group, found = LocalGroup(ranks, patience=30), {}
    models = [copy.deepcopy(model) for _ in range(ranks)]
    method = {"coarse": coarse, "correction": "difference", "guess": "coarse"}

    def work(rank: int) -> None:
        net = network(models[rank], **method, at={"comm": group.member(rank)})
        net.calibrate(images(), **QUICK)
        found[rank] = net, net(images())

    on_threads(work, ranks)
    alone = calibrated(model, method)
    wanted, output = timeless(alone.plan.calibration), alone(images())
    assert len(found) == ranks
    for net, here in found.values():
        calibration = timeless(net.plan.calibration)
        assert calibration.chosen.fits == wanted.chosen.fits
        assert calibration.certificate == wanted.certificate
        assert torch.equal(here, output)
        assert net.report.errors == alone.report.errors


def test_measured_seconds_go_with_a_folder_to_other_ranks(tmp_path: Path) -> None:
    model = build(Recipe("residual", 8, norm="batch")).eval()
    alone = calibrated(model, {"coarse": "identity", "correction": "difference"})
    alone.save(tmp_path)
    group, found = LocalGroup(2, patience=30), {}

    def work(rank: int) -> None:
        found[rank] = load(tmp_path, copy.deepcopy(model), comm=group.member(rank)).eval()

    on_threads(work, 2)
    for net in found.values():
        assert net.plan.calibration == alone.plan.calibration
        assert [p.seconds for p in net.plan.pieces] == [p.seconds for p in alone.plan.pieces]
        assert net.plan.ranks == 2
        assert net.plan.parallel_seconds > max(p.seconds for p in net.plan.pieces)


def on_threads(work: Callable[[int], None], ranks: int) -> None:
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
