"""The schedule: its text, its grid, its graph and the rules it is verified by."""

from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import pytest

from pararealize.errors import ScheduleError
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, targets
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import Role, Task
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import place

RESIDUAL = Parareal()
DIFFERENCE = Parareal(correction="difference", iterations=2)

RESIDUAL_TEXT = {
    1: """\
step  rank 0
   0  v1.0 = fine.1(x)
   1  out = head(v1.0)""",
    2: """\
step  rank 0
   0  u1.0 = guess.1(x)
   1  v1.0 = fine.1(x)
   2  v2.0 = fine.2(u1.0)
   3  r1.0 = v1.0 - u1.0
   4  c2.0 = coarse.2(r1.0)
   5  u2.1 = v2.0 + c2.0
   6  out = head(u2.1)""",
    3: """\
step  rank 0
   0  u1.0 = guess.1(x)
   1  u2.0 = guess.2(x)
   2  v1.0 = fine.1(x)
   3  v2.0 = fine.2(u1.0)
   4  v3.0 = fine.3(u2.0)
   5  r1.0 = v1.0 - u1.0
   6  c2.0 = coarse.2(r1.0)
   7  u2.1 = v2.0 + c2.0
   8  r2.0 = u2.1 - u2.0
   9  c3.0 = coarse.3(r2.0)
  10  u3.1 = v3.0 + c3.0
  11  out = head(u3.1)""",
}

DIFFERENCE_TEXT = {
    1: """\
step  rank 0
   0  v1.0 = fine.1(x)
   1  out = head(v1.0)""",
    2: """\
step  rank 0
   0  v1.0 = fine.1(x)
   1  v2.1 = fine.2(v1.0)
   2  out = head(v2.1)""",
    3: """\
step  rank 0
   0  u1.0 = guess.1(x)
   1  v1.0 = fine.1(x)
   2  v2.0 = fine.2(u1.0, quiet)
   3  g2.0 = coarse.2(u1.0, quiet)
   4  g2.1 = coarse.2(v1.0)
   5  u2.1 = g2.1 + v2.0 - g2.0
   6  g3.1 = coarse.3(u2.1, quiet)
   7  v2.1 = fine.2(v1.0)
   8  v3.1 = fine.3(u2.1)
   9  g3.2 = coarse.3(v2.1)
  10  u3.2 = g3.2 + v3.1 - g3.1
  11  out = head(u3.2)""",
}

PLACED_TEXT = """\
step  rank 0            rank 1                 rank 2
   0  v1.0 = fine.1(x)  u1.0 = guess.1(x)      u2.0 = guess.2(x)
   1  send v1.0 → 1     v2.0 = fine.2(u1.0)    v3.0 = fine.3(u2.0)
   2                    v1.0 ← 0
   3                    r1.0 = v1.0 - u1.0
   4                    c2.0 = coarse.2(r1.0)
   5                    u2.1 = v2.0 + c2.0
   6                    send u2.1 → 2
   7                                           u2.1 ← 1
   8                                           r2.0 = u2.1 - u2.0
   9                                           c3.0 = coarse.3(r2.0)
  10                                           u3.1 = v3.0 + c3.0
  11                                           out = head(u3.1)"""


def applied(value: str, read: str, j: int = 1, rank: int = 0) -> Task:
    return Task(value, "apply", Role.FINE, (read,), Target.fine(j), rank=rank)


def send(token: str, value: str, peer: int, rank: int = 0) -> Task:
    return Task(token, "send", Role.MESSAGE, (value,), rank=rank, peer=peer)


def receive(value: str, peer: int, rank: int = 0) -> Task:
    return Task(value, "recv", Role.MESSAGE, rank=rank, peer=peer)


def trimmed(schedule: Schedule) -> str:
    return "\n".join(line.rstrip() for line in schedule.text().splitlines())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_text_of_one_residual_sweep(n: int) -> None:
    assert trimmed(parareal_schedule(n, RESIDUAL)) == RESIDUAL_TEXT[n]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_text_of_two_difference_sweeps(n: int) -> None:
    assert trimmed(parareal_schedule(n, DIFFERENCE)) == DIFFERENCE_TEXT[n]


def test_text_of_a_placed_schedule_has_one_column_a_rank() -> None:
    placed = place(parareal_schedule(3, RESIDUAL), 3, 3)
    assert trimmed(placed) == PLACED_TEXT
    assert str(placed) == placed.text()


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (applied("v2.0", "u1.0", 2), "v2.0 = fine.2(u1.0)"),
        (replace(applied("v2.0", "u1.0", 2), commits=False), "v2.0 = fine.2(u1.0, quiet)"),
        (Task("r", "combine", Role.JUMP, ("a", "b"), signs="+-"), "r = a - b"),
        (Task("r", "combine", Role.CORRECTION, ("a", "b", "c"), signs="-++"), "r = - a + b + c"),
        (send("a→1", "a", 1), "send a → 1"),
        (receive("a", 0, rank=1), "a ← 0"),
    ],
)
def test_text_of_a_task(task: Task, text: str) -> None:
    assert str(task) == text


def test_grid_places_every_task_once() -> None:
    placed = place(parareal_schedule(4, DIFFERENCE), 4, 2)
    grid = placed.grid()
    assert len(grid) == 2
    assert len({len(row) for row in grid}) == 1
    for rank, row in enumerate(grid):
        wanted = [str(task) for task in placed if task.rank == rank]
        assert [cell for cell in row if cell] == wanted


