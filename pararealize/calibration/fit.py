"""Fit: coarse networks made to answer like the subnetworks that they stand for."""

from __future__ import annotations

import copy
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.calibration import Fitting
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.answers import divergence
from pararealize.runtime.monitoring.rules import answer
from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.pytree import leaves_of

#: Epochs without a better held-out error after which fitting ends.
PATIENCE = 4
#: Weight of the divergence of answers, in nats, beside relative errors. With a distance of the same
#: size (10 times Hellinger's, squared) a language model in two pieces gave the serial character
#: in 91% instead of 89% of positions; digits did not care.
ANSWERS = 2.5

#: Relative errors of states and of responses.
Errors = tuple[float | None, float | None]


@dataclass(frozen=True)
class Sample:
    """A batch seen by one subnetwork Φ.

    Its state u (``None`` before the first) and Φ(u), the network's inputs, and where they are
    known a guess u⁰ of the state and Φ(u⁰).
    """

    state: Any
    result: Any
    inputs: Mapping[str, Any]
    guess: Any = None
    guessed: Any = None


@dataclass(frozen=True)
class Samples:
    """The samples of one subnetwork: those to fit to, and held-out ones; read when needed."""

    fitted: Sequence[Callable[[], Sample]]
    held_out: Sequence[Callable[[], Sample]]


@dataclass
class Misfit:
    """Squared errors of states and of responses, and what they are relative to.

    ``answers`` is how far the classes' probabilities are from the wanted ones, in nats.
    """

    step: Any = 0.0
    states: Any = 0.0
    response: Any = 0.0
    jumps: Any = 0.0
    answers: Any = 0.0

    def __add__(self, other: Misfit) -> Misfit:
        return Misfit(*map(operator.add, vars(self).values(), vars(other).values()))

    @property
    def loss(self) -> Tensor:
        """Both relative squared errors and the divergence of answers, as a tensor."""
        terms = [(self.step, self.states), (self.response, self.jumps)]
        found = [a / b.clamp(min=1e-30) for a, b in terms if isinstance(b, Tensor)]
        total: Tensor = torch.stack(found).sum() + ANSWERS * self.answers
        return total

    @property
    def errors(self) -> Errors:
        """Relative errors of states and of responses; ``None`` where there were none."""
        terms = ((self.step, self.states), (self.response, self.jumps))
        step, response = (math.sqrt(float(a) / float(b)) if float(b) else None for a, b in terms)
        return step, response


@final
@dataclass(frozen=True)
class Fitter:
    """What is fitted of one subnetwork.

    Attributes:
        module: whose weights are fitted; ``None`` for propagators without weights of their own.
        sweeper: G, where states are to be met: G(u) ≈ Φ(u).
        corrector: where responses to jumps are to be met: G(u) - G(u⁰) ≈ Φ(u) - Φ(u⁰) with the
            difference correction, F(u - u⁰) with the residual one.
        residual: whether the correction is the residual one.
        head: what follows the last subnetwork, where that is what is fitted; responses are then
            met as the head sees them.

    """

    module: nn.Module | None
    sweeper: Propagator | None
    corrector: Propagator | None = None
    residual: bool = False
    head: Propagator | None = None

    def misfit(self, sample: Sample) -> Misfit:
        """Squared errors on one batch."""
        found = Misfit()
        here = self._apply(self.sweeper, sample.state, sample) if self.sweeper is not None else None
        if here is not None:
            wrong = combine("+-", here, sample.result)
            found += Misfit(step=squared(wrong), states=squared(sample.result))
        if self.corrector is not None and sample.guess is not None:
            corrected = combine("++", sample.guessed, self._response(sample, here))
            ends = (corrected, sample.result, sample.guessed)
            if self.head is not None:
                ends = tuple(self._apply(self.head, end, sample) for end in ends)
            reached, wanted, guessed = ends
            wrong, jump = combine("+-", reached, wanted), combine("+-", wanted, guessed)
            found += Misfit(response=squared(wrong), jumps=squared(jump))
            apart = None if self.head is None else divergence(answer(reached), answer(wanted))
            found.answers = 0.0 if apart is None else apart  # they are no scores of classes
        return found

    def _response(self, sample: Sample, here: Any) -> Any:
        assert self.corrector is not None
        if self.residual:
            jump = combine("+-", sample.state, sample.guess)
            return self._apply(self.corrector, jump, sample)
        if here is None:
            here = self._apply(self.corrector, sample.state, sample)
        return combine("+-", here, self._apply(self.corrector, sample.guess, sample))

    def _apply(self, part: Propagator, state: Any, sample: Sample) -> Any:
        given = [] if state is None else [state]
        return part(*given, *(sample.inputs[name] for name in part.inputs), commits=False)


