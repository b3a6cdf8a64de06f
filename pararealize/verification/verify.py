"""Verify: a network's programs against the network itself, in train and eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.decide.request import Request
from pararealize.errors import ShapeError, TraceError, VerificationError
from pararealize.ir.chain import Chain
from pararealize.ir.program import Program, cut_segment
from pararealize.propagators.compiled import compile_segment, takes_derivatives
from pararealize.runtime.values.equality import is_equal, largest_difference
from pararealize.tracing.trace import Trace
from pararealize.verification.culprits import Mismatch
from pararealize.verification.exchange import PartedError, RefusedError, answer
from pararealize.verification.kept import devices_of, same_streams, unmoved
from pararealize.verification.lockstep import Lockstep
from pararealize.verification.samples import call_of, last_rows, rows, samples
from pararealize.verification.shapes import traced_by_shapes

#: Predicted seconds of a forward pass up to which inputs are taken as they are: of larger ones the
#: first rows, so that compiling a network of a thousand layers takes a sixth longer, and not twice
#: as long.
BRIEF = 0.15
#: Predicted seconds of a forward pass above which a network is not verified: more than all other
#: passes of the compiler take for any network tried.
LONGEST = 30.0
#: How often modules that turn out to be traced wrongly are called whole and all is traced again.
ROUNDS = 16

#: Why there is no comparison where the user wants none.
NOT_ASKED = "verify=False was asked for"

#: A network's inputs by name.
_Inputs = Mapping[str, Any]
#: Devices besides the CPU on which it may draw random numbers.
Devices = tuple[torch.device, ...]


@dataclass(frozen=True)
class Finding:
    """What a comparison found: a difference in a mode, or why there was no comparison."""

    difference: Mismatch | None = None
    mode: str = ""
    unverified: str = ""


def verified(
    serial: nn.Module,
    request: Request,
    chain_of: Callable[[Trace, nn.Module, Request], Chain],
) -> tuple[Request, Chain]:
    """The chain of a network whose programs compute what the network does, and how to trace it.

    A module whose trace differs from what it does is called whole.

    Raises:
        VerificationError: the network's own forward is such a one.

    """
    tracing = request.tracing
    reasons = {p: why for p, why in tracing.found.items() if p in tracing.leaf_modules}
    for _ in range(ROUNDS):
        request, traced = traced_by_shapes(serial, request)
        traced = replace(traced, whole={**reasons, **traced.whole})
        chain = _chained(traced, serial, request, chain_of)
        chain = replace(chain, reads=traced.reads, entered=traced.entered, guards=traced.guards)
        chain = replace(chain, blocks=traced.blocks, untraced=traced.untraced)
        if not request.verify:
            return request, replace(chain, unverified=NOT_ASKED)
        finding = compared(chain, serial, request)
        if finding.difference is None:
            return request, replace(chain, unverified=finding.unverified)
        leaves = _to_call_whole(serial, finding.difference, request.tracing.leaf_modules)
        if not leaves:
            break
        kind = type(serial.get_submodule(leaves[0])).__name__
        why = f"{kind} does not do what a trace of it would: {finding.difference.what} differs"
        reasons |= dict.fromkeys(leaves, why)
        leaf_modules = (*request.tracing.leaf_modules, *leaves)
        request = replace(request, tracing=replace(request.tracing, leaf_modules=leaf_modules))
    raise VerificationError(_advice(serial, finding))


def _chained(
    traced: Trace,
    serial: nn.Module,
    request: Request,
    chain_of: Callable[[Trace, nn.Module, Request], Chain],
) -> Chain:
    """The chain; around lists that were found, a network may call other blocks for other numbers.

    Raises:
        TraceError: it does.

    """
    try:
        return chain_of(traced, serial, request)
    except ShapeError as error:
        if not traced.untraced:
            raise
        raise TraceError(f"{traced.untraced}. Around its blocks: {error}") from error


def _to_call_whole(root: nn.Module, found: Mismatch, known: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the modules like the one whose trace is wrong; none where it is the network."""
    path = found.culprit
    while path in known:
        path = path.rpartition(".")[0]
    kind = type(root.get_submodule(path))
    if not path:
        return ()
    if kind.__module__.startswith("torch."):
        return (path,)
    return tuple(n for n, m in root.named_modules() if n and type(m) is kind and n not in known)


def compared(chain: Chain, serial: nn.Module, request: Request) -> Finding:
    """Compare both programs of a chain with the network; nothing of it or outside it moves."""
    devices = devices_of(serial)
    with same_streams(devices):
        torch.manual_seed(request.method.seed)
        inputs = samples(chain.train, chain.profile, request.given, serial)
        seconds = sum(cost.seconds for cost in chain.profile.costs.values())
        finding = Finding()
        for attempt, share in _attempts(inputs, seconds):
            if seconds * share > LONGEST:
                slow = f"a forward pass is predicted to take {seconds * share:.0f} s, and at most "
                return Finding(unverified=f"{slow}{LONGEST:.0f} s are spent on that")
            blocks = chain.train.operations[-2].kind == "network"
            whole = blocks or takes_derivatives((*chain.train, *chain.eval))
            finding = _compare_modes(chain, serial, attempt, devices, whole=whole)
            if finding == Finding():
                break
    return finding


