"""Plan: the figures of a partition and its schedule, and the predicted time."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pararealize.analysis.simulate import simulate
from pararealize.ir.chain import Cost, Partition
from pararealize.ir.methods import Parareal
from pararealize.ir.parts import Coarse, Guess
from pararealize.ir.plan import Machine, Piece, Plan
from pararealize.ir.schedule import Schedule, Task
from pararealize.passes.place import place


def make_plan(
    partition: Partition,
    schedule: Schedule,
    model: nn.Module,
    method: Parareal,
    machine: Machine,
    coarse: Mapping[int, Coarse],
    guesses: Mapping[int, Guess],
) -> Plan:
    """What was decided, and what it should be worth with one device a subnetwork."""
    chain, n = partition.chain, partition.n
    seconds = _clock(partition, method, machine, coarse, guesses)
    sizes = {i: partition.interface(i).bytes for i in range(1, n)}
    timeline = simulate(
        place(schedule, n, n), seconds, lambda task: machine.message(sizes.get(task.peer + 1, 0))
    )
    overhead = timeline.critical_seconds(
        lambda t: t.op == "combine" or (t.op == "apply" and t.value[0] in "ugc")
    )
    end = len(chain.layers)
    head = chain.layers[partition.bounds[-1] : end]
    return Plan(
        model=type(model).__name__,
        pieces=tuple(_piece(partition, j, coarse, guesses) for j in range(1, n + 1)),
        head=" … ".join(dict.fromkeys((head[0].name, head[-1].name))) if head else "",
        inputs={name: str(spec) for name, spec in chain.profile.inputs.items()},
        method=method.to_json(),
        machine=machine,
        serial_seconds=chain.cost(0, end).seconds,
        parallel_seconds=timeline.makespan,
        critical_coarse_seconds=overhead,
        head_seconds=chain.cost(partition.bounds[-1], end).seconds,
        parameters=sum(chain.sizes.values()),
    )


def _correction(coarse: Coarse, method: Parareal) -> Cost:
    """One correction: a residual one made zero-preserving evaluates its network twice."""
    twice = method.correction == "residual" and not coarse.zero_preserving
    return coarse.cost + coarse.cost if twice else coarse.cost


def _clock(
    partition: Partition,
    method: Parareal,
    machine: Machine,
    coarse: Mapping[int, Coarse],
    guesses: Mapping[int, Guess],
) -> _Clock:
    chain, n = partition.chain, partition.n
    costs: dict[str, Cost] = {f"fine.{j}": chain.cost(*partition.piece(j)) for j in range(1, n + 1)}
    costs["head"] = chain.cost(partition.bounds[-1], len(chain.layers))
    costs.update({f"guess.{j}": c.cost for j, c in coarse.items()})
    costs.update({f"coarse.{j}": _correction(c, method) for j, c in coarse.items()})
    costs.update({f"guess.{j}": g.cost for j, g in guesses.items()})
    sizes = {j: partition.interface(j).bytes for j in range(1, n)}
    return _Clock(costs, sizes, machine)


class _Clock:
    """Seconds of a task."""

    def __init__(
        self, costs: Mapping[str, Cost], sizes: Mapping[int, int], machine: Machine
    ) -> None:
        self.costs, self.sizes, self.machine = costs, sizes, machine

    def __call__(self, task: Task) -> float:
        if task.op == "apply":
            return self.costs[task.propagator].seconds
        size = self.sizes.get(task.piece, self.sizes.get(task.piece - 1, 0))
        moved = size * (len(task.reads) + 1)
        return self.machine.cost(0.0, moved, launches=len(task.reads) - 1).seconds


def _piece(
    partition: Partition, j: int, coarse: Mapping[int, Coarse], guesses: Mapping[int, Guess]
) -> Piece:
    chain = partition.chain
    first, last = partition.piece(j)
    layers = chain.layers[first:last]
    names = dict.fromkeys(name for layer in layers for name in layer.parameters)
    after = partition.interface(j) if last < len(chain.layers) else None
    cost = chain.cost(first, last)
    correct, guess = coarse.get(j), guesses.get(j - 1)
    operations = chain.segment(first, last, training=True).operations
    values = [chain.profile.specs[o.name] for o in operations if o.kind != "attribute"]
    return Piece(
        index=j,
        layers=(layers[0].name, layers[-1].name),
        depth=len(layers),
        after=after.name if after and j < partition.n else "",
        module=str(after) if after and j < partition.n else "",
        state=tuple(str(spec) for spec in after.state) if after else (),
        interface_bytes=after.bytes if after and j < partition.n else 0,
        parameters=sum(chain.sizes[name] for name in names),
        memory=sum(spec.bytes for spec in values if spec is not None),
        flops=cost.flops,
        seconds=cost.seconds,
        coarse=correct.kind if correct else "none",
        coarse_parameters=_count(correct.module if correct else None),
        coarse_seconds=correct.cost.seconds if correct else 0.0,
        guess=guess.kind if guess else "none",
        guess_parameters=_count(guess.module if guess else None),
        guess_seconds=guess.cost.seconds if guess else 0.0,
        error=correct.error if correct else None,
    )


def _count(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0
