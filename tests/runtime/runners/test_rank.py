"""A rank runs its tasks of a placed schedule: threads beside one process."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chains import batch, chain, cuts, interpret, signed_sum
from local_ranks import all_of, on_ranks
from local_transport import LocalGroup, LocalTransport
from networks import Case, Recipe, assert_equal_steps, compiled, one_step, relative, share_of
from pararealize import MGRIT, ParallelNetwork, Parareal, pararealize
from pararealize.errors import DisagreementError, PeerError
from pararealize.ir.methods import Method
from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT
from pararealize.runtime.runners.rank import RankRunner
from pararealize.runtime.runners.rank_programs import StaticProgram
from pararealize.runtime.values.arguments import Arguments
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import place

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: The same operations in the same order; adjoints may be added in another one.
ROUNDING = 1e-12


# schedules by hand


@dataclass
class Part:
    """A propagator: tanh(A v), with a matrix drawn from its name."""

    target: Target
    inputs: tuple[str, ...] = ()
    before: Callable[[], None] = lambda: None
    made: list[Any] = field(default_factory=list)

    @property
    def label(self) -> str:
        return str(self.target)

    def __call__(self, value: Tensor, *, commits: bool = True) -> Tensor:
        self.before()
        generator = torch.Generator().manual_seed(sum(map(ord, self.label)))
        matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)
        result = torch.tanh(value @ matrix)
        self.made.append(weakref.ref(result))
        return result


def parts_of(schedule: Schedule) -> dict[Target, Part]:
    """What a schedule applies."""
    applied = {task.applied: task for task in schedule if task.op == "apply"}
    return {
        target: Part(target, (INPUT,) if task.reads == (INPUT,) else ())
        for target, task in applied.items()
    }


def placed(n: int, ranks: int, method: Parareal) -> Schedule:
    return place(parareal_schedule(n, method), n, ranks, deliver=True)


def runner(
    schedule: Schedule, parts: Mapping[Target, Any], transport: LocalTransport
) -> Callable[[Tensor], tuple[Any, Any]]:
    """What runs a rank's tasks: the input → (output, watched pairs)."""
    program = StaticProgram(schedule, transport.rank)
    arguments = Arguments([Operation(INPUT, "placeholder", INPUT)])
    own = RankRunner(program, parts, arguments, (), transport, nn.Module(), guarded=True)

    def call(x: Tensor) -> tuple[Any, Any]:
        output = own.run((x,), {}, None)
        return output, [(new, old) for _, new, old in program.watched]

    return call


def distance(pair: tuple[Any, Any], other: tuple[Any, Any]) -> float:
    return relative(dict(enumerate(pair)), dict(enumerate(other)))


