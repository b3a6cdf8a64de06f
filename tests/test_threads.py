"""One network called from several threads, as servers do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, Parareal, pararealize
from pararealize.ir.methods import Method

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.errors.SlowerThanSerialWarning")

THREADS, CALLS = 6, 48


class Counting(nn.Module):
    """A residual layer that counts its calls in an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x + 0.3 * torch.tanh(self.layer(x))


class Plain(Counting):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.tanh(self.layer(x))


def normalised() -> list[nn.Module]:
    parts: list[nn.Module] = [Plain(), nn.BatchNorm1d(8), Plain(), nn.Dropout(), Plain()]
    return [*parts, nn.BatchNorm1d(8), Plain()]


CASES: dict[str, tuple[Callable[[], list[nn.Module]], Method]] = {
    "graph": (lambda: [Plain() for _ in range(6)], Parareal()),
    "tolerance": (lambda: [Plain() for _ in range(6)], Parareal(tolerance=1e-9)),
    "attributes": (lambda: [Counting() for _ in range(6)], Parareal(tolerance=1e-9)),
    "statistics": (normalised, Parareal(tolerance=1e-9)),
    "multigrid": (
        lambda: [Plain() for _ in range(12)],
        MGRIT(coarsening=2, forward_cycles=2, backward_cycles=2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_threads_get_their_own_answers(name: str) -> None:
    build, method = CASES[name]
    torch.manual_seed(0)
    model = nn.Sequential(*build()).double()
    inputs = [torch.randn(4, 8, dtype=torch.float64) for _ in range(CALLS)]
    net = pararealize(model, 3, method=method, example_inputs=(inputs[0],)).eval()
    with torch.no_grad():
        wanted = [net(x) for x in inputs]

    def serve(i: int) -> bool:
        with torch.no_grad():
            found = net(inputs[i])
        assert str(net.report)
        return torch.equal(found, wanted[i])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(serve, range(CALLS)))


@pytest.mark.parametrize("name", ["attributes", "statistics"])
def test_every_call_counts_once(name: str) -> None:
    build, method = CASES[name]
    model = nn.Sequential(*build()).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    net = pararealize(model, 3, method=method, example_inputs=(x,)).train()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: net(x), range(CALLS)))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all(norm.num_batches_tracked == CALLS for norm in norms)
    counting = [m for m in net.modules() if type(m) is Counting]
    assert all(layer.calls == CALLS for layer in counting)
    assert norms or counting
