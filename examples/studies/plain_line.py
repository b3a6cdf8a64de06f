"""The plain line: networks compiled with nothing but ``n`` and inputs, beside the originals."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.compiler import pararealize
from pararealize.errors import PararealizeError
from pararealize.explain.table import Table
from pararealize.ir.methods import Parareal
from pararealize.runtime.values.pytree import tensors_of
from studies.architectures import Architecture

#: Corrections by the subnetworks themselves: one sweep equals the serial network.
EXACT = Parareal(coarse="fine", correction="difference")
#: Rounding in differences of states, of float32 where networks in float64 compute in it.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fared:
    """How one network fared: ``equal``, ``refused``, ``crash`` or ``wrong``, and why."""

    name: str
    outcome: str
    why: str = ""
    found: str = ""
    cuts: int = 0
    seconds: float = 0.0
    other: str = ""


def fare(name: str, architecture: Architecture, n: int = 4) -> Fared:
    """Compile one network by the plain line, and compare outputs and gradients in both modes."""
    warnings.simplefilter("ignore")
    model, given = architecture.build()
    begin = time.perf_counter()
    try:
        net = pararealize(model, n, method=EXACT, example_kwargs=given)
    except PararealizeError as refusal:
        return Fared(name, "refused", f"{type(refusal).__name__}: {refusal}")
    except Exception as fault:  # it is a row of the table
        return Fared(name, "crash", f"{type(fault).__name__}: {fault}")
    seconds = time.perf_counter() - begin
    found = net.plan.tracing.unverified or net.plan.tracing.blocks
    outcome, why = _beside(net, model, given)
    other, _ = _beside(net, model, {k: torch.cat([v, v[:1]]) for k, v in given.items()})
    return Fared(name, outcome, why, str(found), net.plan.interfaces, seconds, other)


def _beside(net: nn.Module, model: nn.Module, given: Mapping[str, Any]) -> tuple[str, str]:
    try:
        for training in (True, False):
            wanted = answers(model, given, training)
            found = answers(net, given, training)
            if why := _difference(wanted, found):
                return "wrong", f"{'train' if training else 'eval'}: {why}"
    except Exception as fault:  # it is a row of the table
        return "crash", f"in a call, {type(fault).__name__}: {fault}"
    return "equal", ""


def answers(
    net: nn.Module, given: Mapping[str, Any], training: bool
) -> tuple[Any, dict[str, Tensor]]:
    """The output and all gradients of a copy under one seed."""
    net = copy.deepcopy(net).train(training)
    takes = inspect.signature(net.forward).parameters
    off = {name: False for name in ("use_cache", "use_mems") if name in takes}
    torch.manual_seed(3)
    output = net(**given, **off)
    losses = [t.square().mean() for t in tensors_of(output) if t.requires_grad]
    torch.stack(losses).sum().backward()
    return output, {k: p.grad for k, p in net.named_parameters() if p.grad is not None}


def _difference(wanted: tuple[Any, Any], found: tuple[Any, Any]) -> str:
    if type(wanted[0]) is not type(found[0]):
        return f"{type(found[0]).__name__} in place of {type(wanted[0]).__name__}"
    if isinstance(wanted[0], Mapping) and list(wanted[0]) != list(found[0]):
        return f"{list(found[0])} in place of {list(wanted[0])}"
    pairs = list(zip(tensors_of(wanted[0]), tensors_of(found[0]), strict=True))
    worst = max(_relative(a, b) for a, b in pairs)
    if not worst < TOLERANCE:
        return f"the output is off by {worst:.1e}"
    largest = max((g.abs().max() for g in wanted[1].values()), default=torch.tensor(1.0))
    off = {k: float((found[1].get(k, 0) - g).abs().max() / largest) for k, g in wanted[1].items()}
    path = max(off, key=off.__getitem__)
    return "" if off[path] < TOLERANCE else f"the gradient of {path} is off by {off[path]:.1e}"


def _relative(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(wanted, found) else float("inf")
    same = wanted == found  # infinities
    off = torch.where(same, 0.0, wanted - found).abs().max()
    return float(off / torch.where(wanted.isfinite(), wanted, 0.0).abs().max().clamp_min(1e-30))


def table(rows: Sequence[Fared]) -> Table:
    """The rows as a table."""
    columns = ("network", "outcome", "other batch", "blocks", "cuts", "s", "why")
    cells = [
        (row.name, row.outcome, row.other, row.found, str(row.cuts), f"{row.seconds:.1f}", row.why)
        for row in rows
    ]
    title = (
        "compiled by pararealize(model, n=4, example_inputs), beside the original, train and eval"
    )
    return Table(title, columns, cells, left=("network", "outcome", "other batch", "blocks", "why"))


def counts(rows: Sequence[Fared]) -> str:
    """How many networks there are of each outcome."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(r.outcome for r in rows).items())