METHODS = [
    Parareal(iterations=1, correction="residual", guess="network"),
    Parareal(iterations=2, correction="difference", guess="coarse"),
    Parareal(iterations=2, correction="residual", guess="coarse"),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_do_what_the_schedule_says(ranks: int, method: Parareal) -> None:
    once = parareal_schedule(3, method)
    x, parts = torch.ones(2, 3, dtype=torch.float64), parts_of(once)
    named = {str(target): part for target, part in parts.items()}
    values = interpret(once, lambda name, v: named[name](v), signed_sum, {INPUT: x})
    schedule = placed(3, ranks, method)

    def work(transport: LocalTransport) -> Any:
        return runner(schedule, parts_of(schedule), transport)(x)

    found = all_of(ranks, work)
    for output, _ in found:
        assert relative({"": output}, {"": values[once.output]}) <= ROUNDING
    pairs = [pair for _, own in found for pair in own]
    wanted = [(values[watch.new], values[watch.old]) for watch in once.watches]
    assert len(pairs) == len(wanted) > 0
    for pair in pairs:
        assert min(distance(pair, other) for other in wanted) <= ROUNDING


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_value_is_dropped_after_its_last_read(ranks: int) -> None:
    """As a propagator begins, nothing lives that neither it nor a later task reads."""
    schedule = placed(4, ranks, METHODS[1])
    kept = {schedule.output, *(name for w in schedule.watches for name in (w.new, w.old))}
    x = torch.ones(2, 3, dtype=torch.float64)

    def work(transport: LocalTransport) -> list[tuple[set[str], set[str]]]:
        tasks = [task for task in schedule if task.rank == transport.rank]
        applied = [task for task in tasks if task.op == "apply"]
        parts, made = parts_of(schedule), list[Any]()
        seen: list[tuple[set[str], set[str]]] = []

        def look() -> None:
            later = tasks[tasks.index(applied[len(seen)]) :]
            wanted = {name for task in later for name in task.reads} | kept
            pairs = zip(applied, made, strict=False)
            held = {task.value for task, result in pairs if result() is not None}
            seen.append((held, wanted))

        for part in parts.values():
            part.before, part.made = look, made
        with torch.no_grad():
            runner(schedule, parts, transport)(x)
        return seen

    rows = [row for seen in all_of(ranks, work) for row in seen]
    assert len(rows) == sum(task.op == "apply" for task in schedule)
    assert all(held <= wanted for held, wanted in rows)
    assert any(held for held, _ in rows)


# networks


def on_threads(
    case: Case, ranks: int, work: Callable[[ParallelNetwork], Any], **options: Any
) -> Any:
    """What ``work`` makes of the case's network on every rank."""
    models = [case.model() for _ in range(ranks)]

    def build(transport: LocalTransport) -> Any:
        net = compiled(
            models[transport.rank], case.n, case.method, case.x, comm=transport, **options
        )
        return work(net)

    return all_of(ranks, build)


CASES = {
    "parareal": Case(Recipe("skip", 9, norm="batch"), 3, Parareal(iterations=2)),
    "mgrit": Case(Recipe("residual", 9, norm="batch"), 3, MGRIT(2, 2, "sampled")),
    "mgrit, points": Case(
        Recipe("residual", 9),
        3,
        MGRIT(2, 2, "rediscretized", forward_cycles=2, backward_cycles=2, storage="points"),
    ),
    "adaptive": Case(
        Recipe("residual", 9, norm="batch"), 3, Parareal(tolerance=1e-9, correction="difference")
    ),
}


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("parareal", 2), ("mgrit", 3), ("mgrit, points", 2), ("adaptive", 3)],
)
def test_a_step_is_that_of_one_process(name: str, ranks: int) -> None:
    case = CASES[name]
    wanted = one_step(compiled(case.model(), case.n, case.method, case.x), case)
    found = on_threads(case, ranks, lambda net: one_step(net, case))
    for step in found:
        assert_equal_steps(step, share_of(wanted, step), ROUNDING)
    keys = [key for step in found for key in step.gradients if key != "input"]
    assert sorted(keys) == sorted(key for key in wanted.gradients if key != "input")


def test_slices_are_cut_and_joined_again() -> None:
    """Six samples in slices, one behind the other: without a norm the step is the same."""
    chunks = 4  # of two samples, and of one
    case = Case(Recipe("residual", 9), 3, Parareal("network", "residual", 1))
    wanted = one_step(compiled(case.model(), case.n, case.method, case.x), case)

    def work(net: ParallelNetwork) -> Any:
        ops = {task.op for task in net.schedule}
        return one_step(net, case), ops, [t.parts for t in net.schedule if t.op == "slice"]

    for step, ops, parts in on_threads(case, 3, work, chunks=chunks):
        assert {"slice", "join", "send", "recv"} <= ops
        assert set(parts) == {chunks}
        assert_equal_steps(step, share_of(wanted, step), ROUNDING)


def test_as_many_sweeps_run_as_in_one_process() -> None:
    """On all ranks alike, and with the same jumps, each on the rank that sees it or on all."""
    for tolerance in (0.05, 10.0):
        method = Parareal(tolerance=tolerance, correction="difference")
        case = Case(Recipe("residual", 9), 4, method)
        alone = compiled(case.model(), case.n, case.method, case.x)
        alone(case.x)

        def work(net: ParallelNetwork, case: Case = case) -> Any:
            net(case.x)
            return net.report

        for report in on_threads(case, 3, work):
            assert report.sweeps == alone.report.sweeps
            for one, other in zip(report.jumps, alone.report.jumps, strict=True):
                assert (one.sweep, one.interface) == (other.sweep, other.interface)
                assert one.norm == pytest.approx(other.norm, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("method", "called"),
    [
        (Parareal(), False),  # nothing was called, and all know
        (Parareal(iterations=0), True),  # nothing is corrected
        (Parareal(tolerance=0.05, correction="difference"), True),  # a rule has asked for all
        (MGRIT(coarsening=2), True),  # so has the solver
    ],
)
def test_one_rank_alone_reads_a_report_that_it_knows(method: Method, called: bool) -> None:
    case = Case(Recipe("residual", 9), 3, method)

    def work(net: ParallelNetwork) -> Any:
        if called:
            net(case.x)
        report = net.report if net._emission.transport.rank == 0 else None  # type: ignore[union-attr]
        net(case.x)
        return report

    reports = on_threads(case, 3, work)
    assert reports[0] is not None
    assert bool(reports[0].jumps) == (called and method != Parareal(iterations=0))


