"""What the theorem on biased gradients asks for, measured."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pararealize import MGRIT, ParallelNetwork, pararealize
from pararealize.models import odenet
from studies.biased import Bias, BiasedTraining, Rates, train
from studies.peaks import load_peaks

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def net() -> nn.Module:
    torch.manual_seed(0)
    return odenet(8, width=4, horizon=2.0, in_features=2, classes=5).double()


def cycles(count: int) -> Callable[[nn.Module], ParallelNetwork]:
    def prepare(model: nn.Module) -> ParallelNetwork:
        method = MGRIT(
            coarsening=2, coarse="rediscretized", forward_cycles=count, backward_cycles=count
        )
        return pararealize(model, 4, method=method, example_inputs=(torch.zeros(9, 2).double(),))

    return prepare


def run(prepare: Callable[[nn.Module], ParallelNetwork] | None) -> BiasedTraining:
    examples = load_peaks(50, 50)
    inputs = (examples.train_inputs.double(), examples.train_labels)
    examples = type(examples)(*inputs, examples.test_inputs.double(), examples.test_labels)
    return train(net(), prepare, examples, Rates(), steps=7, batch=20, every=3, seed=0)


def test_more_cycles_are_less_biased_and_as_many_as_slices_are_not() -> None:
    one, two, exact, serial = (run(prepare) for prepare in (cycles(1), cycles(2), cycles(4), None))
    assert [bias.step for bias in one.whole] == [0, 3, 6]
    assert [bias.step for bias in one.batches] == list(range(7))
    for first, second, none in zip(one.batches, two.batches, exact.batches, strict=True):
        assert first.relative > 2 * second.relative > 0
        # float64, four cycles over four slices
        assert none.relative < 1e-12
        assert none.along == pytest.approx(1, abs=1e-12)
    assert all(bias.relative == 0 for bias in serial.batches)
    assert all(estimate > 0 for estimate in one.estimates)
    assert {found.serial_steps for found in (one, two, serial)} == {0}
    for found, wanted in zip(exact.whole, serial.whole, strict=True):
        assert found.norm == pytest.approx(wanted.norm, rel=1e-10)


def test_a_bias_is_that_of_two_vectors() -> None:
    found = Bias.of(3, torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]))
    assert (found.step, found.norm, found.along) == (3, 2.0, 0.5)
    assert found.relative == pytest.approx(2**0.5 / 2)
    # The theorem's c₁ is at least 1 - β.
    assert found.along >= 1 - found.relative


@pytest.mark.parametrize("power", [0.6, 0.75, 1.0])
def test_squares_of_rates_have_a_limit_and_rates_have_none(power: float) -> None:
    rates = Rates(0.5, 10.0, power)
    squares = list(itertools.accumulate(rates.at(t) ** 2 for t in range(20_000)))
    assert squares[-1] < rates.limit
    assert squares[-1] > 0.6 * rates.limit
    sums = list(itertools.accumulate(rates.at(t) for t in range(20_000)))
    assert sums[-1] - sums[1_999] > 0.5 * rates.first * rates.delay
