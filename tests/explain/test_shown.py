"""What networks, plans, schedules, reports and calibrations print and show in a notebook."""

from __future__ import annotations

import builtins
import copy
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, Progress, pararealize
from pararealize.errors import AgreementWarning, MissingPackageError
from pararealize.explain.explain import explain, parts
from pararealize.explain.gantt import COLOURS, drawn_as, gantt, label_of, of_plan, of_schedule
from pararealize.explain.svg import svg
from pararealize.explain.table import Table
from pararealize.runtime.monitoring.progress import Advance
from pararealize.runtime.monitoring.report import Jump, Report
from pararealize.schedule.parareal import parareal_schedule

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.tanh(self.linear(x))


def compiled(n: int, depth: int = 12, method: Any = None) -> ParallelNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(*(Layer() for _ in range(depth)))
    return pararealize(model.double(), n, example_inputs=(x(),), method=method)


def x(samples: int = 2) -> Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(1)).double()


METHODS = (
    Parareal(),
    Parareal("network", "difference", 2, "coarse"),
    MGRIT(2, 2, "sampled", forward_cycles=2),
)


@pytest.fixture(scope="module", params=METHODS, ids=("parareal", "sweeps", "mgrit"))
def net(request: pytest.FixtureRequest) -> ParallelNetwork:
    found = compiled(3, method=request.param)
    found(x()).sum().backward()
    return found


def elements(html: str, name: str) -> list[ElementTree.Element]:
    """Elements of what has to be well formed."""
    return [e for e in ElementTree.fromstring(html).iter() if e.tag.rpartition("}")[2] == name]


def cells(html: str) -> list[list[str]]:
    return [["".join(c.itertext()) for c in row] for row in elements(html, "tr")]


def test_an_explanation_is_its_text_its_tables_and_its_data(net: ParallelNetwork) -> None:
    found = net.explain()
    assert found == explain(net.plan) == str(found) == repr(found)
    assert f"{found}".splitlines() == explain(net.plan).splitlines()
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (twin, twin.plan) == (found, net.plan)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["speedup"] == net.plan.speedup
    assert data["plan"] == json.loads(net.plan.to_json())
    assert data["sentences"][-1] == net.plan.verdict
    tables = [part for part in parts(net.plan) if isinstance(part, Table)]
    assert list(data["tables"]) == [table.title for table in tables]
    assert [row["#"] for row in data["tables"][tables[0].title]] == ["1", "2", "3"]


def test_notebooks_show_every_cell_of_an_explanation(net: ParallelNetwork) -> None:
    tables = [part for part in parts(net.plan) if isinstance(part, Table)]
    wanted = [list(row) for table in tables for row in (table.columns, *table.rows)]
    for html in (net.explain()._repr_html_(), net.plan._repr_html_(), net._repr_html_()):
        assert cells(html) == wanted
        assert net.plan.verdict in "".join(ElementTree.fromstring(html).itertext())
    assert len(elements(net._repr_html_(), "svg")) == 1


def test_names_cannot_break_the_page() -> None:
    text = Table("a < b & c", ("<i>",), [("</td>",)], left=("<i>",))
    from pararealize.explain.html import table_html  # noqa: PLC0415

    assert cells(table_html(text)) == [["<i>"], ["</td>"]]


def test_reports_are_tables_by_sweep(net: ParallelNetwork) -> None:
    first, *rows = cells(net.report._repr_html_())
    assert first == ["sweep", "largest", "interface 1", "interface 2"]
    wanted = []
    for jumps in filter(None, (net.report.jumps, net.report.adjoints)):
        wanted += [list(first)] if wanted else []
        for sweep in sorted({j.sweep for j in jumps}):
            found = {j.interface: j.relative for j in jumps if (j.sweep, j.level) == (sweep, 1)}
            texts = [f"{found[i]:.1e}" if i in found else "" for i in (1, 2)]
            wanted.append([str(sweep), f"{max(found.values()):.1e}", *texts])
    assert [row[:2] for row in rows] == [row[:2] for row in wanted]
    assert rows[0][2:] == wanted[0][2:]


def test_reports_of_many_interfaces_say_the_largest() -> None:
    report = Report(tuple(Jump(s, i, 1.0, i * 10.0**-s) for s in (1, 2) for i in range(1, 64)))
    assert cells(report._repr_html_()) == [["sweep", "largest"], ["1", "6.3e+00"], ["2", "6.3e-01"]]
    assert "no jumps" in Report(())._repr_html_()


def test_reports_draw_a_line_a_sweep(net: ParallelNetwork) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = net.report.plot(figure.add_subplot())
    sweeps = {j.sweep for j in net.report.jumps}, {j.sweep for j in net.report.adjoints}
    assert len(axes.lines) == sum(map(len, sweeps))
    first = [j.relative for j in net.report.jumps if j.sweep == min(sweeps[0])]
    assert list(axes.lines[0].get_ydata()) == first
    assert not Report(()).plot(figure.add_subplot()).lines


def test_without_matplotlib_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingPackageError, match="pip install matplotlib"):
        Report((Jump(1, 1, 1.0, 1.0),)).plot()


