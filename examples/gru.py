"""Classic and implicit GRUs told to recognise exercises by a smartwatch: accuracy and time.

Seven exercises, windows of two seconds, tested on people who were not trained on:

    python examples/gru.py --seeds 0 1 2

Six activities by the sensors of a phone: ``--data uci-har=FOLDER``; windows of other lengths:
``--length 1024``; processor time of a training step beside one another, by length and batch, on
random series: ``--steps 128 1024``, and with slices shared by ranks, ``--steps 1024 --ranks 2``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pararealize import MGRIT, models
from pararealize.errors import MethodError
from pararealize.explain.table import Table
from pararealize.layers import ImplicitGRUStep, TimeParallel, TimeParareal
from studies.datasets import add_data, read
from studies.labelled import Examples
from studies.recurrent_steps import step_times, steps_table
from studies.running import again, start, timed_anyway
from studies.smartwatch import load_watch
from studies.solved import Solved


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam with a one-cycle learning rate that peaks at ``rate``."""

    epochs: int = 8
    batch: int = 64
    rate: float = 5e-3
    clip: float = 1.0


@dataclass(frozen=True)
class Row:
    """A network of the table; ``prepare`` makes what is trained of it, a parallel one say.

    Ranks run together what is ``shared``.
    """

    name: str
    make: Callable[[int], nn.Module]
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model
    shared: bool = False


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent, and the processor seconds that training took."""

    accuracy: float
    seconds: float


def multigrid(model: nn.Module) -> nn.Module:
    """The network with its time in eight slices, which advance as one batch."""
    method = MGRIT(coarsening=4, coarse="rediscretized", forward_cycles=2, backward_cycles=1)
    assert isinstance(model, models.SequenceClassifier)
    step = model.step
    assert isinstance(step, ImplicitGRUStep)
    example = torch.zeros(64, model.length, step.inputs)
    return timed_anyway(model, 8, method=method, example_inputs=(example,))


def solved(recurrence: Callable[[ImplicitGRUStep], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """The network with a recurrence that gives all states."""

    def prepare(model: nn.Module) -> nn.Module:
        assert isinstance(model, models.SequenceClassifier)
        return Solved(model, recurrence)

    return prepare


def rows(
    slices: Sequence[int],
    sweeps: Sequence[int],
    block: int | None,
    comm: Any = None,
    **options: Any,
) -> tuple[Row, ...]:
    """The networks to compare, all with the same initial weights for a seed."""

    def implicit(length: int) -> nn.Module:
        return models.implicit_gru(length, **options)

    found = [
        Row("classic GRU", lambda length: models.gru(length, **options)),
        Row("implicit GRU", implicit),
        Row("implicit GRU, MGRIT", implicit, multigrid),
    ]
    for n in slices:
        exact = partial(TimeParallel, slices=n)
        found.append(Row(f"implicit GRU, solved in {n}", implicit, solved(exact)))
    for n in (n for n in slices if n > 1):
        guessed = partial(TimeParareal, slices=n, block=block)
        found.append(Row(f"implicit GRU, parareal in {n}", implicit, solved(guessed)))
    for n, k in ((n, k) for n in slices for k in sweeps if k < n):
        name = f"implicit GRU, {n} slices, sweeps {k}"
        bounded = partial(TimeParallel, slices=n, sweeps=k)
        found.append(Row(name, implicit, solved(bounded)))
        if comm is not None:
            shared = solved(partial(bounded, comm=comm))
            found.append(Row(f"{name}, {comm.size} ranks", implicit, shared, shared=True))
    return tuple(found)


def chosen(compared: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """The rows that have these names, or all."""
    known = {row.name: row for row in compared}
    if unknown := [name for name in names or () if name not in known]:
        raise MethodError(f"--only {unknown[0]!r}: expected one of {', '.join(known)}.")
    return [known[name] for name in names or known]


def train(net: nn.Module, watch: Examples, recipe: Recipe, seed: int) -> None:
    """Minimise the cross entropy; an epoch's last, smaller batch is left out."""
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.rate)
    steps = recipe.epochs * max(1, len(watch.train_labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    net.train()
    smallest = min(recipe.batch, len(watch.train_labels))
    for windows, labels in watch.batches(recipe.batch, recipe.epochs, seed):
        if len(labels) < smallest:
            continue
        optimizer.zero_grad()
        functional.cross_entropy(net(windows), labels).backward()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()


def accuracy(net: nn.Module, watch: Examples) -> float:
    """Percentage of test windows whose exercise is found."""
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in watch.test_inputs.split(256)])
    return 100 * (found == watch.test_labels).float().mean().item()


