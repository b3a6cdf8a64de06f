"""The parareal schedule: what is computed, what is left out, what moves statistics."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from pararealize.errors import ScheduleError
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import answered, in_a_row, kept, made_in, taken
from pararealize.ir.target import Target
from pararealize.ir.task import Role, Task
from pararealize.schedule.parareal import certified_stages, parareal_schedule, parareal_stages
from pararealize.schedule.place import place, place_stages
from sampling import pairwise

CASES = pairwise(
    [1, 2, 3, 5, 8], [0, 1, 2, 4, 9], ["residual", "difference"], ["network", "coarse"]
)


def scheduled(n: int, iterations: int, correction: str, guess: str, **options: bool) -> Schedule:
    method = Parareal(iterations=iterations, correction=correction, guess=guess)
    return parareal_schedule(n, method, **options)


def applied(schedule: Schedule) -> Counter[str]:
    return Counter(task.propagator for task in schedule if task.op == "apply")


@pytest.mark.parametrize(("n", "iterations", "correction", "guess"), CASES)
def test_every_task_is_needed(n: int, iterations: int, correction: str, guess: str) -> None:
    schedule = scheduled(n, iterations, correction, guess)
    read = {name for task in schedule for name in task.reads}
    assert all(task.value in read for task in schedule.tasks[:-1])
    assert schedule.tasks[-1].value == schedule.output == "out"


@pytest.mark.parametrize(("n", "iterations", "correction", "guess"), CASES)
def test_no_task_is_done_twice(n: int, iterations: int, correction: str, guess: str) -> None:
    schedule = scheduled(n, iterations, correction, guess)
    done = Counter((t.op, t.propagator, t.signs, t.reads) for t in schedule)
    assert max(done.values()) == 1


@pytest.mark.parametrize(("n", "iterations", "correction", "guess"), CASES)
def test_every_network_moves_statistics_once(
    n: int, iterations: int, correction: str, guess: str
) -> None:
    schedule = scheduled(n, iterations, correction, guess)
    commits = Counter(t.propagator for t in schedule if t.op == "apply" and t.commits)
    networks = {
        name.replace("guess", "coarse") if guess == "coarse" else name for name in applied(schedule)
    }
    assert sum(commits.values()) == len(networks)
    assert max(commits.values()) == 1
    last = {t.propagator: t for t in schedule if t.op == "apply"}
    assert all(task.commits for name, task in last.items() if name.startswith(("fine", "head")))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_as_many_sweeps_as_pieces_are_the_serial_network(n: int, correction: str) -> None:
    schedule = scheduled(n, n, correction, "network")
    final = {task.value: task for task in schedule}
    at = schedule.output
    for name in ["head", *(f"fine.{j}" for j in range(n, 0, -1))]:
        assert final[at].propagator == name
        (at,) = final[at].reads
    assert at == "x"


@pytest.mark.parametrize("n", [2, 3, 6])
def test_one_residual_sweep_evaluates_everything_once(n: int) -> None:
    schedule = scheduled(n, 1, "residual", "network")
    names = [f"fine.{j}" for j in range(1, n + 1)] + [f"coarse.{j}" for j in range(2, n + 1)]
    names += [f"guess.{j}" for j in range(1, n)] + ["head"]
    assert applied(schedule) == Counter(names)


def test_fine_evaluations_of_a_sweep_do_not_wait_for_each_other() -> None:
    schedule = scheduled(5, 1, "residual", "network")
    fine = [task for task in schedule if task.propagator.startswith("fine.")]
    assert [task.reads for task in fine] == [("x",), *((f"u{j}.0",) for j in range(1, 5))]


def test_exact_interfaces_are_not_computed_again() -> None:
    reused = scheduled(4, 3, "difference", "network")
    every = scheduled(4, 3, "difference", "network", reuse=False)
    assert applied(reused)["fine.1"] == applied(every)["fine.1"] == 1
    assert len(every.tasks) > len(reused.tasks)
    assert "u2.2" in {task.value for task in every}
    assert "u2.2" not in {task.value for task in reused}


def test_a_shared_coarse_propagator_is_the_fine_one() -> None:
    schedule = parareal_schedule(3, Parareal("fine", "difference", 1, "network"))
    assert not [name for name in applied(schedule) if name.startswith("coarse")]
    assert applied(schedule)["fine.2"] == 2  # at the guess and at the exact state


def test_a_coarse_sweep_guesses_from_interface_to_interface() -> None:
    schedule = scheduled(4, 1, "residual", "coarse")
    guesses = {t.value: t.reads for t in schedule if t.value.endswith(".0") and t.value[0] == "u"}
    assert guesses == {"u1.0": ("x",), "u2.0": ("u1.0",), "u3.0": ("u2.0",)}


def test_tasks_belong_to_the_piece_that_makes_them() -> None:
    pieces = {t.value: t.piece for t in scheduled(3, 1, "residual", "network")}
    assert pieces == {
        **{"u1.0": 2, "u2.0": 3, "v1.0": 1, "v2.0": 2, "v3.0": 3},
        **{"r1.0": 2, "c2.0": 2, "u2.1": 2, "r2.0": 3, "c3.0": 3, "u3.1": 3, "out": 3},
    }


def test_watches_are_the_jumps_that_were_corrected() -> None:
    assert scheduled(3, 1, "residual", "network").watches == (
        Watch(0, 1, "v1.0", "u1.0"),
        Watch(0, 2, "u2.1", "u2.0"),
    )
    for watch in scheduled(4, 2, "difference", "network").watches:
        assert watch.interface > watch.sweep
    assert scheduled(1, 1, "residual", "network").watches == ()


@pytest.mark.parametrize("shared", [False, True])
def test_what_the_last_sweep_corrected_is_watched_where_that_is_asked_for(shared: bool) -> None:
    """At interface n, of every stage the last sweep's; also where v_n is known as a G."""
    method = Parareal("fine" if shared else "network", "difference", 2, tolerance=math.inf)
    plain = parareal_stages(4, method)
    stages = certified_stages(4, method)
    assert [replace(stage, watches=()) for stage in stages] == [
        replace(stage, watches=()) for stage in plain
    ]
    more = [
        [watch for watch in stage.watches if watch not in before.watches]
        for stage, before in zip(stages, plain, strict=True)
    ]
    last = "g4.2" if shared else "v4.2"
    assert more == [
        [Watch(1, 4, "u4.2", "g4.1" if shared else "v4.1")],
        [Watch(2, 4, "u4.3", last)],
        [],
    ]


