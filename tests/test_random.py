"""The laws on random networks of every kind of layer; `random_laws` checks more of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from random_features import (
    FEATURES,
    RANDOM,
    READ,
    SOUND,
    DropRate,
    RandomFunction,
    Sized,
    Skipped,
    Tempered,
    change_attributes,
)
from random_laws import Outcome, check_laws, summary
from random_networks import Join, RandomNetwork, Sample, build
from sampling import examples

samples = st.builds(
    Sample,
    seed=st.integers(0, 100_000),
    depth=st.integers(2, 10),
    features=st.sampled_from([frozenset(), SOUND, *map(frozenset, zip(sorted(SOUND)))]),
)


@settings(max_examples=examples(24))
@given(samples)
def test_laws_hold_on_random_networks(sample: Sample) -> None:
    """n = 1, exact corrections and n sweeps are the serial network; no jump, no correction."""
    assert check_laws(sample).kind in {"compiled", "no network"}


@pytest.mark.rest
def test_most_random_networks_are_networks_and_are_cut() -> None:
    """Else the laws above would be checked on nothing."""
    outcomes: list[Outcome] = [check_laws(Sample(seed, 5)) for seed in range(8)]
    assert sum(outcome.n > 1 for outcome in outcomes) >= 4


def test_random_networks_have_every_kind_of_connection() -> None:
    networks = [build(Sample(seed)) for seed in range(150)]
    joins = {join.how for network in networks for join in network.joins if join is not None}
    assert joins == {"add", "cat", "write", "gate", "other", "shift", "input"}
    assert {network.domain for network in networks} == {"features", "sequence", "signal", "image"}
    assert {network.answer for network in networks} == {"tensor", "tuple", "dict"}
    assert any(len(set(network.layers)) < len(network.layers) for network in networks)  # shared
    assert any(network.tied for network in networks)
    assert Join("add", 0) in [join for network in networks for join in network.joins[4:]]


def test_random_networks_have_every_feature() -> None:
    """Each is found in some network; a network without features has none of it."""
    plain, rich = (
        [build(Sample(seed, 8, frozenset(features))) for seed in range(100)]
        for features in ((), FEATURES)
    )
    joins = {join.how for network in rich for join in network.joins if join is not None}
    assert joins >= {*READ, "flags"}
    special = {RandomFunction, Skipped, Sized, Tempered, DropRate}
    assert {type(layer) for network in rich for layer in network.layers} >= special
    assert not {type(layer) for network in plain for layer in network.layers} & special
    assert not any(network.made for network in plain)
    tied = [sum(isinstance(m, nn.Linear) for m in n.layers) - len(_weights(n)) for n in rich]
    assert max(tied) > 1


def _weights(network: RandomNetwork) -> set[int]:
    return {id(layer.weight) for layer in network.layers if isinstance(layer, nn.Linear)}


@pytest.mark.parametrize("name", RANDOM)
def test_random_functions_draw(name: str) -> None:
    x = torch.rand(4, 4, 6, dtype=torch.float64) + 0.5
    torch.manual_seed(0)
    first = RANDOM[name](x)
    assert first.shape == x.shape
    assert any(not torch.equal(RANDOM[name](x), first) for _ in range(20)) or name == "rrelu"


def test_attributes_change() -> None:
    x = torch.ones(2, 4)
    for layer in (Tempered(), DropRate()):
        before = vars(layer).copy()
        change_attributes(nn.Sequential(layer))
        assert {k: v for k, v in vars(layer).items() if before[k] != v}
        assert layer(x).shape == x.shape


def test_a_sample_is_the_same_network_in_every_process_and_at_every_depth() -> None:
    short, long = build(Sample(3, 2)), build(Sample(3, 6))
    assert [type(layer) for layer in long.layers][:2] == [type(layer) for layer in short.layers]


@pytest.mark.parametrize(
    ("message", "kind"), [("no 'x' for layer 7", "no … for layer …"), ("at fc1.bias", "at …")]
)
def test_refusals_are_counted_by_kind(message: str, kind: str) -> None:
    assert summary(ValueError(message)) == f"ValueError: {kind}"
