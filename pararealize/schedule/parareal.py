"""Parareal: the schedule of sweeps and corrections, decided without tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, Watch, commit_last, needed
from pararealize.ir.stages import in_a_row
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.ir.task import INPUT, Role, Task


@dataclass
class _SweepWriter:
    """Collects tasks; the same operation on the same values is written once.

    What a stage was made of, and the jumps since, are remembered from one to the next. With
    ``corrections``, what a sweep corrected of v_n is watched as well.
    """

    method: Parareal
    reuse: bool = True
    corrections: bool = False
    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[Target, str], str] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    done: dict[str, None] = field(default_factory=dict)

    def apply(self, value: str, role: Role, target: Target, read: str, piece: int) -> str:
        if (target, read) not in self.known:
            self.tasks.append(Task(value, "apply", role, (read,), target, piece=piece))
            self.known[target, read] = value
        return self.known[target, read]

    def combine(
        self, value: str, role: Role, signs: str, reads: tuple[str, ...], piece: int
    ) -> str:
        self.tasks.append(Task(value, "combine", role, reads, signs=signs, piece=piece))
        return value

    def network(self, target: Target) -> Target:
        """A coarse sweep guesses with the networks that correct."""
        sweeps = target.kind is Kind.GUESS and self.method.guess == "coarse"
        return Target.coarse(target.number) if sweeps else target

    def stage(self, output: str, sweeps: int, title: str) -> Schedule:
        """What the output needs and no stage before has made."""
        wanted = [task for task in needed(self.tasks, [output]) if task.value not in self.done]
        tasks = commit_last(wanted, self.network)
        earlier = dict(self.done)
        self.done |= dict.fromkeys(task.value for task in tasks)
        made = {*self.done, INPUT}
        watches = tuple(watch for watch in self.watches if {watch.new, watch.old} <= made)
        self.watches = []
        reads = {name for task in tasks for name in task.reads}
        reads |= {name for watch in watches for name in (watch.new, watch.old)}
        inputs = (INPUT, *(name for name in earlier if name in reads))
        return Schedule(tasks, output, watches, inputs, title=title, sweeps=sweeps).verify()


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
    return next(_stages(_SweepWriter(method, reuse, corrections), n, head=head))


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
    first, *later = _stages(_SweepWriter(method, corrections=corrections), n, head=head)
    in_a_row((first, *later))
    return once, *later


def certified_stages(n: int, method: Parareal, *, head: bool = True) -> tuple[Schedule, ...]:
    """The stages of a network with a certificate, which may follow whatever the tolerance."""
    endless = replace(method, tolerance=math.inf)
    return parareal_stages(n, endless, head=head, corrections=True)


def _stages(writer: _SweepWriter, n: int, *, head: bool) -> Iterator[Schedule]:
    """The sweeps of every call as one schedule, and then every further one up to the n-th."""
    method = writer.method
    old = _guesses(writer, n)
    least = min(method.least, n) if writer.reuse else method.least  # after n all is exact
    for k in range(least):
        old = _correct(writer, k, old, _fine_sweep(writer, n, k, old))
    if least == 0:
        old = [*old[:n], _fine_sweep(writer, n, 0, old)[n]]
    output = writer.apply("out", Role.HEAD, HEAD, old[n], n) if head else old[n]
    title = f"parareal, n = {n}, {method.correction} correction, {method.iterations} sweeps"
    yield writer.stage(output, least, title)
    for k in range(least, n):
        old = _correct(writer, k, old, _fine_sweep(writer, n, k, old))
        output = writer.apply(f"out.{k + 1}", Role.HEAD, HEAD, old[n], n) if head else old[n]
        if output in writer.done:
            return  # the network itself guessed or corrected: the output before is exact
        yield writer.stage(output, k + 1, f"sweep {k + 1} of at most {n}")


def _sweeper(j: int, method: Parareal) -> Target:
    """What a coarse sweep applies: corrections of residual form have lost the constant part."""
    if method.coarse == "fine":
        return Target.fine(j)
    return Target.coarse(j) if method.correction == "difference" else Target.guess(j)


def _guesses(writer: _SweepWriter, n: int) -> list[str]:
    """u^0_0 … u^0_{n-1}, and an empty name for the network's last state."""
    states, method = [INPUT], writer.method
    for j in range(1, n):
        if method.guess == "network":
            target, read, at = Target.guess(j), INPUT, j + 1
        else:
            target, read, at = _sweeper(j, method), states[-1], guesser(j, method)
        states.append(writer.apply(f"u{j}.0", Role.GUESS, target, read, at))
    return [*states, ""]


def guesser(j: int, method: Parareal) -> int:
    """The subnetwork beside which a coarse sweep evaluates the coarse network of subnetwork j.

    The first one has nothing to correct, and only the second waits for its guess: there it costs
    no message and keeps the first subnetwork from nothing. Weights of the network stay at home.
    """
    return 2 if j == 1 and method.guess == "coarse" and method.owns_weights else j


def _fine_sweep(writer: _SweepWriter, n: int, k: int, old: list[str]) -> list[str]:
    """v_1 … v_n, after an empty name for none."""
    pieces = range(1, n + 1)
    fine = [writer.apply(f"v{j}.{k}", Role.FINE, Target.fine(j), old[j - 1], j) for j in pieces]
    return ["", *fine]


def _correct(writer: _SweepWriter, k: int, old: list[str], fine: list[str]) -> list[str]:
    """The states after one sweep."""
    new, n = [INPUT], len(old) - 1
    for j in range(1, n + 1):
        if j == 1 or (writer.reuse and j <= k + 1):
            new.append(fine[j])
            continue
        writer.watches.append(Watch(k, j - 1, new[j - 1], old[j - 1]))
        correct = _by_jump if writer.method.correction == "residual" else _by_difference
        new.append(correct(writer, j, k, (old[j - 1], new[j - 1]), fine[j]))
        if writer.corrections and j == n:
            writer.watches.append(Watch(k, n, new[n], fine[n]))
    return new


def _by_jump(writer: _SweepWriter, j: int, k: int, states: tuple[str, str], fine: str) -> str:
    """u_j = v_j + F_j(jump), of the states before the subnetwork, the old one and the new."""
    old, new = states
    jump = writer.combine(f"r{j - 1}.{k}", Role.JUMP, "+-", (new, old), j)
    correction = writer.apply(f"c{j}.{k}", Role.COARSE, Target.coarse(j), jump, j)
    return writer.combine(f"u{j}.{k + 1}", Role.CORRECTION, "++", (fine, correction), j)


def _by_difference(writer: _SweepWriter, j: int, k: int, states: tuple[str, str], fine: str) -> str:
    """u_j = G_j(new) + v_j - G_j(old), of the states before the subnetwork."""
    target = _sweeper(j, writer.method)
    before, after = (
        writer.apply(f"g{j}.{k + i}", Role.COARSE, target, state, j)
        for i, state in enumerate(states)
    )
    # The newest first: the sum has its layout in memory, in which masks are drawn, and
    # where G = Φ the others cancel, so that it has its numbers to the last digit.
    reads = (after, fine, before)
    return writer.combine(f"u{j}.{k + 1}", Role.CORRECTION, "++-", reads, j)
