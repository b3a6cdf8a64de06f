"""Probes: evaluations on a copy, so that nothing of the model moves."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize.chain.interfaces import build_chain, find_interface
from pararealize.coarse.intervals import Rediscretized
from pararealize.cost.probe import Probe
from pararealize.cost.profile import profile
from pararealize.ir.chain import Partition, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.tracing.trace import trace


class Net(nn.Module):
    """Residual, with statistics, dropout and an input that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout()

    def forward(self, x: Tensor, scale: float = 0.5) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * scale
        return self.drop(self.norm(x))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def probe_of(model: nn.Module, *after: str, **inputs: Any) -> Probe:
    """A probe of the partition cut after the named operations."""
    traced = trace(model, inputs)
    given = inputs or {"x": TensorSpec((3, 4))}
    chain = build_chain(model, traced, profile(traced.train, model, given, Machine()))
    inner = (find_interface(chain, name) + 1 for name in after)
    return Probe(Partition(chain, (0, *inner, len(chain.layers))), model, inputs, seed=1)


def test_the_trajectory_is_the_networks(model: Net) -> None:
    x = torch.randn(3, 4)
    probe = probe_of(model, "add", "add_2", x=x)
    first, second, third = probe.trajectory
    assert first is None
    a = x + torch.tanh(model.layers[0](x)) * 0.5
    torch.testing.assert_close(second, a)
    for layer in model.layers[1:3]:
        a = a + torch.tanh(layer(a)) * 0.5
    torch.testing.assert_close(third, a)


def test_given_values_are_used_and_defaults_else(model: Net) -> None:
    x = torch.randn(3, 4)
    small = probe_of(model, "add", x=x, scale=0.0).trajectory[1]
    assert torch.equal(small, x)


def test_inputs_that_are_not_given_are_random_but_the_same(model: Net) -> None:
    states = [probe_of(model, "add").trajectory[1] for _ in range(2)]
    assert torch.equal(states[0], states[1])
    assert states[0].shape == (3, 4)


def test_nothing_of_the_model_moves(model: Net) -> None:
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe = probe_of(model, "add", "add_2")
    probe.response_error(2, nn.Identity(), None)
    probe.shapes(nn.BatchNorm1d(4), (TensorSpec((3, 4)),))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert not probe.copy.training


def test_the_error_of_an_exact_response_is_zero(model: Net) -> None:
    probe = probe_of(model, "add", "add_2")
    fine = probe.fine(2)

    class Exact(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            result: Tensor = probe.run(fine, state)
            return result

    assert probe.response_error(2, Exact(), None) == 0.0


def test_the_error_is_relative_to_the_response(model: Net) -> None:
    probe = probe_of(model, "add", "add_2")

    class Nothing(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return torch.zeros_like(state)

    assert probe.response_error(2, Nothing(), None) == pytest.approx(1.0)


def test_segments_are_measured_with_the_fine_weights(model: Net) -> None:
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.copy_(model.layers[0].weight)
            layer.bias.zero_()
    probe = probe_of(model, "add", "add_2")
    first, last = probe.partition.piece(2)
    segment, _ = Rediscretized().coarsened(probe.partition.chain, first, last, last - first)
    assert segment is not None
    error = probe.response_error(2, None, segment)
    assert 0 < error < probe.response_error(2, nn.Identity(), None)


def test_the_first_subnetwork_has_no_error(model: Net) -> None:
    assert probe_of(model, "add").response_error(1, nn.Identity(), None) == float("inf")


def test_shapes_of_a_module(model: Net) -> None:
    probe = probe_of(model, "add")
    assert probe.shapes(nn.Linear(4, 7), (TensorSpec((3, 4)),)) == [(3, 7)]

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x[:, :1]

    assert probe.shapes(Two(), (TensorSpec((3, 4)),)) == [(3, 4), (3, 1)]
