"""The plain line: networks compiled with nothing but ``n`` and inputs, beside the originals."""

from __future__ import annotations

import copy
import inspect
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.coarse.setting import LayerCosts
from pararealize.compiler import pararealize
from pararealize.cut.min_max import min_max
from pararealize.errors import PararealizeError, ShapeError
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.network import ParallelNetwork
from pararealize.runtime.values.pytree import tensors_of
from studies.subjects import Inputs, Subject

#: Corrections by the subnetworks themselves: one sweep equals the serial network.
EXACT = Parareal(coarse="fine", correction="difference")
#: Rounding in differences of states, of float32 where networks in float64 compute in it.
TOLERANCE = 1e-6
#: The same of networks in float32, whose normalisations of few numbers enlarge it.
SINGLE = 1e-4
#: What an error that asks for it says of a list of blocks.
BLOCKS = re.compile(r"blocks=['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Fared:
    """How one network fared: ``equal``, ``advice``, ``refused``, ``late``, ``crash`` or ``wrong``.

    ``off`` is the largest difference of outputs, gradients and buffers in both modes, ``batch`` and
    ``size`` how calls with others than those of the example ended, ``plain`` whether it compiles
    without inputs, ``default`` whether it runs with guesses and coarse networks of their own.
    ``balance`` is the heaviest subnetwork's time in the mean one's, ``best`` the least that cuts of
    the chain could have, ``share`` the heaviest one's part of all.
    """

    name: str
    outcome: str
    why: str = ""
    found: str = ""
    n: int = 0
    cuts: int = 0
    balance: float = 0.0
    best: float = 0.0
    share: float = 0.0
    seconds: float = 0.0
    off: float = 0.0
    batch: str = ""
    size: str = ""
    plain: str = ""
    default: str = ""
    whole: str = ""


@contextmanager
def in_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A block in which networks, and what they make of sizes, are of that dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def fare(name: str, subject: Subject, n: int = 4) -> Fared:
    """Compile one network by the plain line, and compare outputs and gradients in both modes."""
    warnings.simplefilter("ignore")
    with in_dtype(subject.dtype):
        model, given = subject.build()
        others = subject.others(given)
        return _exact(name, model, given, others, {"n": n, **subject.options()})


def without_inputs(subject: Subject, n: int = 4) -> str:
    """Whether ``pararealize(model, n)`` compiles it: ``yes``, or what is said instead."""
    warnings.simplefilter("ignore")
    with in_dtype(subject.dtype):
        model, _ = subject.build()
        return _tried(lambda: pararealize(model, n, **subject.options()))


def by_default(subject: Subject, n: int) -> str:
    """Whether the method by default runs, for the example and for whatever the network takes."""
    warnings.simplefilter("ignore")
    with in_dtype(subject.dtype):
        model, given = subject.build()
        return _default(model, given, subject.others(given), n)


def _exact(
    name: str, model: nn.Module, given: Inputs, others: Mapping[str, Inputs], options: Inputs
) -> Fared:
    begin, advised, first = time.perf_counter(), False, ""
    try:
        try:
            net = _compiled(model, given, options)
        except PararealizeError as refusal:
            first, advised = _said(refusal), True
            net = _compiled(model, given, {**options, **advice(refusal, model)})
    except PararealizeError as refusal:
        return Fared(name, "refused", first or _said(refusal))
    except Exception as fault:  # it is a row of the table
        return Fared(name, "crash", _said(fault))
    seconds = time.perf_counter() - begin
    outcome, why, off = beside(net, model, given)
    ends = {k: beside(net, model, v, modes=(False,))[0] for k, v in others.items()}
    if advised and outcome == "equal":
        outcome, why = "advice", first
    plan = net.plan
    times = [piece.seconds for piece in plan.pieces]
    return Fared(
        *(name, outcome, why, found(plan), plan.n, plan.interfaces),
        balance=max(times) * len(times) / max(sum(times), 1e-30),
        best=_best(net),
        share=max(times) / max(sum(times), 1e-30),
        whole=", ".join(plan.tracing.found),
        seconds=seconds,
        off=off,
        batch=ends.get("batch", ""),
        size=ends.get("size", ""),
    )


def _best(net: ParallelNetwork) -> float:
    """The heaviest piece in the mean one of the chain's most even cut, by its layers alone."""
    n, layers = net.plan.n, net._emission.decisions.partition.chain.layers
    fine = LayerCosts(tuple(layer.cost for layer in layers))
    pieces = pairwise(min_max(len(layers), n, fine.seconds, fine.seconds))
    return max(fine.seconds(*p) for p in pieces) * n / max(fine.seconds(0, len(layers)), 1e-30)


def found(plan: Plan) -> str:
    """Which lists of blocks were found, or why it was not compared."""
    return plan.tracing.unverified or plan.tracing.blocks


def _compiled(model: nn.Module, given: Inputs, options: Inputs) -> ParallelNetwork:
    return pararealize(model, method=EXACT, example_kwargs=copy.deepcopy(given), **options)


def advice(refusal: PararealizeError, model: nn.Module) -> Inputs:
    """What an error says to write, as far as a program can do it.

    Raises:
        PararealizeError: the error, where it says no such thing.

    """
    said = str(refusal)
    if "layerdrop = 0.0" in said:
        config: Any = model.config
        config.layerdrop = 0.0
        return {}
    most = re.search(r"write n=(\d+) or less", said)
    if most is not None:
        return {"n": int(most[1])}
    if (blocks := BLOCKS.search(said)) is not None:
        return {"blocks": blocks[1]}
    raise refusal


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _tried(compiles: Any) -> str:
    try:
        compiles()
    except PararealizeError as refusal:
        return f"refused: {_said(refusal)}"
    except Exception as fault:  # it is a cell of the table
        return f"crash: {_said(fault)}"
    return "yes"


def _default(model: nn.Module, given: Inputs, others: Mapping[str, Inputs], n: int) -> str:
    def run() -> None:
        net = pararealize(copy.deepcopy(model), n, example_kwargs=copy.deepcopy(given))
        for inputs in (given, *others.values()):
            if not isinstance(_taken(model, inputs), Exception):
                answers(net, inputs, training=True)

    return _tried(run)


def _taken(model: nn.Module, given: Inputs) -> Any:
    """What the original answers, or the error that it raises."""
    try:
        return answers(model, given, training=True)
    except Exception as refusal:  # a size that it does not take
        return refusal


def beside(
    net: nn.Module, model: nn.Module, given: Inputs, modes: Sequence[bool] = (True, False)
) -> tuple[str, str, float]:
    """How a call ends beside the original's, why, and how far both are apart."""
    off = 0.0
    for training in modes:
        mode = "train" if training else "eval"
        try:
            wanted = answers(model, given, training)
        except Exception as refusal:  # which is the network's own
            return "none", _said(refusal), off
        try:
            there, worst = _difference(wanted, answers(net, given, training))
        except ShapeError as refusal:
            return "refused", _said(refusal), off
        except Exception as fault:  # it is a row of the table
            return "crash", f"in a call, {_said(fault)}", off
        if not worst < (TOLERANCE if torch.get_default_dtype() == torch.float64 else SINGLE):
            return "wrong", f"{mode}: {there} is off by {worst:.1e}", worst
        off = max(off, worst)
    return "equal", "", off


def answers(net: nn.Module, given: Inputs, training: bool) -> tuple[Any, dict[str, Tensor]]:
    """The output, and all gradients and buffers of a copy, under one seed."""
    net, given = copy.deepcopy(net).train(training), copy.deepcopy(given)
    takes = inspect.signature(net.forward).parameters
    off = {name: False for name in ("use_cache", "use_mems") if name in takes}
    torch.manual_seed(3)
    output = net(**given, **off)
    losses = [t.abs().square().mean() for t in tensors_of(output) if t.requires_grad]
    if losses:
        torch.stack([loss.double() for loss in losses]).sum().backward()
    kept = {k: b for k, b in net.named_buffers() if not k.startswith(("coarse.", "guess."))}
    grads = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    return output, {**grads, **kept}


def _difference(wanted: tuple[Any, Any], seen: tuple[Any, Any]) -> tuple[str, float]:
    """What differs most, and by how much; infinitely where forms do."""
    if type(wanted[0]) is not type(seen[0]):
        return f"the answer, {type(seen[0]).__name__} for {type(wanted[0]).__name__},", float("inf")
    if isinstance(wanted[0], Mapping) and list(wanted[0]) != list(seen[0]):
        return f"the answer, {list(seen[0])} for {list(wanted[0])},", float("inf")
    pairs = list(zip(tensors_of(wanted[0]), tensors_of(seen[0]), strict=True))
    worst = ("the output", max(_relative(a, b, a) for a, b in pairs))
    sizes = [v.abs().max() for v in wanted[1].values() if v.numel() and v.is_floating_point()]
    largest = max(sizes, default=torch.ones(1))
    for path, value in wanted[1].items():
        off = _relative(value, seen[1].get(path, torch.zeros_like(value)), largest)
        worst = max(worst, (path, off), key=lambda pair: pair[1])
    return worst


def _relative(wanted: Tensor, seen: Tensor, largest: Tensor) -> float:
    if wanted.shape != seen.shape:
        return float("inf")
    if not wanted.is_floating_point() and not wanted.is_complex():
        return 0.0 if torch.equal(wanted, seen) else float("inf")
    if not wanted.numel() or torch.equal(wanted, seen):
        return 0.0
    same = (wanted == seen) | (wanted.isnan() & seen.isnan())  # infinities
    off = torch.where(same, 0.0, wanted - seen).abs().max()
    finite = torch.where(largest.isfinite(), largest, 0.0)
    return float(off / finite.abs().max().clamp_min(1e-30))
