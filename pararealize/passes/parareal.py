"""Parareal: the schedule of sweeps and corrections, decided without tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import INPUT, Schedule, Task, Watch, needed


@dataclass
class _Writer:
    """Collects tasks; the same operation on the same values is written once."""

    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)

    def apply(self, value: str, propagator: str, read: str, piece: int) -> str:
        key = (propagator, (read,))
        if key not in self.known:
            self.tasks.append(Task(value, "apply", (read,), propagator, piece=piece))
            self.known[key] = value
        return self.known[key]

    def combine(self, value: str, signs: str, reads: tuple[str, ...], piece: int) -> str:
        self.tasks.append(Task(value, "combine", reads, signs=signs, piece=piece))
        return value


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
    writer = _Writer()
    old = _guesses(writer, n, method)
    watches: list[Watch] = []
    sweeps = min(method.iterations, n) if reuse else method.iterations  # after n all is exact
    for k in range(sweeps):
        fine = _fine_sweep(writer, n, k, old)
        old, jumps = _correct(writer, method, shared, reuse, k, old, fine)
        watches += jumps
    if method.iterations == 0:
        old = [*old[:n], _fine_sweep(writer, n, 0, old)[n]]
    output = writer.apply("out", "head", old[n], n) if head else old[n]
    tasks = _commit_last(needed(writer.tasks, [output]), method)
    made = {task.value for task in tasks} | {INPUT}
    kept = tuple(watch for watch in watches if {watch.new, watch.old} <= made)
    title = f"parareal, n = {n}, {method.correction} correction, {method.iterations} sweeps"
    return Schedule(tasks, output, kept, (INPUT,), title=title).verify()


def _coarse(j: int, shared: bool) -> str:
    return f"fine.{j}" if shared else f"coarse.{j}"


def _sweeper(j: int, method: Parareal) -> str:
    """What a coarse sweep applies: corrections of residual form have lost the constant part."""
    if method.coarse == "fine":
        return f"fine.{j}"
    return f"coarse.{j}" if method.correction == "difference" else f"guess.{j}"


def _guesses(writer: _Writer, n: int, method: Parareal) -> list[str]:
    """u^0_0 … u^0_{n-1}, and a place for the network's last state."""
    states = [INPUT]
    for j in range(1, n):
        if method.guess == "network":
            states.append(writer.apply(f"u{j}.0", f"guess.{j}", INPUT, j + 1))
        else:
            states.append(writer.apply(f"u{j}.0", _sweeper(j, method), states[-1], j))
    return [*states, ""]


def _fine_sweep(writer: _Writer, n: int, k: int, old: list[str]) -> list[str]:
    pieces = range(1, n + 1)
    return ["", *(writer.apply(f"v{j}.{k}", f"fine.{j}", old[j - 1], j) for j in pieces)]


def _correct(
    writer: _Writer,
    method: Parareal,
    shared: bool,
    reuse: bool,
    k: int,
    old: list[str],
    fine: list[str],
) -> tuple[list[str], list[Watch]]:
    """The states after one sweep, and the jumps on the way."""
    new, watches = [INPUT], []
    for j in range(1, len(old)):
        if j == 1 or (reuse and j <= k + 1):
            new.append(fine[j])
            continue
        watches.append(Watch(k, j - 1, new[j - 1], old[j - 1]))
        if method.correction == "residual":
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
    return new, watches


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