def test_no_graph_is_built_where_nothing_learns() -> None:
    case = CASES["parareal"]

    def work(net: ParallelNetwork) -> Any:
        net.requires_grad_(False)
        return net(case.x).requires_grad

    assert on_threads(case, 2, work) == [False, False]


def test_adjoints_go_back_as_far_as_something_learns() -> None:
    """λ is sent to rank 0 only if anything there wants a gradient."""
    case = Case(Recipe("residual", 9), 2, Parareal("network", "residual", 1))
    counts = {}
    for trains in (False, True):

        def work(net: ParallelNetwork, trains: bool = trains) -> Any:
            transport = net._emission.share.transport
            if transport.rank == 0:
                net.requires_grad_(trains)
            output = net(case.x)
            sent = transport.sent_messages
            output.sum().backward()
            return transport.sent_messages - sent, [p.grad is None for p in net.parameters()]

        counts[trains] = on_threads(case, 2, work)
    (none, frozen), (no_adjoint, learns) = counts[False]
    assert (none, no_adjoint) == (0, 0)
    assert all(frozen)
    assert not all(learns)
    assert [count for count, _ in counts[True]] == [0, 1]


class Labelled(nn.Module):
    """An output with what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"y": self.layers(x), "loss": None, "version": 3}


def test_constants_of_an_output_reach_every_rank() -> None:
    models = [Labelled().double() for _ in range(2)]
    x = torch.ones(2, 3, dtype=torch.float64)

    def work(transport: LocalTransport) -> Any:
        net = compiled(models[transport.rank], 2, Parareal(), x, comm=transport)
        found = [net(x) for _ in range(2)][1]
        found["y"].sum().backward()
        return found

    one, other = all_of(2, work)
    assert torch.equal(one["y"], other["y"])
    assert one["loss"] is other["loss"] is None
    assert one["version"] == other["version"] == 3


# failures


class BrokenError(Exception):
    """What a user's layer raises."""


def failing(ranks: int, error: BaseException, last: Callable[[], Any]) -> list[Any]:
    """What ranks raise where a layer of the last one raises ``error``, called with ``last()``."""
    case = Case(Recipe("residual", 9), 3, Parareal())
    models = [case.model() for _ in range(ranks)]

    def work(transport: LocalTransport) -> None:
        net = compiled(models[transport.rank], case.n, case.method, case.x, comm=transport)
        net(case.x)
        here = transport.rank == ranks - 1
        if here:
            layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
            layers[-1].register_forward_pre_hook(lambda *_: raised(error))
        net(last() if here else case.x)

    return on_ranks(ranks, work)


