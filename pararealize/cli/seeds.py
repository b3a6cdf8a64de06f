"""Seeds: the same training again from other weights, on other orders of the data, side by side."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli.digits import Digits
from pararealize.cli.training import Recipe, TrainingOutcome, predict, train
from pararealize.compiler import pararealize
from pararealize.ir.plan import Plan
from pararealize.models import resnet
from pararealize.network import ParallelNetwork
from pararealize.runtime.monitoring.progress import Progress

#: Processes that train at the same time: the cores of a small machine.
MOST = 2

#: Student's t for a two-sided interval of 95%, by degrees of freedom from 1.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Run:
    """A network trained once: a ResNet of ``shape`` (depth, width), serial where ``n`` is 0."""

    n: int
    seed: int
    shape: tuple[int, int]
    recipe: Recipe

    @property
    def name(self) -> str:
        """What tables call it, whatever its seed."""
        return f"parareal n = {self.n}" if self.n else "serial"

    def network(self, digits: Digits, comm: Any = None) -> nn.Module:
        """The network before it is trained; all networks of a seed begin with the same weights."""
        depth, width = self.shape
        torch.manual_seed(self.seed)
        model = resnet(depth, channels=1, width=width)
        example = (digits.train_images[: self.recipe.batch],)
        return pararealize(model, self.n, example_inputs=example, comm=comm) if self.n else model


@dataclass(frozen=True)
class Found:
    """What a run came to: which test digits are ``right``, and the weights at its end."""

    run: Run
    outcome: TrainingOutcome
    right: Tensor
    plan: Plan | None
    weights: dict[str, Any] = field(repr=False)

    def trained(self, digits: Digits, comm: Any = None) -> nn.Module:
        """The trained network."""
        net = self.run.network(digits, comm)
        net.load_state_dict(self.weights)
        return net.eval()


def runs(
    counts: Sequence[int], seeds: Sequence[int], shape: tuple[int, int], recipe: Recipe
) -> list[Run]:
    """The serial network and the parareal ones, each from every seed."""
    return [Run(n, seed, shape, replace(recipe, seed=seed)) for seed in seeds for n in (0, *counts)]


def train_all(
    wanted: Sequence[Run], digits: Digits, told: Progress, comm: Any, workers: int
) -> list[Found]:
    """Train all of them, in so many processes of one thread each, or on the ranks of ``comm``."""
    with told:
        if comm is not None or workers < 2:
            return [_told(run, digits, told, comm) for run in wanted]
        with told.task("networks trained, two at a time", len(wanted)) as advance:
            found = {}
            for each in _side_by_side(wanted, digits, workers):
                found[each.run] = each
                advance(f"{each.run.name}, seed {each.run.seed}: {each.outcome.accuracy:.1%}")
    return [found[run] for run in wanted]


def _told(run: Run, digits: Digits, told: Progress, comm: Any) -> Found:
    steps = run.recipe.steps(len(digits.train_labels))
    with told.task(f"{run.name}, seed {run.seed}", steps) as advance:
        return _trained(run, digits, lambda loss: advance(f"loss {loss:.3f}"), comm)


def _trained(run: Run, digits: Digits, on_step: Any, comm: Any = None) -> Found:
    net = run.network(digits, comm)
    outcome = train(net, digits, run.recipe, on_step)
    right = predict(net, digits.test_images).argmax(-1) == digits.test_labels
    plan = net.plan if isinstance(net, ParallelNetwork) else None
    return Found(run, outcome, right, plan, net.state_dict())


def _side_by_side(wanted: Sequence[Run], digits: Digits, workers: int) -> Iterator[Found]:
    """What each run comes to, in the order of their ends."""
    spawned = multiprocessing.get_context("spawn")  # a fork would inherit this one's threads
    with ProcessPoolExecutor(min(workers, len(wanted)), mp_context=spawned) as pool:
        begun = [pool.submit(_in_process, pickle.dumps((run, digits))) for run in wanted]
        yield from (pickle.loads(done.result()) for done in as_completed(begun))


def _in_process(given: bytes) -> bytes:
    """A run in a process of its own; tensors travel as bytes, as it ends before they are read."""
    run, digits = pickle.loads(given)
    torch.set_num_threads(1)
    return pickle.dumps(_trained(run, digits, _say_nothing))


def _say_nothing(_loss: float) -> None:
    """A step is done, and nobody watches."""


def beside(serial: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean difference of two shares, and half the width of its 95% interval.

    Both are ``[seeds, samples]``, whether each sample is right. The interval is Student's for the
    differences of the seeds; of one seed, that of paired differences of the samples.
    """
    each = other.double() - serial.double()
    values = each.mean(1) if len(each) > 1 else each[0]
    count = len(values)
    wide = STUDENT[count - 2] if count - 2 < len(STUDENT) else 1.96
    return float(each.mean()), wide * float(values.std()) / count**0.5
