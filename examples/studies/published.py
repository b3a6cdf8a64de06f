"""Published: nested iteration in the setting of its paper, beside the deepest network alone.

Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep Neural Network
Training" (arXiv:1912.08974).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import nn

from pararealize.explain.table import Table
from pararealize.layers import nested_iteration
from studies.control import ControlNet, Setting
from studies.labelled import Examples
from studies.lbfgs import Descent, descend

#: Hidden layers of every method: the last network is tested.
METHODS = {
    "from the start": (44,),
    "nested, two levels": (22, 44),
    "nested, three levels": (11, 22, 44),
}
#: Of the four pairs: Tikhonov's factor, and the size of the first weights of the steps.
TIKHONOV, SCALES = (1e-5, 1e-7), (0.0, 1e-6)
#: Iterations on all levels together, in those of the deepest: 130, and half as many again.
WORK = 195
#: Mean accuracies in percent of the paper, by channels: from the start, nested.
PAPER = {5: (85.0, 86.7), 8: (90.7, 92.3)}


@dataclass(frozen=True)
class Run:
    """What is trained: a method on a setting, from a seed."""

    method: str
    setting: Setting
    seed: int
    share: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """Accuracies in percent after every level, on test examples, and the work.

    Work is in gradients of the deepest network; a trial of a line search is a third of one.
    """

    levels: tuple[float, ...]
    work: float


def runs(setting: Setting, seeds: int, share: float = 1.0) -> list[Run]:
    """Every method with every pair and seed."""
    pairs = product(TIKHONOV, SCALES)
    settings = [replace(setting, tikhonov=tikhonov, scale=scale) for tikhonov, scale in pairs]
    return [
        Run(method, own, seed, share) for own in settings for method in METHODS
        for seed in range(seeds)
    ]  # fmt: skip


def trained(run: Run, examples: Examples) -> Outcome:
    """Train the networks of a run one after another."""
    torch.manual_seed(run.seed)
    depths = METHODS[run.method]
    iterations = round(run.share * WORK * depths[-1] / sum(depths))
    accuracies, work = list[float](), [0.0]

    def train(net: nn.Module) -> None:
        assert isinstance(net, ControlNet)
        found = descend(
            list(net.parameters()),
            lambda: net.objective(examples.train_inputs, examples.train_labels),
            Descent(iterations=max(1, iterations)),
        )
        work[0] += found.work * len(net.steps) / depths[-1]
        accuracies.append(accuracy(net, examples))

    nested_iteration(lambda depth: ControlNet(depth, run.setting), depths, train)
    return Outcome(tuple(accuracies), work[0])


@torch.no_grad()
def accuracy(net: nn.Module, examples: Examples) -> float:
    """Percentage of the test examples whose class is found."""
    found = net(examples.test_inputs).argmax(1)
    share: float = (found == examples.test_labels).float().mean().item()
    return 100 * share


def kept(run: Run, examples: Examples, file: Path | None) -> Outcome:
    """The outcome in a file of lines, where there is one; else it is computed and added to it."""
    key = json.dumps(asdict(run))
    if file is not None and file.exists():
        lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
        for line in lines:
            if line["run"] == json.loads(key):
                return Outcome(tuple(line["levels"]), line["work"])
    outcome = trained(run, examples)
    if file is not None:
        with file.open("a", encoding="utf-8") as lines_of:
            lines_of.write(json.dumps({"run": asdict(run), **asdict(outcome)}) + "\n")
    return outcome


def table(title: str, found: Mapping[Run, Outcome], paper: Mapping[int, Sequence[float]]) -> Table:
    """Mean, median, most, least and deviation over runs of a method, all and those of a pair."""
    rows: list[tuple[str, ...]] = []
    for width, method in product(sorted({run.setting.width for run in found}), METHODS):
        own = {r: o for r, o in found.items() if (r.setting.width, r.method) == (width, method)}
        published = paper.get(width, ())
        shown = f"{published[method != 'from the start']}" if published else "–"
        rows.append((f"{width}", method, "all", *_row(own.values()), shown))
        for tikhonov, scale in product(TIKHONOV, SCALES):
            chosen = [
                o for r, o in own.items()
                if (r.setting.tikhonov, r.setting.scale) == (tikhonov, scale)
            ]  # fmt: skip
            rows.append(("", "", f"{tikhonov:.0e}, {scale:.0e}", *_row(chosen), ""))
    numbers = ("runs", "mean", "median", "max", "min", "deviation", "work")
    columns = ("channels", "method", "Tikhonov, first weights", *numbers, "published mean")
    return Table(title, columns, rows, left=("method", "Tikhonov, first weights"))


def _row(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    outcomes = list(outcomes)
    values = [outcome.levels[-1] for outcome in outcomes]
    numbers = statistics.mean(values), statistics.median(values), max(values), min(values)
    work = statistics.mean(outcome.work for outcome in outcomes)
    shown = (f"{number:.2f}" for number in (*numbers, statistics.pstdev(values)))
    return (str(len(values)), *shown, f"{work:.0f}")
