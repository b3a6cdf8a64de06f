"""Placement: subnetworks on ranks, values sent once, between neighbours."""

from collections import Counter
from itertools import pairwise, product

import pytest

from pararealize.errors import ScheduleError
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import owner, place

SIZES = [(n, ranks) for n in (1, 2, 3, 5, 8) for ranks in range(1, n + 1)]
METHODS = [
    Parareal(iterations=k, correction=correction, guess=guess)
    for k, correction, guess in product([1, 2], ["residual", "difference"], ["network", "coarse"])
]


def placed(n: int, ranks: int, method: Parareal) -> Schedule:
    return place(parareal_schedule(n, method), n, ranks)


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_ranks_own_runs_as_equal_as_can_be(n: int, ranks: int) -> None:
    owners = [owner(j, n, ranks) for j in range(1, n + 1)]
    assert owners[0] == 0
    assert owners[-1] == ranks - 1
    assert all(b - a in {0, 1} for a, b in pairwise(owners))
    sizes = Counter(owners).values()
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_every_placement_verifies(n: int, ranks: int) -> None:
    for method in METHODS:
        schedule = placed(n, ranks, method)
        assert schedule.verify() is schedule
        assert schedule.ranks == ranks
        assert {task.rank for task in schedule} == set(range(ranks))


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_placing_keeps_the_computing_tasks_in_order(n: int, ranks: int) -> None:
    for method in METHODS:
        before = parareal_schedule(n, method)
        after = [t for t in placed(n, ranks, method) if t.op in {"apply", "combine"}]
        assert [str(task) for task in after] == [str(task) for task in before]
        assert all(t.rank == owner(t.piece, n, ranks) for t in after)


def test_the_first_guess_is_made_where_it_is_waited_for() -> None:
    """Unless it takes weights of the first subnetwork."""
    options = {"correction": "difference", "guess": "coarse"}
    tasks = placed(3, 3, Parareal("stepped", **options)).text().split("\n")[1:5]
    assert [line.rstrip() for line in tasks] == [
        "   0  v1.0 = fine.1(x)  u1.0 = coarse.1(x)",
        "   1  send v1.0 → 1     u2.0 = coarse.2(u1.0, quiet)",
        "   2                    send u2.0 → 2",
        "   3                    v2.0 = fine.2(u1.0)           u2.0 ← 1",
    ]
    for kind in ("network", "thinned", "identity", "factored", "auto", "fine"):
        schedule = placed(3, 3, Parareal(kind, **options))
        ranks = {t.propagator: t.rank for t in schedule if t.reads == ("x",)}
        assert ranks["fine.1"] == 0
        if kind != "fine":
            assert ranks["coarse.1"] == (1 if kind in {"network", "thinned"} else 0)


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_messages_go_to_the_next_rank_only(n: int, ranks: int) -> None:
    for method in METHODS:
        for task in placed(n, ranks, method):
            if task.op == "send":
                assert task.peer == task.rank + 1


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_one_sweep_sends_one_state_over_each_boundary(n: int, ranks: int) -> None:
    for correction in ("residual", "difference"):
        schedule = placed(n, ranks, Parareal(correction=correction))
        sends = Counter(task.rank for task in schedule if task.op == "send")
        assert sends == dict.fromkeys(range(ranks - 1), 1)


@pytest.mark.parametrize(("n", "ranks"), SIZES)
def test_no_value_is_sent_twice_to_a_rank(n: int, ranks: int) -> None:
    for method in METHODS:
        schedule = placed(n, ranks, method)
        sent = Counter((t.reads[0], t.peer) for t in schedule if t.op == "send")
        assert all(count == 1 for count in sent.values())


def test_a_value_is_sent_as_soon_as_it_is_made() -> None:
    tasks = placed(3, 3, Parareal()).tasks
    for i, task in enumerate(tasks):
        if task.op == "send":
            assert tasks[i - 1].value == task.reads[0]


def test_one_rank_needs_no_messages() -> None:
    assert not [t for t in placed(5, 1, Parareal()) if t.op in {"send", "recv"}]


@pytest.mark.parametrize("ranks", [0, -1, 4])
def test_more_ranks_than_subnetworks_or_none(ranks: int) -> None:
    with pytest.raises(ScheduleError, match=rf"3 subnetworks run on 1 to 3 ranks, not on {ranks}"):
        place(parareal_schedule(3, Parareal()), 3, ranks)
