"""Sizes that are read at one place and used at another are no state."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from local_ranks import all_of
from pararealize import MGRIT, ParallelNetwork, Parareal, pararealize
from pararealize.propagators.repeatable import Repeatable
from pararealize.propagators.shape_table import ShapeQuery

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Convolutions(nn.Module):
    """Reads a size behind its first layer and uses it behind its last one."""

    def __init__(self, read: Callable[[Tensor], object], use: Callable[..., Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))
        self.read, self.use = read, use

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        size = self.read(h)
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return self.use(h, size)


class Checkpointed(Convolutions):
    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        rows = h.shape[0] * h.shape[2]
        for layer in self.layers:
            h = checkpoint(self.step, layer, h, rows, use_reentrant=False)
        return h.sum(1)

    def step(self, layer: nn.Module, h: Tensor, rows: int) -> Tensor:
        y = torch.tanh(layer(h))
        return y.view(rows, -1).view_as(y)


class Mixed(Convolutions):
    """A shape of what every subnetwork knows of the inputs, and of what only the first one has."""

    def forward(self, x: Tensor) -> Tensor:
        batch = x.flatten(1).size()[:-1]
        h = self.stem(x)
        shape = batch + (h.size(1) * h.size(-1), -1)  # noqa: RUF005  as people write it
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return h.reshape(shape)


class MixedLater(Mixed):
    """The same in numbers."""

    def forward(self, x: Tensor) -> Tensor:
        rows, h = x.flatten(1).size(0), self.stem(x)
        columns = rows * h.size(1) // rows
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return h.reshape(rows, columns, -1)


class Twice(Convolutions):
    """The tensor whose size is used last is read by nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        h = y = self.stem(x)
        for layer in self.layers:
            h = torch.tanh(layer(h))
        return h.reshape(y.size(0), -1)


READS: dict[str, tuple[Callable[[Tensor], object], Callable[..., Tensor]]] = {
    "batch": (lambda h: h.size(0), lambda h, n: h.reshape(n, -1)),
    "image": (
        lambda h: h.shape[-2:],
        lambda h, n: functional.interpolate(h[..., ::2, ::2], size=n, mode="nearest"),
    ),
    "unpacked": (
        lambda h: h.flatten(2).transpose(1, 2).shape,
        lambda h, n: h.flatten(2).transpose(1, 2) * (n[1] / n[2]),
    ),
    "computed": (lambda h: (h.size(2) + 1) // 2 * h.size(3), lambda h, n: h * n),
    "count": (lambda h: h.numel() // h.shape[0] ** h.dim(), lambda h, n: h + n),
}


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {name: Convolutions(*each) for name, each in READS.items()}
    made["checkpointed"] = Checkpointed(*READS["batch"])
    made |= {kind.__name__: kind(*READS["batch"]) for kind in (Mixed, MixedLater)}
    made["read late"] = Twice(*READS["batch"])
    return {name: model.double() for name, model in made.items()}


def compiled(model: nn.Module, **how: object) -> ParallelNetwork:
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    return pararealize(model, 3, **{"method": EXACT, "example_inputs": (x,), **how})  # type: ignore[arg-type]


def inputs() -> list[Tensor]:
    """The size that it was compiled for, another batch, another image."""
    shapes = ((2, 3, 12, 12), (5, 3, 12, 12), (1, 3, 17, 9))
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("name", networks())
def test_cuts_between_reading_and_using_a_size_are_legal_and_exact(name: str) -> None:
    model = networks()[name]
    net = compiled(model)
    chain = net._emission.decisions.partition.chain
    assert all(len(interface.values) == 1 for interface in chain.interfaces)
    assert len(chain.interfaces) >= 6
    for x in inputs():
        assert torch.equal(net(x), model(x))
    x = inputs()[1]
    net(x).square().sum().backward()
    model(x).square().sum().backward()
    own = dict(net.named_parameters())
    for path, weight in model.named_parameters():  # sums come in another order
        torch.testing.assert_close(own[path].grad, weight.grad, rtol=1e-10, atol=1e-12)


def test_sizes_used_where_they_are_read_stay_operations() -> None:
    model = nn.Sequential(*(Flattened() for _ in range(4))).double()
    net = pararealize(model, 2, method=EXACT, example_inputs=(torch.randn(3, 4).double(),))
    chain = net._emission.decisions.partition.chain
    targets = [o.target.call for o in chain.train if isinstance(o.target, Repeatable)]
    assert not any(isinstance(target, ShapeQuery) for target in targets)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h.view(h.size(0), -1)


@pytest.mark.parametrize(
    "method", [Parareal(), MGRIT(coarsening=2), MGRIT(coarsening=2, storage="intervals")], ids=str
)
def test_every_method_takes_other_sizes(method: Parareal | MGRIT) -> None:
    net = compiled(networks()["batch"], method=method)
    for x in inputs()[:2]:
        net(x).sum().backward()
        assert net(x).shape[0] == len(x)


def test_copies_answer_alike() -> None:
    net = compiled(networks()["computed"])
    x = inputs()[2]
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    twin = Pickled().double()
    other = pickle.loads(pickle.dumps(pararealize(twin, 2, method=EXACT, example_inputs=(x,))))
    assert torch.equal(other(x.repeat(3, 1, 1, 1)), twin(x.repeat(3, 1, 1, 1)))


class Pickled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        b = h.size(0)
        return self.layers(h).view(b, -1)


def test_ranks_find_sizes_of_layers_that_others_hold() -> None:
    model = networks()["computed"]

    def work(transport: object) -> list[Tensor]:
        net = compiled(model, comm=transport)
        return [net(x).detach() for x in given]

    given = inputs()
    for found in all_of(2, work):
        for x, output in zip(given, found, strict=True):
            assert torch.equal(output, model(x))
