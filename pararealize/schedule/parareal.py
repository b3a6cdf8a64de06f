"""Parareal: the schedule of sweeps and corrections, decided without tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import INPUT, Schedule, Task, Watch, needed
from pararealize.ir.stages import in_a_row


@dataclass
class _SweepWriter:
    """Collects tasks; the same operation on the same values is written once.

    What a stage was made of, and the jumps since, are remembered from one to the next.
    """

    method: Parareal
    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    done: dict[str, None] = field(default_factory=dict)

    def apply(self, value: str, propagator: str, read: str, piece: int) -> str:
        key = (propagator, (read,))
        if key not in self.known:
            self.tasks.append(Task(value, "apply", (read,), propagator, piece=piece))
            self.known[key] = value
        return self.known[key]

    def combine(self, value: str, signs: str, reads: tuple[str, ...], piece: int) -> str:
        self.tasks.append(Task(value, "combine", reads, signs=signs, piece=piece))
        return value

    def stage(self, output: str, sweeps: int, title: str) -> Schedule:
        """What the output needs and no stage before has made."""
        wanted = [task for task in needed(self.tasks, [output]) if task.value not in self.done]
        tasks = _commit_last(wanted, self.method)
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
    n: int, method: Parareal, *, shared: bool = False, head: bool = True, reuse: bool = True
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
        shared: the coarse propagator is the fine one itself (G = Φ), so that equal evaluations
            of both are one.
        head: whether a head follows the last subnetwork.
        reuse: leave out what is known to be exact: after k sweeps the first k interfaces are, and
            are not computed again. Without it every term of the equations is computed.

    Source: Lee, Lee & Park, arXiv 2103.08802; Lions, Maday & Turinici 2001.

    """
    return next(_stages(n, method, shared=shared, head=head, reuse=reuse))


def later_sweeps(
    n: int, method: Parareal, *, shared: bool = False, head: bool = True
) -> tuple[Schedule, ...]:
    """Where a tolerance is set, what follows :func:`parareal_schedule`: one more sweep each.

    A sweep reads what those before it made, and makes nothing again; the last is the one that makes
    the network exact. Its output is called ``out.{k}``, after k sweeps.
    """
    if method.tolerance is None or method.least == 0:
        return ()
    first, *later = _stages(n, method, shared=shared, head=head, reuse=True)
    in_a_row((first, *later))
    return tuple(later)


def parareal_stages(
    n: int, method: Parareal, *, shared: bool = False, head: bool = True
) -> tuple[Schedule, ...]:
    """The parareal network, and what may follow it."""
    once = parareal_schedule(n, method, shared=shared, head=head)
    return once, *later_sweeps(n, method, shared=shared, head=head)


def certified_stages(
    n: int, method: Parareal, *, shared: bool = False, head: bool = True
) -> tuple[Schedule, ...]:
    """The same for a network with a certificate, which may follow whatever the tolerance."""
    endless = replace(method, tolerance=math.inf)
    stages = parareal_stages(n, endless, shared=shared, head=head)
    return tuple(with_corrections(stage, n) for stage in stages)


def _stages(
    n: int, method: Parareal, *, shared: bool, head: bool, reuse: bool
) -> Iterator[Schedule]:
    """The sweeps of every call as one schedule, and then every further one up to the n-th."""
    writer = _SweepWriter(method)
    old = _guesses(writer, n, method)
    least = min(method.least, n) if reuse else method.least  # after n all is exact
    for k in range(least):
        fine = _fine_sweep(writer, n, k, old)
        old = _correct(writer, shared, reuse, k, old, fine)
    if least == 0:
        old = [*old[:n], _fine_sweep(writer, n, 0, old)[n]]
    output = writer.apply("out", "head", old[n], n) if head else old[n]
    title = f"parareal, n = {n}, {method.correction} correction, {method.iterations} sweeps"
    yield writer.stage(output, least, title)
    for k in range(least, n):
        fine = _fine_sweep(writer, n, k, old)
        old = _correct(writer, shared, reuse, k, old, fine)
        output = writer.apply(f"out.{k + 1}", "head", old[n], n) if head else old[n]
        if output in writer.done:
            return  # the network itself guessed or corrected: the output before is exact
        yield writer.stage(output, k + 1, f"sweep {k + 1} of at most {n}")