@pytest.mark.parametrize(("n", "lines"), [(1, 3), (3, 5), (40, 27)])
def test_a_network_prints_a_line_a_subnetwork(n: int, lines: int) -> None:
    net = compiled(n, depth=max(12, n))
    text = repr(net).splitlines()
    assert len(text) == lines
    assert text[0].startswith(f"ParallelNetwork(Sequential, n={n}, ")
    assert text[1].startswith("  (1) ")
    assert f"({n}) " in text[-2]
    assert ("16 more" in repr(net)) == (n == 40)


def test_schedules_are_pictures_with_or_without_a_plan(net: ParallelNetwork) -> None:
    for found in (of_plan(net.plan, net.schedule), of_schedule(net.schedule)):
        assert found.ranks == 3
        labels = {bar.label for bar in found.bars}
        assert {"subnetwork 1", "subnetwork 2", "subnetwork 3", "correction 2"} <= labels
        assert not [label for label in labels if "." in label]
        titles = [e.text for e in elements(svg(found), "title")]
        assert titles == [bar.label for bar in found.bars]
        texts = [e.text for e in elements(svg(found), "text")]
        assert "critical path" in texts
        assert found.title in texts
    planned = of_plan(net.plan, net.schedule)
    assert f"{net.plan.speedup:.2f}×" in planned.title
    assert "Sequential" in planned.title
    assert planned.serial == pytest.approx(net.plan.serial_seconds * 1e3)
    assert max(bar.stop for bar in planned.bars) == pytest.approx(net.plan.parallel_seconds * 1e3)
    assert any(f"serial, {planned.serial:.3g} ms" == e.text for e in elements(svg(planned), "text"))
    assert net.schedule._repr_html_() == svg(of_schedule(net.schedule))


def test_64_ranks_are_one_page() -> None:
    box = ElementTree.fromstring(svg(of_schedule(parareal_schedule(64, Parareal())))).get("viewBox")
    assert box is not None
    assert float(box.split()[3]) < 800


def test_labels_shrink_to_their_number() -> None:
    bars = {bar.label: bar for bar in of_schedule(compiled(2).schedule).bars}
    assert [bars["correction 2"].fitting(k) for k in (12, 11, 1, 0)] == [
        "correction 2",
        "2",
        "2",
        "",
    ]


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


#: Viénot, Brettel & Mollon 1999: what protanopes and deuteranopes see, in linear RGB.
SEEN = {
    "protanopia": [[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]],
    "deuteranopia": [[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.021, 0.021, 1.0]],
}


@pytest.mark.parametrize("matrix", SEEN.values(), ids=SEEN)
def test_colour_blind_readers_tell_all_kinds_apart(matrix: list[list[float]]) -> None:
    """Any two fills are further apart than green and red of one lightness, which look alike."""
    fills = [torch.tensor(matrix) @ torch.tensor(linear(fill)) for fill, _ in COLOURS.values()]
    seen = torch.stack(fills).clamp(0, 1) ** (1 / 2.2)
    distances = torch.cdist(seen, seen) + torch.eye(len(seen))
    assert float(distances.min()) > 0.15


def test_calibrations_say_what_they_reach() -> None:
    net = compiled(2, method=Parareal(correction="difference", guess="coarse"))
    with pytest.warns(AgreementWarning, match=r"agreement=0.99") as seen:
        found = net.calibrate(x(60), epochs=1, batch=12, progress=False)
    assert f"{found.reached.agreement:.2%}" in str(seen[0].message)
    assert cells(found._repr_html_())[0][:2] == ["sweeps", "agreement"]
    assert f"{found.reached.agreement:.2%} of the answers" in found._repr_html_()


def test_what_is_drawn_of_the_tasks() -> None:
    net = compiled(2)
    tasks = [task for task in net.schedule if task.op in {"apply", "combine"}]
    assert {drawn_as(task) for task in tasks} <= set(COLOURS)
    assert {label_of(task) for task in tasks} >= {"guess 1", "subnetwork 1", "sum"}
    from pararealize.cost.predict import predict  # noqa: PLC0415

    assert gantt(predict(net.plan, net.schedule)).title == net.schedule.title


class Told(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int | None, str]] = []

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Advance]:
        self.said.append((what, total, ""))
        yield lambda note="": self.said.append((what, total, note))


def test_compiling_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    model = nn.Sequential(*(Layer() for _ in range(5))).double()
    net = pararealize(model, "auto", example_inputs=(x(),), progress=told)
    notes = [note for what, _, note in told.said if what == "choosing n" and note]
    assert [note.split(":")[0] for note in notes] == [f"n={i}" for i in range(1, len(notes) + 1)]
    assert {total for what, total, _ in told.said if what == "choosing n"} == {len(notes)}
    assert any(note == f"n={net.plan.n}: predicted {net.plan.speedup:.2f}×" for note in notes)
    pararealize(model, 2, example_inputs=(x(),))
    assert capsys.readouterr() == ("", "")
    pararealize(model, 2, example_inputs=(x(),), progress=True)
    assert "comparing with the model" in capsys.readouterr().err
