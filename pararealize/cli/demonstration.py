"""Demonstration: a deep residual network on real digits, serial and as parareal networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli.demonstrated import Trained, convert_trained, time_captured, time_training
from pararealize.cli.digits import Digits, load_digits, smaller
from pararealize.cli.plot import draw_curves, draw_schedule, write_figure
from pararealize.cli.seeds import MOST, Found, beside, runs, train_all
from pararealize.cli.terminal import Printer
from pararealize.cli.training import Recipe, predict, running_mean
from pararealize.explain.gantt import of_plan
from pararealize.explain.table import Table
from pararealize.ir.shares import interval
from pararealize.loading import load
from pararealize.network import ParallelNetwork


@dataclass(frozen=True)
class Demo:
    """What the demo trains: depth and width of the ResNet, and the numbers of subnetworks.

    ``pooling`` is the side of the squares of pixels that are averaged first, to save time;
    ``workers`` networks train at the same time; ``minutes`` is what converting may take.
    """

    depth: int = 56
    width: int = 8
    pooling: int = 2
    counts: tuple[int, ...] = (2,)
    recipe: Recipe = field(default_factory=Recipe)
    seeds: tuple[int, ...] = (0, 1, 2)
    workers: int = MOST
    minutes: float = 0.5


@dataclass(frozen=True)
class DemoRow:
    """One network, trained from every seed."""

    found: tuple[Found, ...]

    @property
    def right(self) -> Tensor:
        """Whether each test digit is right, ``[seeds, digits]``."""
        return torch.stack([each.right for each in self.found])


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
    shape = (demo.depth, demo.width)
    wanted = runs(demo.counts, demo.seeds, shape, demo.recipe)
    found = train_all(wanted, digits, say.progress, comm, demo.workers)
    rows = [DemoRow(tuple(f for f in found if f.run.n == n)) for n in (0, *demo.counts)]
    say(
        table(rows, f"1. Trained: ResNet-{demo.depth}, {demo.recipe.epochs} epochs, test digits"),
        *map(partial(_beside, rows[0]), rows[1:]),
        "added: parameters of coarse and guess networks; speedup: predicted for one forward "
        f"evaluation of {demo.recipe.batch} images, "
        + ("one device a subnetwork." if comm is None else f"{comm.size} ranks."),
    )
    nets = {row.found[0].run.n: row.found[0].trained(digits, comm) for row in rows}
    first, serial = comm is None or comm.rank == 0, nets.pop(0)
    files = draw(rows, _parallel(nets[demo.counts[-1]]), out) if first else []
    files.append(save_and_check(_parallel(nets[demo.counts[0]]), serial, digits, out, comm))
    if comm is None:
        trained = Trained(serial, digits, out, shape)
        files += [*time_training(trained, say), *convert_trained(trained, demo.minutes, say)]
        time_captured(say)
    say("Written: " + ", ".join(map(str, files)))


def _parallel(net: nn.Module) -> ParallelNetwork:
    assert isinstance(net, ParallelNetwork)
    return net


def table(rows: Sequence[DemoRow], title: str) -> Table:
    """Accuracy and loss beside what parallel depth costs and should bring."""
    seeds = ", ".join(str(each.run.seed) for each in rows[0].found)
    columns = ("network", f"seeds {seeds}", "mean", "95% interval", "loss", "added", "speedup")
    cells = [(row.found[0].run.name, *_figures(row)) for row in rows]
    return Table(title, columns, cells, left=("network",))


def _figures(row: DemoRow) -> tuple[str, ...]:
    outcomes, plan = [each.outcome for each in row.found], row.found[0].plan
    mean = float(row.right.double().mean())
    low, high = interval(mean, row.right.shape[-1])
    each = ", ".join(f"{outcome.accuracy:.1%}" for outcome in outcomes)
    loss = sum(outcome.test_loss for outcome in outcomes) / len(outcomes)
    scores = (each, f"{mean:.1%}", f"{low:.1%} – {high:.1%}", f"{loss:.3f}")
    if plan is None:
        return (*scores, "–", "1.00×")
    added = plan.added_parameters / plan.parameters
    return *scores, f"{added:.1%}", f"{plan.speedup:.2f}×"


def _beside(serial: DemoRow, row: DemoRow) -> str:
    """How the accuracy differs from the serial network's, from the same weights and batches."""
    mean, away = beside(serial.right, row.right)
    noise = "which is noise" if abs(mean) <= away else "which is more than noise"
    seeds, digits = row.right.shape
    over = f"the mean of {seeds} seeds, each" if seeds > 1 else "one seed,"
    return (
        f"{row.found[0].run.name}: {100 * mean:+.1f} points beside serial, {over} on the same "
        f"{digits:,} digits ({100 * (mean - away):+.1f} to {100 * (mean + away):+.1f} with 95% "
        f"confidence), {noise}."
    )


def draw(rows: Sequence[DemoRow], net: ParallelNetwork, out: Path) -> list[Path]:
    """Loss curves, and the schedule of ``net`` on its ranks, or one rank a subnetwork."""
    out.mkdir(parents=True, exist_ok=True)
    curves = {
        each.run.name: running_mean(each.outcome.losses, 20)
        for each in (row.found[0] for row in rows)
    }
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