def test_steps_wait_for_what_they_read() -> None:
    placed = place(parareal_schedule(3, RESIDUAL), 3, 3)
    step = {i: s for s, row in enumerate(placed.steps()) for i in row}
    assert sorted(step) == list(range(len(placed.tasks)))
    assert all(step[a] < step[b] for a, b in placed.dag().edges)
    for row in placed.steps():
        ranks = [placed.tasks[i].rank for i in row]
        assert len(ranks) == len(set(ranks))


def test_dag_edges_carry_the_values_that_are_read() -> None:
    schedule = parareal_schedule(2, RESIDUAL)
    graph = schedule.dag()
    assert isinstance(graph, nx.DiGraph)
    assert nx.is_directed_acyclic_graph(graph)
    names = {i: task.value for i, task in enumerate(schedule)}
    edges = {(names[a], names[b]): value for a, b, value in graph.edges(data="value")}
    assert edges == {
        ("u1.0", "v2.0"): "u1.0",
        ("v1.0", "r1.0"): "v1.0",
        ("u1.0", "r1.0"): "u1.0",
        ("r1.0", "c2.0"): "r1.0",
        ("v2.0", "u2.1"): "v2.0",
        ("c2.0", "u2.1"): "c2.0",
        ("u2.1", "out"): "u2.1",
    }
    assert graph.nodes[0]["task"] is schedule.tasks[0]


def test_dag_of_a_placed_schedule_joins_sends_and_receives() -> None:
    placed = place(parareal_schedule(2, RESIDUAL), 2, 2)
    kinds = {(placed.tasks[a].op, placed.tasks[b].op) for a, b in placed.dag().edges}
    assert ("send", "recv") in kinds


def test_targets_come_in_order_of_first_use() -> None:
    assert targets(parareal_schedule(3, RESIDUAL)) == (
        *(Target.guess(1), Target.guess(2), Target.fine(1), Target.fine(2), Target.fine(3)),
        *(Target.coarse(2), Target.coarse(3), HEAD),
    )


def tasks_of(*tasks: Task, ranks: int = 1) -> Schedule:
    return Schedule(tasks, "out", inputs=("x",), ranks=ranks)


OUT = applied("out", "x")

BROKEN: dict[str, tuple[Schedule, str]] = {
    "undefined": (tasks_of(applied("out", "y")), "uses y before it is defined"),
    "late": (
        tasks_of(applied("out", "y"), applied("y", "x")),
        "uses y before",
    ),
    "twice": (tasks_of(OUT, OUT), "assigns out twice"),
    "signs": (
        tasks_of(Task("out", "combine", Role.COPY, ("x", "x"), signs="+")),
        "with signs '\\+'",
    ),
    "no output": (tasks_of(applied("y", "x")), "no task makes the output out"),
    "rank": (tasks_of(replace(OUT, rank=1)), "placed on rank 1 of 1"),
    "other rank": (
        tasks_of(
            applied("y", "x"),
            applied("out", "y", rank=1),
            ranks=2,
        ),
        "rank 1: .* uses y",
    ),
    "no receive": (tasks_of(OUT, send("s", "out", 1), ranks=2), "has no receive"),
    "no send": (tasks_of(OUT, receive("y", 0, rank=1), ranks=2), "has no send"),
    "two receives": (
        tasks_of(
            OUT,
            send("s", "out", 1),
            receive("out", 0, rank=1),
            send("s", "out", 0, rank=1),
            ranks=2,
        ),
        "from rank 1 to 0 has no receive",
    ),
    "deadlock": (
        tasks_of(
            receive("b", 1, rank=0),
            applied("out", "x", rank=0),
            send("s", "out", 1, rank=0),
            receive("out", 0, rank=1),
            applied("b", "x", rank=1),
            send("t", "b", 0, rank=1),
            ranks=2,
        ),
        "ranks wait for each other",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_schedule_is_refused(name: str) -> None:
    schedule, message = BROKEN[name]
    with pytest.raises(ScheduleError, match=message):
        schedule.verify()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("iterations", [0, 1, 2, 8])
@pytest.mark.parametrize("guess", ["network", "coarse"])
def test_every_parareal_schedule_verifies(n: int, iterations: int, guess: str) -> None:
    for correction in ("residual", "difference"):
        for coarse in ("network", "fine"):
            method = Parareal(coarse, correction, iterations, guess)
            schedule = parareal_schedule(n, method, head=n % 2 == 0)
            assert schedule.verify() is schedule


def dropped(schedule: Schedule, i: int) -> Schedule:
    return replace(schedule, tasks=schedule.tasks[:i] + schedule.tasks[i + 1 :])


def repeated(schedule: Schedule, i: int) -> Schedule:
    return replace(schedule, tasks=(*schedule.tasks, schedule.tasks[i]))


def postponed(schedule: Schedule, i: int) -> Schedule:
    return replace(dropped(schedule, i), tasks=(*dropped(schedule, i), schedule.tasks[i]))


@pytest.mark.parametrize("damage", [dropped, repeated])
def test_a_lost_or_repeated_task_is_found(damage: Callable[[Schedule, int], Schedule]) -> None:
    placed = place(parareal_schedule(4, DIFFERENCE), 4, 3)
    for i in range(len(placed.tasks)):
        with pytest.raises(ScheduleError):
            damage(placed, i).verify()


def test_a_task_after_its_readers_is_found() -> None:
    placed = place(parareal_schedule(4, DIFFERENCE), 4, 3)
    read_here = {a for a, b in placed.dag().edges if placed.tasks[a].rank == placed.tasks[b].rank}
    assert len(read_here) > 10
    for i in read_here:
        with pytest.raises(ScheduleError, match="before it is defined"):
            postponed(placed, i).verify()
