"""Differences: a network and what it has to equal, on random inputs, and where they differ."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli import memory
from pararealize.cli.specs import FORMS, load_model
from pararealize.cli.terminal import Printer
from pararealize.cli.variants import objective
from pararealize.compiler import pararealize
from pararealize.errors import ModelSpecError
from pararealize.explain.table import Table
from pararealize.ir.chain import TensorSpec
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Plan
from pararealize.loading import load
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.transport import Transport, together
from pararealize.runtime.values.pytree import leaves_of
from pararealize.storage.read import read

#: Subnetworks of a model where nothing is said.
COUNT = 2
#: Largest relative difference (2-norms) in float64: rounding, in another order of sums, which
#: normalisation layers one after another make larger.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Difference:
    """How far two tensors are from each other, relative to the second; the worst of its kind."""

    kind: str
    name: str
    relative: float


@dataclass(frozen=True)
class StepOutcome:
    """What one training step gave: outputs, gradients and buffers by name."""

    outputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def random_inputs(specs: Mapping[str, TensorSpec], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of these shapes; whole numbers are zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(spec, generator) for name, spec in specs.items()}


def _random(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    if spec.dtype.is_floating_point:
        return torch.randn(spec.shape, generator=generator).to(spec.dtype)
    return torch.randint(0, 2, spec.shape, generator=generator).to(spec.dtype)


def outcome(net: nn.Module, inputs: Mapping[str, Any], seed: int = 0) -> StepOutcome:
    """One training step under the seed, without a change of weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net.zero_grad()
        output = net(**inputs)
        torch.autograd.backward(objective(output))
    leaves = [leaf.detach() for leaf in leaves_of(output) if isinstance(leaf, Tensor)]
    return StepOutcome(
        {f"output {i}": leaf for i, leaf in enumerate(leaves)},
        {k: p.grad.detach() for k, p in net.named_parameters() if p.grad is not None},
        {k: b.detach().clone() for k, b in net.named_buffers()},
    )


def differences(found: StepOutcome, wanted: StepOutcome) -> list[Difference]:
    """The worst output, gradient and buffer among those that ``found`` has."""
    rows = []
    for kind in ("outputs", "gradients", "buffers"):
        here, there = getattr(found, kind), getattr(wanted, kind)
        names = [name for name in here if name in there]
        scale = max((_norm(there[name]) for name in names), default=0.0)
        rows += [Difference(kind, n, _relative(here[n], there[n], scale)) for n in names]
    return [*worst_of(rows), *_whole_gradient(found.gradients, wanted.gradients)]


def _whole_gradient(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Difference]:
    """The gradient of all parameters as one vector: single ones may be next to nothing."""
    names = [name for name in found if name in wanted]
    wrong = sum(_norm(found[name].double() - wanted[name].double()) ** 2 for name in names)
    size = sum(_norm(wanted[name]) ** 2 for name in names)
    return [Difference("gradient", "all parameters", (wrong / size) ** 0.5)] if size else []


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _relative(found: Tensor, wanted: Tensor, scale: float) -> float:
    """Relative to the tensor itself, or to the largest of its kind where it is next to nothing."""
    difference = _norm(found.double() - wanted.double())
    size = max(_norm(wanted), 1e-3 * scale)
    return difference / size if size else difference


def compare(
    net: nn.Module, other: nn.Module, inputs: Mapping[str, Any], modes: tuple[bool, ...]
) -> list[Difference]:
    """Differences over the modes, on copies, so that no statistics move."""
    rows: list[Difference] = []
    for training in modes:
        here, there = (outcome(copy.deepcopy(m).train(training), inputs) for m in (net, other))
        rows += differences(here, there)
    return worst_of(rows)


def worst_of(rows: Iterable[Difference]) -> list[Difference]:
    """The worst of each kind."""
    worst: dict[str, Difference] = {}
    for row in rows:
        if row.kind not in worst or row.relative > worst[row.kind].relative:
            worst[row.kind] = row
    return list(worst.values())


def tell(title: str, rows: list[Difference], tolerance: float, say: Printer) -> bool:
    """Print the differences; whether all are within the tolerance."""
    within = [row.relative <= tolerance for row in rows]
    cells = [
        (row.kind, row.name, f"{row.relative:.1e}", "ok" if good else f"more than {tolerance:.0e}")
        for row, good in zip(rows, within, strict=True)
    ]
    columns = ("worst of", "name", "relative difference", "")
    say(Table(title, columns, cells, left=("worst of", "name", "")))
    return all(within)


