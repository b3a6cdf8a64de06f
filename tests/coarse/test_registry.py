"""Kinds of coarse propagators: what the registry offers, one of one's own, and saved ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, final

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, load, pararealize
from pararealize.cli.options import HEEDED
from pararealize.coarse import registry
from pararealize.coarse.copies import Stepped, Thinned
from pararealize.coarse.factored import Factored
from pararealize.coarse.generic import Generic
from pararealize.coarse.intervals import Sampled
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.network import OwnLayers
from pararealize.coarse.registry import asked, described, kind_of_saved
from pararealize.coarse.setting import Setting, Site
from pararealize.errors import CoarseError, MethodError
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method, coarse_names
from pararealize.models import odenet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Scaling(nn.Module):
    """a x, with one weight."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


@final
@dataclass(frozen=True)
class Toy(CoarseKind):
    """A number times the state, which must keep its shape."""

    name = "toy"
    heeds = ("coarse_rank",)
    keeps_zero = True
    candidates = ({"scale": 1.0},)
    scale: float = 0.25

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        del j
        return cls(method.coarse_rank) if isinstance(method, Parareal) else cls()

    def __str__(self) -> str:
        return f"{self.name} {self.scale:g}"

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        for last in range(first + 1, len(setting.chain.layers) + 1):
            source, target = setting.states(first, last)
            yield Cost(seconds=1e-5) if source == target else None

    def build(self, site: Site) -> Coarse | None:
        source, target = site.states
        if source != target:
            return None
        weight = next(site.setting.model.parameters())
        return self.network(site, Cost(seconds=1e-5), Scaling(self.scale).to(weight.dtype))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registration."""
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, Toy))


def model() -> nn.Module:
    torch.manual_seed(0)
    return odenet(12, width=6, in_features=6).double()


def inputs(count: int = 64) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1)).double()


def kinds(net: ParallelNetwork) -> list[str]:
    return [piece.coarse for piece in net.plan.pieces if piece.coarse != "none"]


@pytest.mark.usefixtures("toy")
def test_a_kind_of_ones_own_needs_its_registration_only(tmp_path: Path) -> None:
    assert "toy" in coarse_names(Parareal)
    method = Parareal("toy", "difference", coarse_rank=0.5)
    net = pararealize(model(), 3, method=method, example_inputs=(inputs(4),))
    assert kinds(net) == ["toy 0.5"] * 2
    assert all(isinstance(net.coarse[j], Scaling) for j in ("2", "3"))
    assert [p.coarse_seconds for p in net.plan.pieces[1:]] == [1e-5] * 2
    assert "toy 0.5" in net.explain()
    net(inputs(4)).sum().backward()
    assert all(part.scale.grad is not None for part in net.coarse.children())
    net.save(tmp_path / "net")
    piece = json.loads((tmp_path / "net" / "plan.json").read_text())["plan"]["pieces"][1]
    assert (piece["coarse_kind"], piece["coarse_options"]) == ("toy", {"scale": 0.5})
    loaded = load(tmp_path / "net", model())
    assert kinds(loaded) == kinds(net)
    assert torch.equal(loaded(inputs(4)), net(inputs(4)))


@pytest.mark.usefixtures("toy")
def test_a_kind_of_ones_own_is_calibrated() -> None:
    x = inputs()
    method = Parareal("auto", "difference", guess="coarse")
    net = pararealize(model(), 3, method=method, example_inputs=(x[:8],)).eval()
    net.calibrate([x[i : i + 8] for i in range(0, 64, 8)], epochs=1, best=True)
    assert net.plan.calibration is not None
    assert "toy 1" in [candidate.kind for candidate in net.plan.calibration.candidates]
    method = replace(method, coarse="toy", guess="network")
    net = pararealize(model(), 3, method=method, example_inputs=(x[:8],)).eval()
    net.calibrate([x[i : i + 8] for i in range(0, 64, 8)], epochs=1, best=True)
    assert net.plan.calibration is not None
    assert [candidate.kind for candidate in net.plan.calibration.candidates] == ["toy"]


def test_a_kind_may_be_given_as_an_object(tmp_path: Path) -> None:
    for kind in (Toy(0.5), Thinned(2)):
        method = Parareal(kind, "difference")
        net = pararealize(model(), 3, method=method, example_inputs=(inputs(4),))
        assert kinds(net) == [str(kind)] * 2
        net.save(tmp_path / kind.name)
        given = kind if isinstance(kind, Toy) else None
        loaded = load(tmp_path / kind.name, model(), coarse=given)
        assert torch.equal(loaded(inputs(4)), net(inputs(4)))
    with pytest.raises(MethodError, match=r"'kind:toy': pass the same kind as .*coarse=kind"):
        load(tmp_path / "toy", model())


def test_an_object_that_a_name_means_is_that_name() -> None:
    assert Parareal(Thinned(2), coarse_depth=2) == Parareal("thinned", coarse_depth=2)
    assert Parareal(Thinned(3), coarse_depth=2).coarse == Thinned(3)
    with pytest.raises(MethodError, match="expected one of 'auto'"):
        MGRIT(coarse=Thinned(2))  # type: ignore[arg-type]


def test_every_kind_is_described_by_its_parameters() -> None:
    for family in registry.KINDS:
        kind = family.of(Parareal(coarse_depth=3, coarse_rank=0.5), 1)
        values = json.loads(json.dumps({**kind.options, "kind": kind.name}))
        assert described(values) == kind
    earlier = described({"kind": "own layers", "depth": 2})
    assert earlier == OwnLayers(2, by_batch=True)  # plans that say nothing of it have kept it
    assert described({"kind": "generic"}) == Generic(reads_all=False)
    for values in (
        {"kind": "fancy"},
        {"kind": "own layers", "by": 1},
        {"kind": "mean", "depth": 1},
    ):
        with pytest.raises(CoarseError, match="no kind of coarse propagator"):
            described(values)
    with pytest.raises(ValueError, match="depth"):
        described({"kind": "thinned", "depth": "2"})


def test_methods_and_options_name_the_kinds_that_know_them() -> None:
    assert coarse_names(Parareal)[0] == "network"
    assert coarse_names(MGRIT)[0] == "auto"
    assert "fitted" in set(coarse_names(MGRIT)) - set(coarse_names(Parareal))
    for name in (*coarse_names(Parareal), *coarse_names(MGRIT)):
        assert registry.find(name) is not None
    heeded = {name: set(registry.heeding(name)) for name in HEEDED}
    assert heeded["coarse_depth"] == {"network", "auto", "thinned", "stepped"}
    assert heeded["coarse_budget"] == {"network", "auto"}
    assert heeded["coarse_rank"] == {"network", "auto", "factored"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("thinned 2", Thinned(2)),
        ("stepped 3", Stepped(3)),
        ("factored 0.5", Factored(0.5)),
        ("own layers", OwnLayers(4)),
        ("sampled", Sampled()),
    ],
)
def test_texts_of_older_plans_are_kinds(text: str, kind: CoarseKind) -> None:
    assert kind_of_saved(text, Parareal(coarse_depth=4), 2) == kind
    for wrong in ("thinned x", "fancy 2"):
        with pytest.raises(CoarseError, match="was written"):
            kind_of_saved(wrong, Parareal(), 2)


@pytest.mark.parametrize("name", ["stepped", "factored", "network", "auto", "sampled"])
def test_plans_without_parameters_are_read(name: str, tmp_path: Path) -> None:
    method = Parareal(name, "difference", guess="coarse", coarse_depth=2)
    net = pararealize(model(), 3, method=method, example_inputs=(inputs(4),))
    net.save(tmp_path / "net")
    path = tmp_path / "net" / "plan.json"
    plan = json.loads(path.read_text())
    for piece in plan["plan"]["pieces"]:
        del piece["coarse_kind"], piece["coarse_options"]
    del plan["digest"]  # nor had they one
    path.write_text(json.dumps(plan))
    loaded = load(tmp_path / "net", model())
    assert kinds(loaded) == kinds(net)
    assert torch.equal(loaded(inputs(4)), net(inputs(4)))


def test_the_kind_of_a_method_has_its_options() -> None:
    assert asked(Parareal("stepped", coarse_depth=(3, 1)), 1) == Stepped(3)
    assert asked(Parareal("stepped", coarse_depth=(3, 1))) == Stepped(2)
    assert asked(MGRIT(coarse="sampled", samples=5)) == Sampled(5)
