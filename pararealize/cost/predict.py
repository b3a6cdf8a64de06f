"""Predict: the figures of a partition and its schedule, and the predicted time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from pararealize.cost.side_by_side import side_by_side
from pararealize.cost.simulate import Timeline, simulate
from pararealize.ir.chain import Chain, Cost, Partition
from pararealize.ir.decisions import Coarse, Guess
from pararealize.ir.features import Features
from pararealize.ir.groups import Group
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Machine, Piece, Plan
from pararealize.ir.schedule import Schedule
from pararealize.ir.sharing import Sharing
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import Role, Task
from pararealize.schedule.lanes import Way, lanes
from pararealize.schedule.place import place

#: Tasks whose values are states at the interface behind their subnetwork.
STATES = {Role.FINE, Role.COARSE, Role.CORRECTION}


def make_plan(
    partition: Partition,
    schedule: Schedule,
    model: nn.Module,
    method: Method,
    machine: Machine,
    ranks: int,
    coarse: Mapping[Target, Coarse],
    guesses: Mapping[int, Guess] | None = None,
    features: Mapping[int, Features] | None = None,
) -> Plan:
    """What was decided, and what it should be worth on ``ranks`` ranks.

    With 0 ranks there is one device a subnetwork. A subnetwork's own coarse propagator is that of
    level 2; groups of them, and multigrid's joined slices, have those of levels above.
    """
    chain, n, start = partition.chain, partition.n, partition.bounds[-1]
    head, whole, given = chain.layers[start:], len(chain.layers), guesses or {}
    pieces = tuple(
        _piece(partition, method, j, coarse.get(Target.coarse(j)), given.get(j - 1))
        for j in range(1, n + 1)
    )
    multigrid = isinstance(method, MGRIT)
    plan = Plan(
        model=type(model).__name__,
        pieces=pieces,
        head=" … ".join(dict.fromkeys((head[0].name, head[-1].name))) if head else "",
        inputs={chain.train[n].target: str(spec) for n, spec in chain.profile.inputs.items()},
        method=method,
        machine=machine,
        serial_seconds=chain.cost(0, whole).seconds,
        parallel_seconds=0.0,
        critical_coarse_seconds=0.0,
        head_seconds=chain.cost(start, whole).seconds,
        head_launches=chain.cost(start, whole).launches,
        parameters=sum(chain.sizes.values()),
        ranks=ranks,
        interfaces=sum(len(interface.state) == 1 for interface in chain.interfaces),
        levels={str(t): c.cost.seconds for t, c in coarse.items()} if multigrid else {},
        fitted={
            str(t): {first: tuple(row) for first, row in c.weights.items()}
            for t, c in coarse.items()
            if c.weights
        },
        groups=tuple(_groups(n, method, coarse)) if isinstance(method, Parareal) else (),
    )
    for j, seen in (features or {}).items():
        rest = max(0.0, plan.pieces[j - 1].seconds - seen.cost.seconds)
        parts = {Target.inputs(j): seen.cost.seconds, Target.fine(j): rest}
        plan.levels.update({str(target): seconds for target, seconds in parts.items()})
    return timed(plan, schedule)


@dataclass(frozen=True)
class Use:
    """What of a machine a prediction is for: ``cores`` that all ranks share, if they do.

    There several that compute take ``hindrance`` times as long as one. A step computes
    ``computing`` times as long as an evaluation, and sends ``messages`` times as many messages.
    """

    cores: int | None = None
    computing: float = 1.0
    messages: float = 1.0
    hindrance: float = 1.0


def predict(plan: Plan, placed: Schedule, use: Use | None = None) -> Timeline:
    """The timeline of a placed schedule with the plan's costs and machine."""
    use = use or Use()
    clock, sizes = _clock(plan), {p.index: p.interface_bytes for p in plan.pieces}
    crossed = _crossed(plan, placed)

    def message(task: Task) -> float:
        interface = crossed.get(task.value, task.piece - 1)
        return use.messages * plan.machine.message(sizes[interface] / task.parts)

    def seconds(task: Task) -> float:
        return use.computing * clock(task)

    return simulate(placed, seconds, message, use.cores, use.hindrance)


