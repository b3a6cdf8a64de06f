"""Parareal: the schedule of sweeps and corrections, decided without tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import in_a_row
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import INPUT, Role
from pararealize.schedule.corrections import corrected
from pararealize.schedule.sweep_writer import SweepWriter


def parareal_schedule(
    n: int,
    method: Parareal,
    *,
    head: bool = True,
    reuse: bool = True,
    corrections: bool = False,
) -> Schedule:
    """The parareal network of ``n`` subnetworks as a schedule, not yet placed on ranks.

    With v_j = Φ_j(u^k_{j-1}) for all j side by side, one sweep k is::

        u^{k+1}_j = v_j + F_j(u^{k+1}_{j-1} - u^k_{j-1})               residual correction
        u^{k+1}_j = G_j(u^{k+1}_{j-1}) + v_j - G_j(u^k_{j-1})          difference correction

    Values are called ``u{j}.{k}`` (state at interface j after k sweeps), ``v{j}.{k}`` (fine),
    ``r{j}.{k}`` (jump), ``c{j}.{k}`` (correction), ``g{j}.{k}`` (coarse); x is the network's input.
    Of corrections in levels, ``r3.{J}.{k}`` and so on are those of groups, on level 3, and what is
    known inside a group before its start is corrected is called ``tu{j}.{k}``, ``tr{j}.{k}``, ….

    Args:
        n: number of subnetworks.
        method: options of parareal.
        head: whether a head follows the last subnetwork.
        reuse: leave out what is known to be exact: after k sweeps the first k interfaces are, and
            are not computed again. Without it every term of the equations is computed.
        corrections: watch at interface n, after the last subnetwork, what the last sweep corrected
            of v_n as well: its size says of an answer's error what jumps before cannot.

    Source: Lee, Lee & Park, arXiv 2103.08802; Lions, Maday & Turinici 2001.

    """
    return next(_stages(SweepWriter(method, n, reuse, corrections), head=head))


def parareal_stages(
    n: int, method: Parareal, *, head: bool = True, corrections: bool = False
) -> tuple[Schedule, ...]:
    """The parareal network and, where a tolerance is set, what may follow it: one more sweep each.

    A sweep reads what those before it made, and makes nothing again; the last is the one that makes
    the network exact. Its output is called ``out.{k}``, after k sweeps.
    """
    once = parareal_schedule(n, method, head=head, corrections=corrections)
    if method.tolerance is None or method.least == 0:
        return (once,)
    first, *later = _stages(SweepWriter(method, n, corrections=corrections), head=head)
    in_a_row((first, *later))
    return once, *later


def certified_stages(n: int, method: Parareal, *, head: bool = True) -> tuple[Schedule, ...]:
    """The stages of a network with a certificate, which may follow whatever the tolerance."""
    endless = replace(method, tolerance=math.inf)
    return parareal_stages(n, endless, head=head, corrections=True)


def _stages(writer: SweepWriter, *, head: bool) -> Iterator[Schedule]:
    """The sweeps of every call as one schedule, and then every further one up to the n-th."""
    method, n = writer.method, writer.n
    old = _guesses(writer)
    least = min(method.least, n) if writer.reuse else method.least  # after n all is exact
    for k in range(least):
        old = corrected(writer, k, old, _fine_sweep(writer, k, old))
    if least == 0:
        old = [*old[:n], _fine_sweep(writer, 0, old)[n]]
    output = writer.apply("out", Role.HEAD, HEAD, old[n], n) if head else old[n]
    yield writer.stage(output, least, _title(writer))
    for k in range(least, n):
        old = corrected(writer, k, old, _fine_sweep(writer, k, old))
        output = writer.apply(f"out.{k + 1}", Role.HEAD, HEAD, old[n], n) if head else old[n]
        if output in writer.done:
            return  # the network itself guessed or corrected: the output before is exact
        yield writer.stage(output, k + 1, f"sweep {k + 1} of at most {n}")


def _title(writer: SweepWriter) -> str:
    method, levels = writer.method, len(writer.points) + 1
    title = f"parareal, n = {writer.n}, {method.correction} correction, {method.iterations} sweeps"
    return title if levels == 2 else f"{title}, {levels} levels"


def _guesses(writer: SweepWriter) -> list[str]:
    """u^0_0 … u^0_{n-1}, and an empty name for the network's last state."""
    n, states = writer.n, {0: INPUT}
    for j in range(1, n if writer.method.guess == "network" else 1):
        states[j] = writer.apply(f"u{j}.0", Role.GUESS, Target.guess(j), INPUT, j + 1)
    for level, points in reversed(list(enumerate(writer.swept, start=2))):
        for number, (before, after) in enumerate(pairwise(points), start=1):
            if after < n and after not in states:
                target, at = writer.sweeper(number, level), guesser(after, writer.method, before)
                states[after] = writer.apply(f"u{after}.0", Role.GUESS, target, states[before], at)
    return [*(states[j] for j in range(n)), ""]


def guesser(j: int, method: Parareal, before: int | None = None) -> int:
    """The subnetwork beside which a coarse sweep evaluates the coarse network to interface j.

    It is that of subnetwork j, or of a group from the interface ``before`` on. The first one has
    nothing to correct, and only the subnetwork behind it waits for its guess: there it costs no
    message and keeps the first from nothing. Weights of the network stay at home.
    """
    first = before == 0 if before is not None else j == 1
    return j + 1 if first and method.guess == "coarse" and method.owns_weights else j


def _fine_sweep(writer: SweepWriter, k: int, old: list[str]) -> list[str]:
    """v_1 … v_n, after an empty name for none."""
    pieces = range(1, writer.n + 1)
    fine = [writer.apply(f"v{j}.{k}", Role.FINE, Target.fine(j), old[j - 1], j) for j in pieces]
    return ["", *fine]
