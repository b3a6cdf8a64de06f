"""Explain: a plan as tables and a verdict, before anything runs."""

from __future__ import annotations

from pararealize.explain.calibrated import sentences, sweeps_table
from pararealize.explain.groups import groups_table, in_levels
from pararealize.explain.table import WIDTH, Table, page, some
from pararealize.ir.hierarchy import MANY
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.plan import Piece, Plan, Stack

#: Columns of words.
WORDS = ("layers", "guess", "coarse")
#: Where the batch is cut into slices.
FLOW = "Corrections flow through the ranks in {} slices of the batch."


def _network_table(plan: Plan) -> Table:
    head = ("h", plan.head, "", "", "", f"{plan.head_seconds * 1e3:.3f}", "")
    return Table(
        f"{plan.model} in {plan.n} subnetworks",
        ("#", "layers", "depth", "parameters", "GFLOP", "ms", "memory"),
        [*map(_network_row, plan.pieces), *([head] if plan.head else [])],
        left=WORDS,
    )


def _added_table(plan: Plan) -> Table:
    return Table(
        "coarse levels of MGRIT" if isinstance(plan.method, MGRIT) else "added by parareal",
        ("#", "sends", "guess", "parameters", "ms", "coarse", "parameters", "ms"),
        list(map(_added_row, plan.pieces)),
        left=WORDS,
    )


def _network_row(p: Piece) -> tuple[str, ...]:
    return (
        str(p.index),
        " … ".join(dict.fromkeys(p.layers)),
        str(p.depth),
        f"{p.parameters:,}",
        f"{p.flops / 1e9:.3f}",
        f"{p.seconds * 1e3:.3f}",
        size(p.memory),
    )


def _added_row(p: Piece) -> tuple[str, ...]:
    coarse = p.coarse if p.error is None else f"{p.coarse} (leaves {p.error:.0%} of an error)"
    return (
        str(p.index),
        size(p.interface_bytes) if p.interface_bytes else "–",
        *_extra(p.guess, p.guess_parameters, p.guess_seconds),
        *_extra(coarse, p.coarse_parameters, p.coarse_seconds),
    )


def _extra(kind: str, parameters: int, seconds: float) -> tuple[str, str, str]:
    if kind == "none":
        return "–", "", ""
    return kind, f"{parameters:,}", f"{seconds * 1e3:.3f}"


def size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def summary(plan: Plan) -> list[str]:
    """Sentences about the whole network."""
    inputs = ", ".join(f"{name} {spec}" for name, spec in plan.specs.items())
    added = plan.added_parameters / plan.parameters if plan.parameters else 0.0
    return [
        f"Costs are of one forward evaluation of {inputs}.",
        f"Added parameters: {plan.added_parameters:,} ({added:.1%}). Coarse work on the critical "
        f"path: {plan.critical_coarse_seconds * 1e3:.3f} ms ({plan.coarse_share:.1%} of the "
        "heaviest subnetwork).",
        *_blocks(plan),
        *_wide(plan),
        *_whole(plan),
        *_unverified(plan),
        *([FLOW.format(plan.chunks)] if plan.chunks > 1 else []),
        *map(_stack, plan.stacks),
        *_cycles(plan),
        *_sweeps(plan),
        *in_levels(plan),
        *_fastest(plan),
        *sentences(plan),
        plan.verdict,
    ]


def _wide(plan: Plan) -> list[str]:
    """Where skips cross a cut, what that costs."""
    wide = [piece for piece in plan.pieces if len(piece.state) > 1]
    return [
        f"{len(p.state)} tensors ({size(p.interface_bytes)}) cross the cut after {p.layers[1]}, "
        "because of skips: all of them are guessed, sent and corrected. Single tensors cross at "
        f"{plan.interfaces} positions, enough for n={plan.interfaces + 1}."
        for p in wide[:1]
    ]


def _blocks(plan: Plan) -> list[str]:
    """Around which lists of blocks the network's own forward runs, and who said so."""
    tracing = plan.tracing
    if not tracing.blocks:
        return []
    around = "its own forward runs around them, in every call, and caches of keys are off."
    if not tracing.untraced:
        return [f"Cut between the blocks of {tracing.blocks}, as asked for; {around}"]
    return [
        f"Cut between the blocks of {tracing.blocks}, which were found rather than asked for: one "
        f"call runs them one after another, and {tracing.untraced}. What lies between is not "
        f"looked into; {around}"
    ]


def _whole(plan: Plan) -> list[str]:
    """Modules that could not be looked into, those of one reason together."""
    paths: dict[str, list[str]] = {}
    for path, reason in plan.tracing.found.items():
        paths.setdefault(reason, []).append(path)
    return [f"Called whole: {some(names)}. {reason}." for reason, names in paths.items()]


def _unverified(plan: Plan) -> list[str]:
    """Why nothing vouches for the trace, where that is so."""
    reason = plan.tracing.unverified
    return [f"Not verified against the original network: {reason}."] if reason else []


def _cycles(plan: Plan) -> list[str]:
    """What MGRIT does in a step."""
    method = plan.method
    if not isinstance(method, MGRIT) or plan.n == 1:
        return []
    return [
        f"MGRIT with {method.levels} levels: {method.forward_cycles} cycles for the states, "
        f"{method.backward_cycles} for their adjoints; a step whose residuals grow or stay "
        f"above {method.guard:.0%} gets more cycles, at most {method.max_cycles}, and is "
        "then run serially.",
        *_kinds(plan, method),
    ]


def _kinds(plan: Plan, method: MGRIT) -> list[str]:
    """Where the kind of coarse propagators was chosen by fewer measurements than there are."""
    if method.coarse != "auto" or plan.n <= MANY:
        return []
    return [
        f"Of more than {MANY} slices, kinds of coarse propagators that are worse on one interval "
        "in the middle than another one was measured to be on a solve were not measured."
    ]


def _sweeps(plan: Plan) -> list[str]:
    """What parareal does where a tolerance decides."""
    method = plan.method
    if not isinstance(method, Parareal) or method.tolerance is None or plan.n == 1:
        return []
    return [
        f"At most {plan.n} sweeps, until jumps are below {method.tolerance:g}; costs and the "
        "prediction are of those that every call takes."
    ]


def _fastest(plan: Plan) -> list[str]:
    """What a whole step on one device was measured to bring."""
    speedup = plan.measured_speedup
    if not speedup:
        return []
    slower = "" if speedup >= 1 else ", so that the serial network is run"
    return [f"On one device a step was measured at {speedup:.2f}× the speed of serial{slower}."]


def _stack(stack: Stack) -> str:
    first, last = stack.slices[0], stack.slices[-1]
    return (
        f"On one device {len(stack.slices)} slices ({first} … {last}) advance as one batch over "
        f"depth, measured {stack.speedup:.2f}× as fast as one after another."
    )


def explain(plan: Plan, width: int = WIDTH) -> str:
    """The tables and the sentences as text, folded to ``width`` characters."""
    return page(parts(plan), width)


def parts(plan: Plan) -> tuple[Table | str, ...]:
    """The tables, then the sentences."""
    tables = [_network_table(plan)]
    if plan.n > 1:
        tables += [_added_table(plan), *groups_table(plan)]
        if plan.calibration is not None:
            tables.append(sweeps_table(plan.calibration))
    return (*tables, *summary(plan))