def predict_on_lanes(plan: Plan, schedule: Schedule, computing: float = 1.0) -> Timeline:
    """The timeline of a schedule whose tasks run side by side on the machine's one device.

    A step computes ``computing`` times as long as an evaluation.
    """
    machine, clock = plan.machine, _clock(plan)
    idle = _launching(plan, clock)
    way: Way = "pieces" if isinstance(plan.method, MGRIT) else "paths"

    def parts(task: Task) -> tuple[float, float]:
        seconds = computing * clock(task)
        waiting = min(seconds, computing * idle(task))
        return waiting, seconds - waiting

    return side_by_side(schedule, lanes(schedule, by=way), parts, machine.sharing or Sharing())


def _crossed(plan: Plan, placed: Schedule) -> dict[str, int]:
    """Interfaces of states that corrections in levels send further than to the next subnetwork."""
    if not plan.groups:
        return {}
    ends = {(group.level, group.index): group.last for group in plan.groups}
    guesses = [task for task in placed if task.role is Role.GUESS]
    made = {task.value: task.piece for task in placed if task.role in STATES}
    numbers = {t.value: (t.applied.level, t.applied.number) for t in guesses}
    return made | {value: ends.get(number, number[1]) for value, number in numbers.items()}


def _clock(plan: Plan) -> Callable[[Task], float]:
    """Seconds that a task of the plan takes by itself."""
    pieces = plan.pieces
    seconds = {Target.fine(p.index): p.seconds for p in pieces}
    seconds |= {Target.coarse(p.index): p.coarse_seconds for p in pieces}
    seconds |= {Target.guess(p.index): p.coarse_seconds for p in pieces}
    seconds |= {Target.guess(p.index - 1): p.guess_seconds for p in pieces if p.guess != "none"}
    seconds[HEAD] = plan.head_seconds
    launches = {Target.coarse(p.index): p.coarse_launches for p in pieces}
    for g in plan.groups:
        applied = (Target.coarse(g.index, g.level), Target.guess(g.index, g.level))
        seconds |= dict.fromkeys(applied, g.coarse_seconds)
        launches[applied[0]] = g.coarse_launches
    sizes = {p.index: p.interface_bytes for p in pieces}

    def clock(task: Task) -> float:
        if task.target is not None:
            start = launches.get(task.target, 0) * plan.machine.launch_seconds
            known = plan.levels.get(str(task.target))
            whole = seconds[task.target] if known is None else known
            return start + (whole - start) / task.parts
        if task.op == "slice":
            return 0.0
        if task.op == "join":
            return plan.machine.cost(0.0, 2 * sizes[task.piece - 1], launches=1).seconds
        size, count = sizes[task.piece] or sizes.get(task.piece - 1, 0), len(task.reads)
        moved = size * (count + 1) / task.parts
        return plan.machine.cost(0.0, moved, launches=count - 1).seconds

    return clock


def _launching(plan: Plan, clock: Callable[[Task], float]) -> Callable[[Task], float]:
    """Seconds of a task that are those of launches, of all that its ``clock`` gives.

    Of what is not known, the share is that of the task's subnetwork.
    """
    known: dict[Target, int] = {HEAD: plan.head_launches}
    for piece in plan.pieces:
        known[Target.fine(piece.index)] = piece.launches
        known[Target.coarse(piece.index)] = known[Target.guess(piece.index)] = piece.coarse_launches
    for piece in plan.pieces:
        if piece.guess != "none":
            known[Target.guess(piece.index - 1)] = piece.guess_launches
    for group in plan.groups:
        applied = (Target.coarse, Target.guess)
        known |= {of(group.index, group.level): group.coarse_launches for of in applied}
    floor = plan.machine.launch_seconds
    like = {p.index: floor * p.launches / p.seconds for p in plan.pieces if p.seconds}

    def launching(task: Task) -> float:
        launches = known.get(task.target, 0) if task.target else max(0, len(task.reads) - 1)
        if task.target is not None and (not launches or str(task.target) in plan.levels):
            return min(1.0, like.get(task.piece, 1.0)) * clock(task)
        return launches * floor

    return launching