def squared(value: Any) -> Tensor:
    """The square of the 2-norm over all floating-point leaves."""
    leaves = [v for v in leaves_of(value) if isinstance(v, Tensor) and v.is_floating_point()]
    return torch.stack([(leaf.float() ** 2).sum() for leaf in leaves]).sum()


@torch.no_grad()
def measure(fitter: Fitter, samples: Sequence[Callable[[], Sample]]) -> Errors:
    """Relative errors of states and of responses over samples."""
    return sum((fitter.misfit(read()) for read in samples), Misfit()).errors


def fit(
    fitter: Fitter,
    samples: Samples,
    options: Fitting,
    seed: int,
    progress: Callable[[], None],
    seconds: float = math.inf,
) -> Errors:
    """Fit the weights, if any; those with the least held-out error are kept. Relative errors.

    The error that counts is that of responses where they are known, else that of states. The
    learning rate falls along a cosine to 0 where all steps are done or all ``seconds`` are spent.
    """
    begun = time.monotonic()
    best = measure(fitter, samples.held_out)
    weights = list(fitter.module.parameters()) if fitter.module is not None else []
    if not weights or fitter.module is None or seconds <= time.monotonic() - begun:
        return best
    kept = copy.deepcopy(fitter.module.state_dict())
    steps = steps_of(options, len(samples.fitted))
    optimizer = torch.optim.Adam(weights, lr=options.rate)
    since = 0
    for step, read in enumerate(_drawn(samples.fitted, steps, seed), start=1):
        spent = (time.monotonic() - begun) / seconds
        _set_rate(optimizer, options.rate, max(spent, (step - 1) / steps))
        optimizer.zero_grad()
        with thawed(weights):
            wanted = [p for p in weights if p.requires_grad]  # and none of the network's own
            torch.autograd.backward(fitter.misfit(read()).loss, inputs=wanted)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        progress()
        is_over = time.monotonic() - begun >= seconds
        if step % len(samples.fitted) and step != steps and not is_over:
            continue
        found = measure(fitter, samples.held_out)
        since = 0 if _counted(found) < _counted(best) else since + 1
        if not since:
            best, kept = found, copy.deepcopy(fitter.module.state_dict())
        if is_over or since >= PATIENCE or _counted(best) <= (options.tolerance or 0.0):
            break
    fitter.module.load_state_dict(kept)
    optimizer.zero_grad()
    return best


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * min(1.0, done))) / 2


def steps_of(options: Fitting, batches: int) -> int:
    """The most steps that fitting to so many batches takes."""
    steps = options.epochs * batches
    return min(steps, options.steps or steps)


@contextmanager
def thawed(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """A block in which weights have gradients, though all of them are frozen with the network."""
    frozen = [p for p in weights if not p.requires_grad]
    frozen = frozen if len(frozen) == len(weights) else []
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _counted(errors: Errors) -> float:
    step, response = errors
    found = step if response is None else response
    return math.inf if found is None or math.isnan(found) else found


def _drawn(
    samples: Sequence[Callable[[], Sample]], steps: int, seed: int
) -> Iterator[Callable[[], Sample]]:
    generator = torch.Generator().manual_seed(seed)
    while steps > 0:
        for i in torch.randperm(len(samples), generator=generator).tolist()[:steps]:
            yield samples[i]
        steps -= len(samples)