@dataclass(frozen=True)
class Pair:
    """What is compared: a saved folder with its ``model``, or a model; cut in ``n`` where given."""

    target: str
    model: str = ""
    n: int | None = None
    example: tuple[Tensor, ...] | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan of a folder; ``None`` for a model."""
        return read(self.target).plan if Path(self.target).is_dir() else None

    @property
    def needs(self) -> int:
        """Bytes that a process takes to compare them; see :func:`memory.comparison`."""
        plan = self.plan
        if plan is not None:
            _named(self.target, self.model)
            pieces = sum(piece.memory for piece in plan.pieces)
            return memory.comparison(plan.parameters + plan.added_parameters, pieces)
        found = load_model(self.target)
        return memory.comparison(sum(p.numel() for p in found.parameters()))


def on_ranks(pair: Pair, comm: Any) -> tuple[str, list[Difference]]:
    """The network on the ranks of ``comm`` beside the same one in this process."""
    transport = connect(comm)
    with together(transport):
        alone = _network(pair)
    net = _network(pair, transport)
    rows = compare(net.double(), alone.double(), _double(alone), (True, False))
    title = f"{alone.plan.model}, n = {alone.plan.n}: {comm.size} ranks beside one process, float64"
    return title, worst_of(chain.from_iterable(transport.exchange(rows)))


def exact(pair: Pair) -> tuple[str, list[Difference]]:
    """A model, or a saved one, cut and corrected by its own layers, beside itself, in float64.

    A saved network keeps its number of subnetworks, cuts and method, of which only what is not
    exact by law is changed; with another ``n`` its weights alone are used.

    Raises:
        ModelSpecError: the target is a folder, and no model is named.

    """
    plan, serial = pair.plan, _serial(pair).double()
    given = None if pair.example is None else tuple(leaf.double() for leaf in pair.example)
    method, cuts = exactly(Parareal(), 1), None
    n, how = pair.n or (plan.n if plan else COUNT), "exact corrections"
    if plan is not None and n == plan.n:
        method, cuts, how = exactly(plan.method, n), list(plan.cuts), "as saved, made exact"
        given = given or tuple(_random_like(plan.specs).values())
    net = pararealize(serial, n, method=method, example_inputs=given, interfaces=cuts)
    rows = compare(net, serial, _double(net), (True, False))
    said = f"{method.iterations} sweeps" if isinstance(method, Parareal) else f"MGRIT, {n} cycles"
    title = f"{net.plan.model}, n = {n}, {how} ({said}), beside the serial model, float64"
    return title, rows


def exactly(method: Method, n: int) -> Method:
    """The method with what is exact by law: Φ as its own corrector, or as many cycles as slices."""
    if isinstance(method, Parareal):
        sweeps = max(1, method.iterations)
        kind: dict[str, Any] = {"coarse": "fine", "correction": "difference", "tolerance": None}
        return replace(method, **kind, iterations=sweeps, coarse_depth=1)
    cycles: dict[str, Any] = {
        "forward_cycles": n,
        "backward_cycles": n,
        "max_cycles": max(n, method.max_cycles),
    }
    return replace(method, **cycles, tolerance=None, bias_bound=None)


def _random_like(specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    found = random_inputs(specs)
    return {k: v.double() if v.is_floating_point() else v for k, v in found.items()}


def _serial(pair: Pair) -> nn.Module:
    """The serial network: the named model, or what a saved network goes back to."""
    if not Path(pair.target).is_dir():
        return load_model(pair.target)
    return load(pair.target, load_model(_named(pair.target, pair.model))).to_serial()


def _named(target: str, model: str) -> str:
    if model:
        return model
    raise ModelSpecError(
        f"{target} holds weights and a plan, and no code: name the model it was saved from, "
        f"pararealize check {target} --model {FORMS.partition(',')[0]}."
    )


def _double(net: ParallelNetwork) -> dict[str, Tensor]:
    return _random_like(net.plan.specs)


def _network(pair: Pair, comm: Transport | None = None) -> ParallelNetwork:
    """The network as it is in the folder, in ``n`` where that is given, or of a model."""
    torch.manual_seed(0)
    if not Path(pair.target).is_dir():
        model, n = load_model(pair.target), pair.n or COUNT
        return pararealize(model, n, example_inputs=pair.example, comm=comm)
    model = load_model(_named(pair.target, pair.model))
    return load(pair.target, model, pair.n, example_inputs=pair.example, comm=comm)