def timed(plan: Plan, schedule: Schedule) -> Plan:
    """The plan with the predicted time of a schedule that is not placed yet."""
    if plan.machine.sharing is not None:
        timeline = predict_on_lanes(plan, schedule)
    else:
        timeline = predict(plan, place(schedule, plan.n, plan.devices))
    seconds, coarse = timeline.makespan, timeline.critical_coarse_seconds
    return replace(plan, parallel_seconds=seconds, critical_coarse_seconds=coarse)


def _context(chain: Chain, first: int, last: int) -> Cost:
    """What a subnetwork computes for itself of the inputs alone, as the masks of its blocks."""
    repeated = chain.profile.repeated
    operations = chain.segment(first, last, training=True).operations if repeated else ()
    return sum((repeated[o.name] for o in operations if o.name in repeated), Cost())


def _piece(
    partition: Partition, method: Method, j: int, coarse: Coarse | None, guess: Guess | None
) -> Piece:
    chain = partition.chain
    first, last = partition.piece(j)
    layers = chain.layers[first:last]
    names = dict.fromkeys(name for layer in layers for name in layer.parameters)
    after = partition.interface(j) if j < partition.n else None
    cost = chain.cost(first, last) + _context(chain, first, last)
    corrected = correction(coarse, method)
    return Piece(
        index=j,
        layers=(layers[0].name, layers[-1].name),
        depth=len(layers),
        after=after.name if after else "",
        module=str(after) if after else "",
        state=tuple(str(spec) for spec in after.state) if after else (),
        interface_bytes=after.bytes if after else 0,
        parameters=sum(chain.sizes[name] for name in names),
        memory=_activations(partition, j),
        flops=cost.flops,
        seconds=cost.seconds,
        coarse=coarse.kind if coarse else "none",
        coarse_kind=coarse.name if coarse else "",
        coarse_options=coarse.options if coarse else {},
        coarse_parameters=count(coarse.module) if coarse else 0,
        coarse_seconds=corrected.seconds,
        coarse_launches=corrected.launches,
        guess=guess.kind if guess else "none",
        guess_parameters=count(guess.module) if guess else 0,
        guess_seconds=guess.cost.seconds if guess else 0.0,
        error=coarse.error if coarse else None,
        launches=cost.launches,
        guess_launches=guess.cost.launches if guess else 0,
    )


def _groups(n: int, method: Parareal, coarse: Mapping[Target, Coarse]) -> Iterator[Group]:
    """The groups of all levels above the second, each with what corrects it."""
    for level, points in enumerate(method.points(n)[1:], start=3):
        for number, (before, last) in enumerate(pairwise(points), start=1):
            found = coarse.get(Target.coarse(number, level))
            group = Group(level, number, before + 1, last)
            if found is None:
                shared = method.coarse == "fine" and number > 1
                yield replace(group, coarse="fine" if shared else "none")
                continue
            cost = correction(found, method)
            yield replace(
                group,
                coarse=found.kind,
                coarse_parameters=count(found.module),
                coarse_seconds=cost.seconds,
                coarse_launches=cost.launches,
                coarse_kind=found.name,
                coarse_options=found.options,
            )


def _activations(partition: Partition, j: int) -> int:
    """Bytes of every value that the subnetwork computes."""
    chain = partition.chain
    operations = chain.segment(*partition.piece(j), training=True).operations
    specs = [chain.profile.specs.get(o.name) for o in operations if o.kind != "attribute"]
    return sum(spec.bytes for spec in specs if spec is not None)


def correction(coarse: Coarse | None, method: Method) -> Cost:
    """One correction: a residual one made zero-preserving evaluates its network twice."""
    if coarse is None:
        return Cost()
    residual = isinstance(method, Parareal) and method.correction == "residual"
    twice = residual and not coarse.zero_preserving
    return coarse.cost + coarse.cost if twice else coarse.cost


def count(module: nn.Module | None) -> int:
    """Parameters of a network, if there is one."""
    return sum(p.numel() for p in module.parameters()) if module is not None else 0
