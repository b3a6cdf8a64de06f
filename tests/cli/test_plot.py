"""Pictures of schedules, drawn by matplotlib."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from pararealize.cli.plot import draw_schedule, write_figure
from pararealize.explain.gantt import drawn_as, of_schedule
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.parareal import parareal_schedule


def test_tasks_of_parareal() -> None:
    found = {task.value: drawn_as(task) for task in parareal_schedule(2, Parareal())}
    assert found == {
        **{"u1.0": "guess", "v1.0": "subnetwork", "v2.0": "subnetwork", "out": "head"},
        **{"r1.0": "sum", "c2.0": "correction", "u2.1": "sum"},
    }


def test_what_the_network_computes_of_its_inputs_alone_is_drawn_as_its_own() -> None:
    solved = iteration(hierarchy([4] * 2, (4,)), MGRIT(), head=True, with_features=(2,))
    found = {task.value: drawn_as(task) for task in solved.forward[0].schedule}
    assert (found["f2.0"], found["v2.0"], found["g1.0"]) == ("subnetwork", "subnetwork", "guess")


@pytest.mark.parametrize("n", [2, 64])
def test_pictures_fit_a_page(n: int, tmp_path: Path) -> None:
    found = of_schedule(parareal_schedule(n, Parareal()))
    figure = draw_schedule(found)
    files = write_figure(figure, tmp_path / "schedule")
    assert [file.suffix for file in files] == [".png", ".svg"]
    assert max(imread(files[0]).shape[:2]) <= 1700
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert words[-1] == "critical path"
    assert len(figure.axes[0].patches) == len(found.bars)
