"""Demonstration: a deep residual network on real digits, serial and as parareal networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli.demonstrated import Trained, convert_trained, time_training
from pararealize.cli.digits import Digits, load_digits, smaller
from pararealize.cli.plot import draw_curves, draw_schedule, write_figure
from pararealize.cli.terminal import Printer
from pararealize.cli.training import Recipe, TrainingOutcome, predict, running_mean, train
from pararealize.compiler import pararealize
from pararealize.explain.gantt import of_plan
from pararealize.explain.table import Table
from pararealize.ir.plan import Plan
from pararealize.ir.shares import interval
from pararealize.loading import load
from pararealize.models import resnet
from pararealize.network import ParallelNetwork
from pararealize.runtime.monitoring.progress import Advance


@dataclass(frozen=True)
class Demo:
    """What the demo trains: depth and width of the ResNet, and the numbers of subnetworks.

    ``pooling`` is the side of the squares of pixels that are averaged first, to save time;
    ``minutes`` is what converting the trained network may take.
    """

    depth: int = 56
    width: int = 8
    pooling: int = 2
    counts: tuple[int, ...] = (2,)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    minutes: float = 0.5


@dataclass(frozen=True)
class DemoRow:
    """One trained network."""

    name: str
    outcome: TrainingOutcome
    plan: Plan | None
    right: Tensor


def run(demo: Demo, out: Path, say: Printer, comm: Any = None) -> None:
    """Train, time on two ranks, convert what was trained; pictures and networks go to ``out``.

    With ``comm`` the parareal networks lie on its ranks, all of which call this; what takes ranks
    of its own is left out.
    """
    digits = smaller(load_digits(), demo.pooling)
    side = digits.train_images.shape[-1]
    say(
        f"{digits.source}, seen as {side}×{side}: {len(digits.train_labels)} to train on, "
        f"{len(digits.test_labels)} to test."
    )
    torch.manual_seed(demo.seed)
    model = resnet(demo.depth, channels=1, width=demo.width)
    example = (digits.train_images[: demo.recipe.batch],)
    nets = {n: pararealize(model, n, example_inputs=example, comm=comm) for n in demo.counts}
    serial = copy.deepcopy(model)
    rows = _train_all(demo, digits, serial, nets, say)
    say(
        table(rows, f"1. Trained: ResNet-{demo.depth}, {demo.recipe.epochs} epochs, test digits"),
        *map(partial(_beside, rows[0]), rows[1:]),
        "added: parameters of coarse and guess networks; speedup: predicted for one forward "
        f"evaluation of {demo.recipe.batch} images, "
        + ("one device a subnetwork." if comm is None else f"{comm.size} ranks."),
    )
    first = comm is None or comm.rank == 0
    files = draw(rows, nets[demo.counts[-1]], out) if first else []
    files.append(save_and_check(nets[demo.counts[0]], model, digits, out, comm))
    if comm is None:
        trained = Trained(serial, digits, out, (demo.depth, demo.width))
        files += [*time_training(trained, say), *convert_trained(trained, demo.minutes, say)]
    say("Written: " + ", ".join(map(str, files)))


def _train_all(
    demo: Demo, digits: Digits, serial: nn.Module, nets: dict[int, ParallelNetwork], say: Printer
) -> list[DemoRow]:
    """The serial network and the parareal ones, from the same weights and on the same batches."""
    entries: list[tuple[str, nn.Module, Plan | None]] = [("serial", serial, None)]
    entries += [(f"parareal n = {n}", net, net.plan) for n, net in nets.items()]
    steps = demo.recipe.steps(len(digits.train_labels))
    rows = []
    with say.progress as progress:
        for name, net, plan in entries:
            with progress.task(name, steps) as advance:
                outcome = train(net, digits, demo.recipe, partial(_step, advance))
            right = predict(net, digits.test_images).argmax(-1) == digits.test_labels
            rows.append(DemoRow(name, outcome, plan, right))
    return rows


def _step(advance: Advance, loss: float) -> None:
    advance(f"loss {loss:.3f}")


def table(rows: Sequence[DemoRow], title: str) -> Table:
    """Accuracy and loss beside what parallel depth costs and should bring."""
    columns = ("network", "accuracy", "95% interval", "loss", "added", "speedup")
    cells = [(row.name, *_figures(row)) for row in rows]
    return Table(title, columns, cells, left=("network",))


def _figures(row: DemoRow) -> tuple[str, ...]:
    plan = row.plan
    low, high = interval(row.outcome.accuracy, len(row.right))
    ends = f"{low:.1%} – {high:.1%}"
    scores = (f"{row.outcome.accuracy:.1%}", ends, f"{row.outcome.test_loss:.3f}")
    if plan is None:
        return (*scores, "–", "1.00×")
    added = f"{plan.added_parameters:,} ({plan.added_parameters / plan.parameters:.1%})"
    return *scores, added, f"{plan.speedup:.2f}×"


def _beside(serial: DemoRow, row: DemoRow) -> str:
    """How the accuracy differs from the serial network's, by the images that only one gets right.

    The interval is that of a mean of paired differences d in {-1, 0, 1}: d ± 1.96 s/√count.
    """
    each = row.right.double() - serial.right.double()
    mean, away = float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5
    noise = "which is noise" if abs(mean) <= away else "which is more than noise"
    return (
        f"{row.name}: {100 * mean:+.1f} points beside serial, on the same {len(each):,} digits "
        f"({100 * (mean - away):+.1f} to {100 * (mean + away):+.1f} with 95% confidence), {noise}."
    )


def draw(rows: Sequence[DemoRow], net: ParallelNetwork, out: Path) -> list[Path]:
    """Loss curves, and the schedule of ``net`` on its ranks, or one rank a subnetwork."""
    out.mkdir(parents=True, exist_ok=True)
    curves = {row.name: running_mean(row.outcome.losses, 20) for row in rows}
    picture = draw_schedule(of_plan(net.plan, net.schedule))
    return [
        *write_figure(draw_curves(curves, "training loss", "step"), out / "loss"),
        *write_figure(picture, out / "schedule"),
    ]


def save_and_check(
    net: ParallelNetwork, model: nn.Module, digits: Digits, out: Path, comm: Any = None
) -> Path:
    """Save the network, read it back and compare weights and answers on the test digits.

    Raises:
        RuntimeError: they differ by more than the order of sums in another memory format.
    """
    folder = out / f"parareal-{net.plan.n}"
    net.save(folder)
    again = load(folder, model, example_inputs=(digits.test_images[:2],), comm=comm)
    read = again.state_dict()
    same = all(torch.equal(value, read[name]) for name, value in net.state_dict().items())
    ours, theirs = (predict(each, digits.test_images) for each in (net, again))
    if not same or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"{folder} does not answer as the network saved there.")
    return folder
