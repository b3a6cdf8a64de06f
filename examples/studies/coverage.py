"""Coverage: which networks compile, how they are cut, and how exactly they equal the original."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pararealize.cli.differences import Difference, compare, random_inputs
from pararealize.cli.specs import load_model
from pararealize.cli.zoos import import_torchvision
from pararealize.compiler import pararealize
from pararealize.errors import ShapeError
from pararealize.ir.methods import Parareal
from pararealize.network import ParallelNetwork
from pararealize.tracing.trace import trace

#: Corrections by the subnetworks themselves: one sweep equals the serial network.
EXACT = Parareal(coarse="fine", correction="difference")


@dataclass(frozen=True)
class CoverageRow:
    """How one network fared; ``error`` is empty where it compiled.

    ``width`` is the largest number of tensors in a state; ``state`` whether names and weights go
    to the parallel network and back bit for bit, also after a step and at another n.
    """

    model: str
    size: int = 0
    n: int = 0
    interfaces: int = 0
    width: int = 0
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    differences: tuple[Difference, ...] = ()
    state: bool = False
    error: str = ""

    def worst(self, kind: str) -> float:
        """The largest relative difference of its kind."""
        return max((d.relative for d in self.differences if d.kind == kind), default=0.0)


def cover(
    spec: str, n: int = 4, sizes: Sequence[int] = (96, 224, 299), batch: int = 2
) -> CoverageRow:
    """Compile a network of images at the first size that it takes, and compare it in float32."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = load_model(spec)
    error = "no size given"
    for size in sizes:
        try:
            return _cover(spec, model, n, torch.randn(batch, 3, size, size))
        except ShapeError as refusal:
            error = str(refusal)
        except Exception as fault:  # it is a row of the table
            return CoverageRow(spec, size, error=f"{type(fault).__name__}: {fault}")
    return CoverageRow(spec, error=error)


def _cover(spec: str, model: nn.Module, n: int, x: Tensor) -> CoverageRow:
    begin = time.perf_counter()
    trace(model)
    seconds = time.perf_counter() - begin
    most = pararealize(model, 1, example_inputs=(x,)).plan.interfaces + 1
    begin = time.perf_counter()
    net = pararealize(model, min(n, most), method=EXACT, example_inputs=(x,))
    return CoverageRow(
        model=spec,
        size=x.shape[-1],
        n=net.plan.n,
        interfaces=most - 1,
        width=max(len(piece.state) for piece in net.plan.pieces),
        trace_seconds=seconds,
        compile_seconds=time.perf_counter() - begin,
        differences=tuple(compare(net, model, random_inputs(net.plan.specs), (True, False))),
        state=_keeps_state(net, model, x),
    )


def _keeps_state(net: ParallelNetwork, model: nn.Module, x: Tensor) -> bool:
    """Names and weights go over and back bit for bit, also after a step and at another n."""
    net.load_state_dict(model.state_dict())
    same = _alike(net.to_serial(), model)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.001)
        net.train()(x)
    trained = net.to_serial()
    other = pararealize(model, max(1, net.plan.n - 1), method=EXACT, example_inputs=(x,))
    other.load_state_dict(trained.state_dict())
    return same and _alike(other.to_serial(), trained) and not _alike(trained, model)


def _alike(net: nn.Module, other: nn.Module) -> bool:
    here, there = (module.state_dict() for module in (net, other))
    return here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)


def names() -> list[str]:
    """All of torchvision's classification models, as the command line names them."""
    models = import_torchvision()
    return [f"torchvision:{name}" for name in models.list_models(module=models)]
