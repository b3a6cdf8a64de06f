"""Law 10 for every source of random numbers: drawn once a step, in the serial network's order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.coarse.copies import Whole
from pararealize.errors import TraceError
from pararealize.ir.target import Target
from pararealize.propagators.fresh import Fresh

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.errors.SlowerThanSerialWarning")

EXACT = Parareal(coarse="fine", correction="difference")
SHARED = np.random.default_rng(5)


class Noisy(nn.Module):
    """A residual layer, then a function of it that draws random numbers."""

    def __init__(self, noise: Callable[[Any, Tensor], Tensor], own: Any = None) -> None:
        super().__init__()
        self.layer, self.noise = nn.Linear(16, 16), noise
        if own is not None:
            self.own = own

    def forward(self, x: Tensor) -> Tensor:
        return self.noise(self, x + torch.tanh(self.layer(x)))


class NumpyDrop(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and np.random.rand() < 0.5 else super().forward(x)


class PythonDrop(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and random.random() < 0.5 else super().forward(x)


class TorchDrop(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and torch.rand(()) < 0.5 else super().forward(x)


class SharedDrop(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and SHARED.random() < 0.5 else super().forward(x)


class Owning(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(self.own.random())


class Generating(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(x.shape, generator=self.own, dtype=x.dtype)


class Pooling(Noisy):
    def __init__(self) -> None:
        super().__init__(plain)
        self.pool = nn.FractionalMaxPool2d(2, output_size=(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        image = super().forward(x).reshape(-1, 1, 4, 4).repeat(1, 1, 2, 2)
        return x + self.pool(image).flatten(1)


def plain(_net: Any, y: Tensor) -> Tensor:
    return y


def attend(_net: Any, y: Tensor) -> Tensor:
    rows = y[:, None]
    return functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.3)[:, 0]


def noises() -> dict[str, Callable[[], nn.Module]]:
    functions: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "poisson": lambda _, y: y + torch.poisson(y.abs()),
        "gamma": lambda _, y: y + torch.distributions.Gamma(y.abs() + 0.1, 1.0).rsample(),
        "dirichlet": lambda _, y: y + torch.distributions.Dirichlet(y.abs() + 0.1).rsample(),
        "geometric": lambda _, y: y * torch.empty_like(y).geometric_(0.3),
        "exponential": lambda _, y: y * torch.empty_like(y).exponential_(),
        "log_normal": lambda _, y: y * torch.empty_like(y).log_normal_().tanh(),
        "native_dropout": lambda _, y: torch.native_dropout(y, 0.5, True)[0],
        "gumbel": lambda _, y: y + functional.gumbel_softmax(y),
        "rrelu": lambda net, y: functional.rrelu(y, training=net.training),
        "attention": attend,
    }
    made: dict[str, Callable[[], nn.Module]] = {
        name: (lambda noise=noise: Noisy(noise)) for name, noise in functions.items()
    }
    return made | {
        "fractional pooling": Pooling,
        "LayerDrop, NumPy": lambda: NumpyDrop(plain),
        "LayerDrop, Python": lambda: PythonDrop(plain),
        "LayerDrop, torch": lambda: TorchDrop(plain),
        "LayerDrop, a global generator": lambda: SharedDrop(plain),
        "a NumPy generator": lambda: Owning(plain, np.random.default_rng(3)),
        "a Python generator": lambda: Owning(plain, random.Random(3)),
        "a torch generator": lambda: Generating(plain, torch.Generator().manual_seed(3)),
    }


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)
    SHARED.bit_generator.state = np.random.default_rng(number).bit_generator.state


def states() -> tuple[bytes, ...]:
    numpy = np.random.get_state()
    own = str(SHARED.bit_generator.state).encode()
    python = str(random.getstate()).encode()
    return torch.get_rng_state().numpy().tobytes(), python, str(numpy).encode(), own


def network(kind: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [Noisy(plain), kind(), kind(), Noisy(plain), kind(), kind()]
    return nn.Sequential(*parts).double()


X = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", noises())
def test_numbers_are_the_serial_ones(name: str) -> None:
    """And so are the generators afterwards; compiling moves none of them."""
    model = network(noises()[name])
    seed(0)
    before = states()
    net = pararealize(model, 4, method=EXACT, example_inputs=(X,))
    assert states() == before
    for training in (True, False):
        model.train(training)
        net.train(training)
        for step in range(2):
            seed(step)
            wanted, then = model(X), states()
            seed(step)
            assert torch.equal(net(X), wanted)
            assert states() == then


@pytest.mark.parametrize("name", ["poisson", "gumbel", "LayerDrop, NumPy", "a Python generator"])
def test_sweeps_reuse_what_was_drawn(name: str) -> None:
    """After n sweeps the network is serial only if every sweep drew the same numbers."""
    model = network(noises()[name])
    net = pararealize(model, 4, method=Parareal(iterations=9), example_inputs=(X,))
    for step in range(2):
        seed(step)
        wanted = model(X)
        seed(step)
        assert (net(X) - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["LayerDrop, NumPy", "LayerDrop, Python", "LayerDrop, torch"])
def test_what_is_compiled_depends_on_no_numbers_drawn_before(name: str) -> None:
    """Whether a layer was left out while it was measured, ranks would cut at different places."""
    model, plans = network(noises()[name]), set()
    for start in range(6):
        seed(start)
        plans.add(pararealize(model, 3, method=EXACT, example_inputs=(X,)).plan.to_json())
    assert len(plans) == 1


def test_coarse_copies_draw_from_a_stream_of_their_own() -> None:
    """The network's own draws come in its own order: its second piece gets the serial noise."""
    model = network(lambda: Noisy(lambda _, y: y + torch.randn_like(y)))
    method = Parareal(coarse=Whole(), correction="difference")
    net = pararealize(model, 3, method=method, example_inputs=(X,))
    copies = [module for module in net.modules() if isinstance(module, Fresh)]
    drawing = [copy for copy in copies if any(o.draws for o in copy.segment.operations)]
    assert drawing  # else nothing is checked here
    fine = [net._emission.propagators[Target.fine(j)] for j in (1, 2)]
    seen: list[tuple[Tensor, Tensor]] = []
    hook = fine[1].register_forward_hook(lambda _m, given, made: seen.append((given[0], made)))
    torch.manual_seed(3)
    net(X)
    hook.remove()
    torch.manual_seed(3)
    fine[0](X)
    state, made = seen[0]
    assert torch.equal(fine[1](state), made)


def test_a_network_that_draws_in_its_own_forward_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x if np.random.rand() < 0.5 else layer(x)
            return x

    with pytest.raises(TraceError, match="random numbers"):
        pararealize(Net(), 2, example_inputs=(X.float(),))