def _attempts(inputs: _Inputs, seconds: float) -> Iterator[tuple[_Inputs, float]]:
    """Inputs to compare on, one after another until the network takes them and nothing differs."""
    count = rows(inputs)
    few = max(1, int(count * BRIEF / seconds)) if seconds else count
    if few < count:
        yield last_rows(inputs, few), few / count
    yield last_rows(inputs, count), 1.0


def _compare_modes(
    chain: Chain, serial: nn.Module, inputs: _Inputs, devices: Devices, *, whole: bool
) -> Finding:
    """Compare the train program and the eval program."""
    reasons = []
    for mode, program in (("train", chain.train), ("eval", chain.eval)):
        compare = _whole if whole else _in_step
        try:
            difference = compare(program, serial, inputs, devices, training=mode == "train")
        except RefusedError as error:
            reasons.append(f"in {mode} mode it {error}")
            continue
        if difference is not None and not _is_deterministic(chain, serial, inputs, devices, mode):
            reasons.append(f"in {mode} mode two runs of it from one seed differ")
        elif difference is not None:
            return Finding(difference, mode)
    return Finding(unverified="; ".join(reasons))


def _in_step(
    program: Program, serial: nn.Module, inputs: _Inputs, devices: Devices, *, training: bool
) -> Mismatch | None:
    """Layer by layer, in one run of the network; in a second one where that cannot tell."""
    apart, watched = False, tuple[str, ...]()
    while True:
        with same_streams(devices), unmoved(serial, training=training):
            run = Lockstep(program, serial, inputs, devices, apart=apart, watched=watched)
            try:
                run.run(call_of(serial, program, inputs))
            except PartedError:
                apart = True
                continue
        if run.parted:
            apart = True  # where the network has caught the error
        elif run.difference is None and set(run.moved) - set(watched):
            watched = run.moved
        else:
            return run.difference


def _whole(
    program: Program, serial: nn.Module, inputs: _Inputs, devices: Devices, *, training: bool
) -> Mismatch | None:
    """By output and buffers, for programs that run the network themselves, around blocks.

    And for those that take derivatives through layers, which cannot share what these give.
    """
    segment = cut_segment(program, 0, len(program), (), None)
    function = compile_segment(segment, serial, "the whole network")
    call = call_of(serial, program, inputs)
    graded = takes_derivatives(program)
    with same_streams(devices), unmoved(serial, training=training, graded=graded):
        wanted, left = answer(serial, call), _buffers(serial)
    with same_streams(devices), unmoved(serial, training=training, graded=graded):
        found = function(serial, *(inputs[name] for name in segment.inputs))
        ours = _buffers(serial)
    if not is_equal(wanted, found):
        return Mismatch("the output", "", largest_difference(wanted, found))
    for name, buffer in left.items():
        if not is_equal(buffer, ours[name]):
            return Mismatch(f"the buffer {name}", "", largest_difference(buffer, ours[name]))
    return None


def _buffers(root: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in root.named_buffers()}


def _is_deterministic(
    chain: Chain, serial: nn.Module, inputs: _Inputs, devices: Devices, mode: str
) -> bool:
    """Whether two runs of the network from one state of all generators agree."""
    program = chain.train if mode == "train" else chain.eval
    outputs = []
    for _ in range(2):
        call = call_of(serial, program, inputs)
        training, graded = mode == "train", takes_derivatives(program)
        with same_streams(devices), unmoved(serial, training=training, graded=graded):
            outputs.append(answer(serial, call))
    return is_equal(*outputs)


def _advice(model: nn.Module, finding: Finding) -> str:
    found = finding.difference
    assert found is not None
    name = type(model).__name__
    size = "" if found.largest is None else f", by {found.largest:.3g} at most"
    lists = [(len(m), n) for n, m in model.named_modules() if n and isinstance(m, nn.ModuleList)]
    blocks = f" Or name its list of blocks: blocks={max(lists)[1]!r}." if lists else ""
    where = found.culprit or f"{name}.forward"
    return (
        f"what was traced of {name} is not what it does: in {finding.mode} mode {found.what} "
        f"differs{size}, and nothing before it. {where} does what a trace does not see: it may "
        "branch on a type or on the result of a call, read what another module has left in a "
        "container, or draw numbers of Python or NumPy. Move that code into a sub-module, which "
        "is then called whole, or into a function f kept whole with torch.fx.wrap('f')."
        f"{blocks} With verify=False it is compiled as it was traced."
    )