def raised(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(("ranks", "kind"), [(3, BrokenError), (2, KeyboardInterrupt)])
def test_an_error_names_its_rank_and_reaches_the_others(
    ranks: int, kind: type[BaseException]
) -> None:
    case = Case(Recipe("residual", 9), 3, Parareal())
    *others, own = failing(ranks, kind("no way on"), lambda: case.x)
    assert type(own) is kind
    assert own.__notes__[-1] == f"on rank {ranks - 1} of {ranks}"
    assert len(others) == ranks - 1
    for error in others:
        assert isinstance(error, PeerError)
        assert f"rank {ranks - 1} of {ranks} stopped" in str(error)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_state_that_is_no_number_is_named_with_its_rank() -> None:
    """Where anomalies are looked for, which is so for all threads."""
    case = Case(Recipe("residual", 9), 2, Parareal())
    models = [case.model() for _ in range(2)]

    def work(transport: LocalTransport) -> None:
        net = compiled(models[transport.rank], case.n, case.method, case.x, comm=transport)
        if transport.rank == 1:
            layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
            layers[0].register_forward_hook(lambda *values: values[2] * math.nan)
        with torch.autograd.set_detect_anomaly(True):
            net(case.x).sum().backward()

    with torch.autograd.set_detect_anomaly(True):
        other, own = on_ranks(2, work)
    assert isinstance(other, PeerError)
    assert "NaN or infinite" in str(own)
    assert "subnetwork 2" in str(own)
    assert own.__notes__[-1] == "on rank 1 of 2"


def test_other_inputs_explain_more_than_what_they_led_to() -> None:
    """A layer that fails on another batch than the other ranks' is not the cause."""
    case = Case(Recipe("residual", 9), 3, Parareal())
    for error in failing(2, BrokenError("too few samples"), lambda: case.x[:4]):
        assert isinstance(error, DisagreementError)
        assert "rank 0: " in str(error)
        assert "[6, 3]" in str(error)
        assert "[4, 3]" in str(error)


# what is recorded


def test_tasks_are_recorded_in_their_order_and_adjoints_before_fine_propagators() -> None:
    case = Case(Recipe("residual", 9), 3, Parareal("network", "residual", 1))

    def work(net: ParallelNetwork) -> Any:
        rank = net._emission.share.transport.rank
        with net.recording() as recorder:
            net(case.x).sum().backward()
        forward = [str(task) for task in net.schedule if task.rank == rank]
        return forward, [(span.name, span.kind) for span in recorder.spans], net(case.x)

    for rank, (forward, spans, _) in enumerate(on_threads(case, 3, work)):
        names = [name for name, _ in spans]
        assert names[: len(forward)] == forward
        back = names[len(forward) :]
        assert all(kind in {"backward", "send", "recv"} for _, kind in spans[len(forward) :])
        sent = [i for i, name in enumerate(back) if name.startswith("adjoint") and "→" in name]
        fine = [i for i, name in enumerate(back) if name.startswith("subnetwork")]
        assert fine
        assert len(sent) == (rank > 0)
        assert all(i < j for i in sent for j in fine)


def test_nothing_is_recorded_behind_the_block() -> None:
    case = CASES["mgrit"]

    def work(net: ParallelNetwork) -> Any:
        with net.recording() as recorder:
            net(case.x)
        count = len(recorder.spans)
        net(case.x).sum().backward()
        return count, len(recorder.spans)

    for inside, after in on_threads(case, 2, work):
        assert inside == after > 0


def test_multigrid_on_a_rank_marks_its_adjoints() -> None:
    method, models = MGRIT(2, 3, "rediscretized"), [chain(9) for _ in range(3)]

    def work(transport: LocalTransport) -> Any:
        x = batch()
        net = compiled(models[transport.rank], 3, method, x, cuts(3, 3), comm=transport)
        with net.recording() as recorder:
            net(x).sum().backward()
        return [span.name for span in recorder.spans]

    for names in all_of(3, work):
        assert any("ᵀ" in name for name in names)


def test_one_rank_is_a_network_like_any_other() -> None:
    case = CASES["parareal"]
    wanted = one_step(compiled(case.model(), case.n, case.method, case.x), case)
    comm = LocalGroup(1).member(0)
    net = compiled(case.model(), case.n, case.method, case.x, comm=comm)
    found = one_step(net, case)
    assert_equal_steps(found, wanted, ROUNDING)


class Tied(nn.Sequential):
    """The last layer has the weight of the first."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(3, 3).double() for _ in range(4)))
        self[3].weight = self[0].weight


@pytest.mark.parametrize("broken", [0, 1])
def test_a_call_that_a_rank_cannot_begin_is_told(broken: int) -> None:
    """Here one has lost a weight that ranks share; the others must not wait for it."""
    models, exact = [Tied(), Tied()], Parareal(coarse="fine", correction="difference")
    models[1].load_state_dict(models[0].state_dict())

    def work(transport: LocalTransport) -> None:
        own = models[transport.rank]
        net = pararealize(own, 2, method=exact, example_inputs=(batch(),), comm=transport)
        if transport.rank == broken:
            layer = net.get_submodule(str(3 * broken))
            del layer._parameters["weight"]
        net(batch())

    found = on_ranks(2, work)
    assert isinstance(found[broken], AttributeError)
    assert f"rank {broken} of 2 stopped" in str(found[1 - broken])
    assert "weight" in str(found[1 - broken])
