"""Estimates from jumps, and what is doubted."""

from __future__ import annotations

import torch

from pararealize.ir.calibration import Certificate
from pararealize.runtime.certificate import Certified, answer, doubtful, estimate
from pararealize.runtime.measures import Measure

CERTIFICATE = Certificate(2, {1: 1.0, 3: 10.0}, 0.5, "report", margins=True)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measure(sweep: int, interface: int, *relative: float) -> Measure:
    return Measure(sweep, interface, numbers(*relative), torch.ones(len(relative)).double())


def test_estimates_are_weighted_sums() -> None:
    jumps = {1: numbers(0.1, 0.2), 2: numbers(9, 9), 3: numbers(0.01, 0.0)}
    assert torch.allclose(estimate(CERTIFICATE, jumps), numbers(0.2, 0.2))
    assert torch.allclose(estimate(CERTIFICATE, {1: numbers(1), 3: numbers(0, 1)}), numbers(1, 11))


def test_answers_are_doubtful_above_the_limit_or_where_classes_may_swap() -> None:
    scores = numbers(0, 1, 0, 1, 0.9, 1, 0.9, 1).view(4, 2)
    found = doubtful(CERTIFICATE, numbers(0.4, 0.6, 1e-3, 0.06), scores)
    assert found.tolist() == [False, True, False, True]
    odd = doubtful(CERTIFICATE, numbers(torch.nan, torch.inf), scores[:2])
    assert odd.tolist() == [True, True]


def test_it_is_asked_once_after_the_sweeps_it_was_made_for() -> None:
    rule = Certified(CERTIFICATE)
    scores = numbers(0, 1).view(1, 2)
    found = [measure(0, 1, 0.1), measure(0, 3, 0.0)]
    assert rule.is_enough(found, scores)
    assert rule.verdict.estimates == ()
    found += [measure(1, 3, 0.01)]
    assert rule.is_enough(found, scores)
    assert torch.allclose(numbers(*rule.verdict.estimates), numbers(0.1))  # of the last sweep only


def test_once_in_doubt_only_the_serial_answer_is_enough() -> None:
    strict = Certificate(1, {1: 1.0}, 0.5, "exact", margins=False)

    class Always:
        def is_enough(self, *_: object) -> bool:
            return True

    rule, scores = Certified(strict, Always()), numbers(0, 1).view(1, 2)
    assert not rule.is_enough([measure(0, 1, 0.6)], scores)
    assert not rule.is_enough([measure(0, 1, 0.6), measure(1, 2, 0.0)], scores)
    assert rule.is_enough([measure(0, 1, 0.4)], scores)  # the next call


def test_doubts_are_those_of_the_sweeps_it_was_made_for() -> None:
    """A later answer may look clearer; it is no nearer to be known."""
    rule = Certified(Certificate(1, {1: 1.0}, 0.5, "exact", margins=True))
    assert not rule.is_enough([measure(0, 1, 0.4)], numbers(0.9, 1).view(1, 2))
    later = [measure(0, 1, 0.4), measure(1, 2, 0.0)]
    assert not rule.is_enough(later, numbers(0, 1).view(1, 2))


def test_the_answer_is_the_first_tensor_of_real_numbers() -> None:
    assert float(answer({"labels": torch.tensor(1), "scores": torch.tensor(0.5)})) == 0.5