def trained(row: Row, watch: Examples, recipe: Recipe, seed: int) -> Result:
    """Train one network on one split."""
    torch.manual_seed(seed)
    net = row.prepare(row.make(watch.train_inputs.shape[1]))
    begin = time.process_time()  # on one thread, wall-clock time where nothing else runs
    train(net, watch, recipe, seed)
    seconds = time.process_time() - begin
    return Result(accuracy(net, watch), seconds)


def table(results: Mapping[str, Sequence[Result]], seeds: Sequence[int], title: str) -> Table:
    """Accuracies of every seed, their mean, and processor seconds a training."""
    columns = ("network", *(f"seed {seed}" for seed in seeds), "mean, %", "seconds")
    rows = []
    for name, runs in results.items():
        each = [result.accuracy for result in runs]
        seconds = statistics.mean(result.seconds for result in runs)
        accuracies = [f"{value:.1f}" for value in (*each, statistics.mean(each))]
        rows.append((name, *accuracies, f"{seconds:.1f}"))
    return Table(title, columns, rows, left=("network",))


def steps(compared: Sequence[Row], length: int, batch: int, rounds: int, comm: Any) -> Table | None:
    """Times of a training step on random series; on ranks, rank 0 knows them."""
    torch.manual_seed(0)
    x, labels = torch.randn(batch, length, 6), torch.randint(7, (batch,))
    nets = {}
    for row in compared:
        torch.manual_seed(1)
        nets[row.name] = row.prepare(row.make(length))
    shared = [row.name for row in compared if row.shared]
    times = step_times(nets, x, labels, rounds, shared, comm)
    return steps_table(times, "implicit GRU", x) if comm is None or comm.rank == 0 else None


def world() -> Any:
    """All ranks."""
    from mpi4py import MPI  # noqa: PLC0415  only ranks need it

    return MPI.COMM_WORLD


def examples_of(options: Namespace, seed: int) -> Examples:
    """The windows of a smartwatch, whose people the seed splits, or another set of series."""
    if options.data != "smartwatch":
        found = read(options.data, limit=options.limit, form="series")
        cut = slice(options.length)
        return replace(
            found, train_inputs=found.train_inputs[:, cut], test_inputs=found.test_inputs[:, cut]
        )
    watch = load_watch(options.length or 100, options.stride, seed=seed, skip_shorter=True)
    few = slice(options.limit)
    return Examples(
        *(watch.train_windows[few], watch.train_labels[few]),
        *(watch.test_windows[few], watch.test_labels[few]),
    )


def main() -> None:
    """Train every network with every seed, which decides who tests, weights and order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--length", type=int, help="samples in a window, at 50 Hz: 100, or all")
    parser.add_argument("--stride", type=int, default=50, help="samples between windows")
    parser.add_argument("--width", type=int, default=64, help="numbers in the hidden state")
    parser.add_argument("--dt", type=float, default=1.0, help="step size")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 8], help="of time")
    parser.add_argument("--sweeps", type=int, nargs="+", default=[2], help="over slices, at most")
    parser.add_argument("--block", type=int, help="samples of a step of the guess: as slices")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="rows of the table")
    parser.add_argument("--steps", type=int, nargs="+", metavar="LENGTH", help="time steps alone")
    parser.add_argument("--rounds", type=int, default=15, help="of every network, timed in turns")
    parser.add_argument("--threads", type=int, default=1)
    add_data(parser, "smartwatch")
    parser.add_argument("--ranks", type=int, default=0, help="that share slices, with --steps")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks and not options.steps:
        raise MethodError("--ranks shares the slices of training steps: write --steps as well.")
    if options.ranks and not options.worker:
        raise SystemExit(again("--worker", ranks=options.ranks).returncode)
    torch.set_num_threads(options.threads)
    solvers = options.slices, options.sweeps, options.block
    sizes = {"width": options.width, "dt": options.dt}
    if options.steps:
        comm = world() if options.worker else None
        compared = chosen(rows(*solvers, comm, **sizes), options.only)
        for length in options.steps:
            if found := steps(compared, length, options.batch, options.rounds, comm):
                print(found, flush=True)
        return
    recipe = Recipe(epochs=options.epochs, batch=options.batch)
    results: dict[str, list[Result]] = {}
    for seed in options.seeds:
        watch = examples_of(options, seed)
        length, inputs = watch.train_inputs.shape[1:]
        compared = rows(*solvers, **sizes, inputs=inputs, classes=watch.classes)
        for row in chosen(compared, options.only):
            result = trained(row, watch, recipe, seed)
            results.setdefault(row.name, []).append(result)
            print(f"seed {seed}, {row.name}: {result.accuracy:.1f}% in {result.seconds:.1f} s")
    title = f"{length} samples, width {options.width}, {options.epochs} epochs: accuracy"
    print(table(results, options.seeds, title))


if __name__ == "__main__":
    start(main)
