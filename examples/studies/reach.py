"""Reach: what is left of a network's behaviour once a tool has cut it, asked alike of all tools.

Nothing is taken from what a tool promises: modes, names, gradients and ties of what it made out of
a model in train mode are compared with those of the serial network, in float64.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize.cli.differences import ROUNDING, StepOutcome, differences, outcome
from pararealize.emit.adoption import is_added
from studies.processes import brief

QUESTIONS = ("follows eval()", "keeps names", "equals serial", "keeps ties")


@dataclass(frozen=True)
class Case:
    """A network, the inputs of one call, and the modules before which a pipeline is split."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    splits: tuple[str, ...]

    @property
    def pieces(self) -> int:
        """How many a pipeline has, and every other tool is asked for."""
        return len(self.splits) + 1


@dataclass(frozen=True)
class Tool:
    """What cuts networks.

    ``pieces`` are the modules whose state dictionaries a user saves. ``step`` is one training step
    that changes no weights, and what it gave on each of the ranks that the tool wants.
    """

    name: str
    cut: Callable[[nn.Module, Case], nn.Module]
    pieces: Callable[[nn.Module], list[nn.Module]]
    step: Callable[[nn.Module, Case], list[StepOutcome]]


@dataclass(frozen=True)
class Finding:
    """``yes``, ``no`` or ``n/a``, and why."""

    answer: str
    reason: str = ""


@dataclass(frozen=True)
class ReachRow:
    """What was found about one tool on one network."""

    tool: str
    case: str
    pieces: int
    compiles: Finding
    seconds: float | None = None
    findings: Mapping[str, Finding] = field(default_factory=dict)


def examine(tool: Tool, case: Case) -> ReachRow:
    """Cut the network and ask every question."""
    torch.manual_seed(0)
    model = case.build().double().train()
    begin = time.perf_counter()
    try:
        net = tool.cut(copy.deepcopy(model), case)
    except Exception as error:
        return ReachRow(tool.name, case.name, case.pieces, Finding("no", brief(error)))
    seconds = time.perf_counter() - begin
    answers = (
        _ask(follows_eval, model, net, case),
        _ask(keeps_names, model, tool.pieces(net)),
        _ask(equals_serial, model, tool, case),
        _ask(keeps_ties, model, tool.pieces(net)),
    )
    findings = dict(zip(QUESTIONS, answers, strict=True))
    return ReachRow(tool.name, case.name, case.pieces, Finding("yes"), seconds, findings)


def _ask(question: Callable[..., Finding], *subjects: Any) -> Finding:
    try:
        return question(*subjects)
    except Exception as error:
        return Finding("no", brief(error))


def follows_eval(model: nn.Module, net: nn.Module, case: Case) -> Finding:
    """Whether what was cut in train mode answers after ``eval()`` as the original does."""
    trained = _answers(copy.deepcopy(model), case)
    wanted = _answers(copy.deepcopy(model).eval(), case)
    if _gap(trained, wanted) <= ROUNDING:
        return Finding("n/a", "both modes of the network compute the same")
    found = _answers(net.eval(), case)
    if _gap(found, trained) <= ROUNDING:
        return Finding("no", "after eval() it still answers as in train mode")
    gap = _gap(found, wanted)
    return _within(gap, f"after eval() the output is off by {gap:.1g}")


def keeps_names(model: nn.Module, pieces: list[nn.Module]) -> Finding:
    """Whether parameters and buffers are saved under the original's names."""
    wanted = set(model.state_dict())
    found = {name for piece in pieces for name in piece.state_dict() if not is_added(name)}
    if found == wanted:
        return Finding("yes")
    parts = (("lost", wanted - found), ("new", found - wanted))
    told = [f"{len(names)} {text}, as {min(names)}" for text, names in parts if names]
    return Finding("no", f"keys of state_dict(): {'; '.join(told)}")


def equals_serial(model: nn.Module, tool: Tool, case: Case) -> Finding:
    """Whether outputs, gradients and buffers of a training step are the serial ones.

    Dropout is off: on ranks every tool draws its own masks.
    """
    model = without_dropout(copy.deepcopy(model))
    found = _merged(tool.step(tool.cut(copy.deepcopy(model), case), case), aliases(model))
    wanted = outcome(model, case.inputs)
    missing = wanted.gradients.keys() - found.gradients.keys()
    if missing:
        return Finding("no", f"no gradient of {min(missing)}")
    worst = max(differences(found, wanted), key=lambda each: each.relative)
    return _within(worst.relative, f"{worst.kind}: {worst.name} is off by {worst.relative:.1g}")


def _merged(parts: Sequence[StepOutcome], names: Mapping[str, list[str]]) -> StepOutcome:
    """All ranks together, gradients of a parameter's copies added up under its first name."""
    first = {name: key for key, found in names.items() for name in found}
    gradients: dict[str, Tensor] = {}
    for name, gradient in (each for part in parts for each in part.gradients.items()):
        key = first.get(name, name)
        gradients[key] = gradients[key] + gradient if key in gradients else gradient
    buffers = {name: buffer for part in parts for name, buffer in part.buffers.items()}
    return StepOutcome(parts[-1].outputs, gradients, buffers)


def keeps_ties(model: nn.Module, pieces: list[nn.Module]) -> Finding:
    """Whether a weight with several names is one parameter."""
    shared = [names for names in aliases(model).values() if len(names) > 1]
    if not shared:
        return Finding("n/a", "no parameter has two names")
    copies = {
        id(parameter)
        for piece in pieces
        for name, parameter in piece.named_parameters(remove_duplicate=False)
        if name in shared[0]
    }
    return (
        Finding("yes")
        if len(copies) == 1
        else Finding("no", f"{len(copies)} parameters instead of one")
    )


def aliases(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its first one."""
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {found[0]: found for found in names.values()}


def without_dropout(model: nn.Module) -> nn.Module:
    """The model, whose dropout layers drop nothing from now on."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def _answers(net: nn.Module, case: Case) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(net(*case.inputs.values())) if leaf is not None]


def _gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference, relative to the largest number; infinite for other shapes."""
    if [leaf.shape for leaf in found] != [leaf.shape for leaf in wanted]:
        return math.inf
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _within(gap: float, reason: str) -> Finding:
    return Finding("yes") if gap <= ROUNDING else Finding("no", reason)
