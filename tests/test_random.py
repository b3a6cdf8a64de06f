"""The laws on random networks of every kind of layer; `random_laws` checks more of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from random_laws import Outcome, check_laws, summary
from random_networks import Join, Sample, build

samples = st.builds(Sample, seed=st.integers(0, 100_000), depth=st.integers(2, 10))


@settings(max_examples=60)
@given(samples)
def test_laws_hold_on_random_networks(sample: Sample) -> None:
    """n = 1, exact corrections and n sweeps are the serial network; no jump, no correction."""
    assert check_laws(sample).kind in {"compiled", "no network"}


def test_most_random_networks_are_networks_and_are_cut() -> None:
    """Else the laws above would be checked on nothing."""
    outcomes: list[Outcome] = [check_laws(Sample(seed, 5)) for seed in range(12)]
    assert sum(outcome.n > 1 for outcome in outcomes) >= 6


def test_random_networks_have_every_kind_of_connection() -> None:
    networks = [build(Sample(seed)) for seed in range(150)]
    joins = {join.how for network in networks for join in network.joins if join is not None}
    assert joins == {"add", "cat", "write", "gate", "other", "shift", "input"}
    assert {network.domain for network in networks} == {"features", "sequence", "signal", "image"}
    assert {network.answer for network in networks} == {"tensor", "tuple", "dict"}
    assert any(len(set(network.layers)) < len(network.layers) for network in networks)  # shared
    assert any(network.tied for network in networks)
    assert Join("add", 0) in [join for network in networks for join in network.joins[4:]]


def test_a_sample_is_the_same_network_in_every_process_and_at_every_depth() -> None:
    short, long = build(Sample(3, 2)), build(Sample(3, 6))
    assert [type(layer) for layer in long.layers][:2] == [type(layer) for layer in short.layers]


@pytest.mark.parametrize(
    ("message", "kind"), [("no 'x' for layer 7", "no … for layer …"), ("at fc1.bias", "at …")]
)
def test_refusals_are_counted_by_kind(message: str, kind: str) -> None:
    assert summary(ValueError(message)) == f"ValueError: {kind}"
