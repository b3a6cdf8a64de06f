"""Pictures of schedules: what tasks are drawn as."""

from pararealize.cli.plot import COLOURS, drawn_as
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.parareal import parareal_schedule


def test_tasks_of_parareal() -> None:
    found = {task.value: drawn_as(task) for task in parareal_schedule(2, Parareal())}
    assert found == {
        **{"u1.0": "guess", "v1.0": "fine", "v2.0": "fine", "out": "head"},
        **{"r1.0": "combine", "c2.0": "coarse", "u2.1": "combine"},
    }
    assert set(found.values()) == set(COLOURS)


def test_what_the_network_computes_of_its_inputs_alone_is_drawn_as_its_own() -> None:
    solved = iteration(hierarchy([4] * 2, (4,)), MGRIT(), head=True, with_features=(2,))
    found = {task.value: drawn_as(task) for task in solved.forward[0].schedule}
    assert (found["f2.0"], found["v2.0"], found["g1.0"]) == ("fine", "fine", "guess")
