"""What belongs to the whole network is the same on any number of ranks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from local_ranks import all_of
from local_transport import LocalTransport
from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


#: No networks besides the model's own layers.
EXACT = Parareal("fine", "difference", guess="coarse")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(7)))


def with_gradients(net: nn.Module) -> nn.Module:
    """Gradients that depend on a parameter's name only; one parameter has none."""
    for name, parameter in net.named_parameters():
        seeded = torch.Generator().manual_seed(sum(map(ord, name)))
        if name != "2.0.bias":
            parameter.grad = torch.randn(parameter.shape, generator=seeded)
    return net


@pytest.mark.parametrize("kind", [2.0, 1.0, math.inf])
def test_the_norm_of_gradients_is_the_same_number_on_any_number_of_ranks(kind: float) -> None:
    model, x = network(), torch.ones(2, 5)
    norms = []
    for ranks in (1, 2, 3, 4):
        models = [copy.deepcopy(model) for _ in range(ranks)]

        def clip(transport: LocalTransport, models: list[nn.Module] = models) -> float:
            own = models[transport.rank]
            net = pararealize(own, 4, method=EXACT, example_inputs=(x,), comm=transport)
            return float(with_gradients(net).clip_grad_norm_(0.5, kind))

        norms += all_of(ranks, clip)
    assert len(set(norms)) == 1
    own = [p.grad for p in with_gradients(model).parameters() if p.grad is not None]
    wanted = float(nn.utils.get_total_norm(own, kind))
    assert norms[0] == pytest.approx(wanted, rel=1e-6)  # single precision
