"""Training of small ODE networks."""

import pytest
import torch
from torch import Tensor, nn

from pararealize.cli.training import score
from pararealize.models import odenet
from studies.odenets import AdamRecipe, train
from studies.peaks import load_peaks

RECIPE = AdamRecipe(epochs=6, batch=50)


def net() -> nn.Module:
    torch.manual_seed(1)
    return odenet(6, width=6, in_features=2, classes=5, horizon=5.0)


class Wrapped(nn.Module):
    """A network with the parameters of another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        result: Tensor = self.inner(x)
        return result


def test_a_network_learns_and_tells_every_loss() -> None:
    model, examples, seen = net(), load_peaks(1000, 500), list[float]()
    untrained = score(model, examples.test_inputs, examples.test_labels)
    outcome = train(model, examples, RECIPE, on_step=seen.append)
    assert outcome.losses == tuple(seen)
    assert len(seen) == 6 * 20
    assert outcome.losses[-1] < 0.6 * outcome.losses[0]
    assert outcome.accuracy > untrained[1] + 0.3
    found = score(model, examples.test_inputs, examples.test_labels)
    assert (outcome.test_loss, outcome.accuracy) == found


def test_what_is_prepared_is_trained_and_tested() -> None:
    wrapped: list[Wrapped] = []

    def prepare(inner: nn.Module) -> nn.Module:
        wrapped.append(Wrapped(inner))
        return wrapped[-1]

    first, second, examples = net(), net(), load_peaks(200, 100)
    outcome = train(first, examples, RECIPE, prepare)
    assert outcome == train(second, examples, RECIPE)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert wrapped[0].modes == [True] * 6 * 4 + [False]


@pytest.mark.parametrize("change", [{"seed": 1}, {"rate": 0.02}, {"batch": 60}, {"epochs": 7}])
def test_the_recipe_decides_the_outcome(change: dict[str, float]) -> None:
    examples = load_peaks(200, 100)
    first = train(net(), examples, RECIPE)
    assert train(net(), examples, RECIPE) == first
    other = train(net(), examples, AdamRecipe(**{"epochs": 6, "batch": 50, **change}))  # type: ignore
    assert other.losses != first.losses