def _coarse(j: int, shared: bool) -> str:
    return f"fine.{j}" if shared else f"coarse.{j}"


def _sweeper(j: int, method: Parareal) -> str:
    """What a coarse sweep applies: corrections of residual form have lost the constant part."""
    if method.coarse == "fine":
        return f"fine.{j}"
    return f"coarse.{j}" if method.correction == "difference" else f"guess.{j}"


def _guesses(writer: _SweepWriter, n: int, method: Parareal) -> list[str]:
    """u^0_0 … u^0_{n-1}, and a place for the network's last state."""
    states = [INPUT]
    for j in range(1, n):
        if method.guess == "network":
            states.append(writer.apply(f"u{j}.0", f"guess.{j}", INPUT, j + 1))
        else:
            at = guesser(j, method)
            states.append(writer.apply(f"u{j}.0", _sweeper(j, method), states[-1], at))
    return [*states, ""]


def guesser(j: int, method: Parareal) -> int:
    """The subnetwork beside which a coarse sweep evaluates the coarse network of subnetwork j.

    The first one has nothing to correct, and only the second waits for its guess: there it costs
    no message and keeps the first subnetwork from nothing. Weights of the network stay at home.
    """
    return 2 if j == 1 and method.guess == "coarse" and method.owns_weights else j


def _fine_sweep(writer: _SweepWriter, n: int, k: int, old: list[str]) -> list[str]:
    pieces = range(1, n + 1)
    return ["", *(writer.apply(f"v{j}.{k}", f"fine.{j}", old[j - 1], j) for j in pieces)]


def _correct(
    writer: _SweepWriter, shared: bool, reuse: bool, k: int, old: list[str], fine: list[str]
) -> list[str]:
    """The states after one sweep."""
    new = [INPUT]
    for j in range(1, len(old)):
        if j == 1 or (reuse and j <= k + 1):
            new.append(fine[j])
            continue
        writer.watches.append(Watch(k, j - 1, new[j - 1], old[j - 1]))
        if writer.method.correction == "residual":
            jump = writer.combine(f"r{j - 1}.{k}", "+-", (new[j - 1], old[j - 1]), j)
            correction = writer.apply(f"c{j}.{k}", f"coarse.{j}", jump, j)
            new.append(writer.combine(f"u{j}.{k + 1}", "++", (fine[j], correction), j))
        else:
            coarse = _coarse(j, shared)
            before = writer.apply(f"g{j}.{k}", coarse, old[j - 1], j)
            after = writer.apply(f"g{j}.{k + 1}", coarse, new[j - 1], j)
            # The newest first: the sum has its layout in memory, in which masks are drawn, and
            # where G = Φ the others cancel, so that it has its numbers to the last digit.
            new.append(writer.combine(f"u{j}.{k + 1}", "++-", (after, fine[j], before), j))
    return new


def _commit_last(tasks: list[Task], method: Parareal) -> tuple[Task, ...]:
    """Statistics move with the last application of every network only."""

    def network(task: Task) -> str:
        """A coarse sweep guesses with the networks that correct."""
        coarse = method.guess == "coarse"
        return task.propagator.replace("guess", "coarse") if coarse else task.propagator

    last = {network(task): i for i, task in enumerate(tasks) if task.op == "apply"}
    return tuple(
        replace(task, commits=task.op != "apply" or last[network(task)] == i)
        for i, task in enumerate(tasks)
    )


def with_corrections(schedule: Schedule, n: int) -> Schedule:
    """The schedule with one more watch a sweep, at interface n: what it corrected of v_n.

    Its size says of an answer's error what jumps before the last subnetwork cannot.
    """
    made = {task.value for task in schedule}
    sweeps = (int(name.rpartition(".")[2]) for name in made if name.startswith(f"u{n}."))
    watches = tuple(
        Watch(k - 1, n, f"u{n}.{k}", f"v{n}.{k - 1}")
        for k in sorted(sweeps)
        if f"v{n}.{k - 1}" in made
    )
    return replace(schedule, watches=(*schedule.watches, *watches))
