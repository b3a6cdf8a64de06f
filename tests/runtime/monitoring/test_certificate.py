"""Estimates from jumps, and what is doubted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pararealize.ir.calibration import Certificate, Region
from pararealize.runtime.monitoring.measures import Measure
from pararealize.runtime.monitoring.rules import Certified, answer, doubtful, estimate

REGION = Region(1, (0.0,), (1.0,), 2.0)
CERTIFICATE = Certificate(2, {1: 1.0, 3: 10.0}, 0.5, "report", 0.25, (REGION,))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measure(sweep: int, interface: int, *relative: float) -> Measure:
    one = torch.ones(len(relative)).double()
    return Measure(sweep, interface, numbers(*relative), one, 0 * one)


def test_estimates_are_weighted_sums() -> None:
    jumps = {1: numbers(0.1, 0.2), 2: numbers(9, 9), 3: numbers(0.01, 0.0)}
    assert torch.allclose(estimate(CERTIFICATE, jumps), numbers(0.2, 0.2))
    assert torch.allclose(estimate(CERTIFICATE, {1: numbers(1), 3: numbers(0, 1)}), numbers(1, 11))


def test_answers_are_doubtful_above_the_limit_or_where_classes_are_close() -> None:
    scores = numbers(0, 1, 0, 1, 0.75, 1, 0.7, 1).view(4, 2)
    found = doubtful(CERTIFICATE, numbers(0.4, 0.6, 1e-3, 0.06), {}, scores)
    assert found.tolist() == [False, True, True, False]
    odd = doubtful(CERTIFICATE, numbers(torch.nan, torch.inf), {}, scores[:2])
    assert odd.tolist() == [True, True]
    none = doubtful(CERTIFICATE, numbers(0, 0), {}, torch.tensor([[torch.nan, 1], [0, 1]]))
    assert none.tolist() == [True, False]


def test_where_more_is_corrected_than_usual_classes_have_to_be_farther_apart() -> None:
    """A margin of 0.25, for errors of 0.1 or less."""
    certificate = replace(CERTIFICATE, usual=0.1)
    scores = numbers(0.7, 1, 0.7, 1, 0.4, 1, 0.4, 1).view(4, 2)
    estimates = numbers(0.01, 0.13, 0.13, 0.26)
    assert doubtful(certificate, estimates, {}, scores).tolist() == [False, True, False, True]
    none = doubtful(replace(certificate, usual=0.0), estimates, {}, scores)
    assert not none.any()


def test_texts_are_doubtful_where_their_answers_are_less_sure_than_usual() -> None:
    """Two positions of three classes each: sure, unsure of one, of both, and of no number."""
    sure, even, broken = [9.0, 0, 0], [1.0, 1, 1], [torch.nan, 0, 0]
    texts = torch.tensor([[sure, sure], [sure, even], [even, even], [sure, broken]])
    certificate = replace(CERTIFICATE, margin=None, unsure=0.6)
    low = numbers(0, 0, 0, 0)
    assert doubtful(certificate, low, {}, texts).tolist() == [False, False, True, True]
    maps = texts.transpose(1, 2)[..., None]  # [batch, classes, height, width]
    assert doubtful(certificate, low, {}, maps).tolist() == [False, False, True, True]
    assert not doubtful(replace(certificate, unsure=None), low, {}, texts).any()
    assert not doubtful(certificate, low, {}, texts[:, 1]).any()  # one answer each


def test_answers_are_doubtful_where_a_state_lies_outside_its_region() -> None:
    scores, low = numbers(0, 1, 0, 1, 0, 1).view(3, 2), numbers(0, 0, 0)
    away = {1: numbers(1.9, 2.1, torch.inf), 3: numbers(9, 9, 9)}  # 3 has no region
    assert doubtful(CERTIFICATE, low, away, scores).tolist() == [False, True, True]


def test_distances_are_those_of_the_sweeps_it_was_made_for() -> None:
    rule, scores = Certified(CERTIFICATE), numbers(0, 1).view(1, 2)
    assert float(rule.known[1, 1](numbers(-3).view(1, 1), 1)) == pytest.approx(3)
    far = replace(measure(0, 1, 0.0), distances=numbers(3))
    rule.is_enough([far, measure(1, 1, 0.0)], scores)
    assert rule.verdict.doubtful == (False,)
    rule.is_enough([measure(0, 1, 0.0), replace(far, sweep=1)], scores)
    assert rule.verdict.doubtful == (True,)


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
    strict = Certificate(1, {1: 1.0}, 0.5, "exact")

    class Always:
        def is_enough(self, *_: object) -> bool:
            return True

    rule, scores = Certified(strict, Always()), numbers(0, 1).view(1, 2)
    assert not rule.is_enough([measure(0, 1, 0.6)], scores)
    assert not rule.is_enough([measure(0, 1, 0.6), measure(1, 2, 0.0)], scores)
    assert rule.is_enough([measure(0, 1, 0.4)], scores)  # the next call


def test_doubts_are_those_of_the_sweeps_it_was_made_for() -> None:
    """A later answer may look clearer; it is no nearer to be known."""
    rule = Certified(Certificate(1, {1: 1.0}, 0.5, "exact", 0.25))
    assert not rule.is_enough([measure(0, 1, 0.4)], numbers(0.9, 1).view(1, 2))
    later = [measure(0, 1, 0.4), measure(1, 2, 0.0)]
    assert not rule.is_enough(later, numbers(0, 1).view(1, 2))


def test_the_answer_is_the_first_tensor_of_real_numbers() -> None:
    assert float(answer({"labels": torch.tensor(1), "scores": torch.tensor(0.5)})) == 0.5