def test_without_a_head_the_last_state_is_the_output() -> None:
    schedule = scheduled(3, 1, "residual", "network", head=False)
    assert schedule.output == "u3.1"
    assert "head" not in applied(schedule)


# stages

LATER = """\
v2.1 = fine.2(v1.0)
v3.1 = fine.3(u2.1)
r2.1 = v2.1 - u2.1
c3.1 = coarse.3(r2.1)
u3.2 = v3.1 + c3.1
out.2 = head(u3.2)

v3.2 = fine.3(v2.1)
out.3 = head(v3.2)"""


def staged(n: int, method: Parareal, **options: bool) -> tuple[Schedule, ...]:
    return parareal_stages(n, method, **options)


def test_a_later_sweep_makes_only_what_is_new() -> None:
    first, *later = staged(3, Parareal(tolerance=0.1))
    assert first == parareal_schedule(3, Parareal())
    assert "\n\n".join("\n".join(map(str, stage)) for stage in later) == LATER
    assert [stage.inputs for stage in later] == [("x", "v1.0", "u2.1"), ("x", "v2.1")]
    assert [stage.sweeps for stage in (first, *later)] == [1, 2, 3]
    assert [len(stage.watches) for stage in (first, *later)] == [2, 1, 0]


def test_before_the_first_sweep_there_is_no_jump_to_judge() -> None:
    assert staged(3, Parareal(iterations=0, tolerance=0.1)) == staged(3, Parareal(tolerance=0.1))
    never = Parareal(iterations=0, tolerance=math.inf)
    assert staged(3, never) == (parareal_schedule(3, Parareal(iterations=0)),)
    assert staged(3, Parareal()) == (parareal_schedule(3, Parareal()),)


@pytest.mark.parametrize(
    ("n", "iterations", "correction", "guess", "shared", "head"),
    pairwise(
        [1, 2, 4],
        [0, 1, 2],
        ["residual", "difference"],
        ["network", "coarse"],
        *[[True, False]] * 2,
    ),
)
def test_stages_make_nothing_twice_and_move_statistics_once_each(
    n: int, iterations: int, correction: str, guess: str, shared: bool, head: bool
) -> None:
    shared = shared and correction == "difference"
    coarse = "fine" if shared else "network"
    method = Parareal(coarse, correction, iterations, guess, tolerance=0.0)
    stages = staged(n, method, head=head)
    done = Counter((t.op, t.propagator, t.signs, t.reads) for stage in stages for t in stage)
    assert max(done.values()) == 1
    assert len({stage.output for stage in stages}) == len(stages)
    done_before = shared and not head  # the last correction was by the network itself
    assert stages[-1].sweeps == (max(n - 1, stages[0].sweeps) if done_before else n)
    for stage in stages:
        commits = Counter(t.propagator for t in stage if t.op == "apply" and t.commits)
        assert max(commits.values()) == 1
    for ranks in {1, max(1, n - 1), n}:
        placed = place_stages(
            (place(stages[0], n, ranks, deliver=True), *stages[1:]), n, ranks, deliver=True
        )
        for count in range(1, len(placed)):
            left = set(kept(placed, count))
            assert set(taken(placed[: count + 1])) <= left <= set(made_in(placed[:count]))


def test_adjoints_come_back_for_what_the_last_output_depends_on() -> None:
    stages = staged(3, Parareal(tolerance=0.1))
    placed = place_stages((place(stages[0], 3, 3, deliver=True), *stages[1:]), 3, 3, deliver=True)
    assert answered(placed[:1]) == {("v1.0", 0, 1), ("u2.1", 1, 2)}
    assert answered(placed[:2]) == {("v1.0", 0, 1), ("u2.1", 1, 2), ("v2.1", 1, 2)}
    assert answered(placed) == {("v1.0", 0, 1), ("v2.1", 1, 2)}


def test_what_an_earlier_stage_left_elsewhere_is_sent_at_the_start() -> None:
    one = Task("a", "apply", Role.FINE, ("x",), Target.fine(1))
    two = Task("b", "apply", Role.FINE, ("a",), Target.fine(2), piece=2)
    first = Schedule((one,), "a", inputs=("x",))
    later = Schedule((two,), "b", inputs=("x", "a"))
    placed = place_stages((place(first, 2, 2), later), 2, 2, deliver=False)
    assert list(map(str, placed[1])) == ["send a → 1", "a ← 0", "b = fine.2(a)"]
    with pytest.raises(ScheduleError, match="uses a before it is defined"):
        in_a_row((placed[0], replace(placed[1], tasks=placed[1].tasks[2:])))
