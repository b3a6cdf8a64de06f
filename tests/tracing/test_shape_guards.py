"""Branches on shapes are decided by the inputs at hand, and looked at again in every call."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from local_ranks import all_of
from pararealize import ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import ShapeError, TraceError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
Shapes = tuple[tuple[int, ...], ...]


class Body(nn.Module):
    """Six convolutions, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class Skip(Body):
    """As a U-Net: brings a state back to the size of a skip where it has another one."""

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        x = functional.avg_pool2d(x, 2)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if x.shape != skip.shape:
            x = functional.interpolate(x, size=skip.shape[2:], mode="nearest")
        return x + skip


class Padded(Body):
    """Pads to a multiple of four in the forward of every second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Pad() for _ in range(6))


class Pad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = (4 - height % 4) % 4, (4 - width % 4) % 4
        if bottom > 0 or right > 0:
            x = functional.pad(x, (0, right, 0, bottom))
        return self.conv(x)[..., :height, :width]


class Bounded(Body):
    """Takes images up to a size."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(-1) <= 12, f"an image of {x.size(-1)} pixels"
        return super().forward(x)


class Largest(Body):
    """``max`` of sizes is a branch, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * max(x.shape[2] / x.shape[3], 1.0)


class Looping(Body):
    """As many layers as the image has rows to spare."""

    def forward(self, x: Tensor) -> Tensor:
        for i in range(x.shape[2] // 2):
            x = x + torch.tanh(self.layers[i](x))
        return x


class Rows(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.stack([row.tanh() for row in x])


class Axes(Body):
    def forward(self, x: Tensor) -> Tensor:
        added = x.dim() == 3
        x = super().forward(x.unsqueeze(0) if added else x)
        return x.reshape(len(x), *(size for size in x.shape[1:]))


class Grids(Body):
    """Every second layer asks for the number of rows, which is the same in any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Grid() for _ in range(6))


class Grid(Pad):
    def forward(self, x: Tensor) -> Tensor:
        side = int(math.sqrt(x.shape[2] * x.shape[3]))
        y = self.conv(x)
        for row in range(side // 4):
            y = y + x[:, :, row : row + 1]
        return y


class Evaluated(Body):
    """Branches on a shape in eval mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and x.shape[-1] != 8:
            x = functional.pad(x, (0, 8 - x.shape[-1]))
        return super().forward(x)


class Assigned(Body):
    """Writes on parts of what it has computed."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x[:, 0, : x.shape[2] // 2] = 0
        y = x.tanh()
        y[..., 1] += x[..., 0]
        return y * x


#: A network, shapes that go the way of ``[2, 3, 8, 8]``, and shapes that go another one.
CASES: dict[str, tuple[type[Body], Shapes, Shapes]] = {
    "skip": (Skip, ((5, 3, 8, 8), (1, 3, 4, 6)), ((2, 3, 9, 8), (2, 3, 8, 11))),
    "padding in modules": (Padded, ((3, 3, 12, 4),), ((2, 3, 9, 8), (2, 3, 8, 10))),
    "assertion": (Bounded, ((1, 3, 6, 12), (2, 3, 20, 3)), ((2, 3, 8, 13),)),
    "maximum": (Largest, ((4, 3, 8, 8), (4, 3, 9, 8)), ((2, 3, 4, 6),)),
    "loop": (Looping, ((1, 3, 8, 5), (4, 3, 9, 8)), ((2, 3, 6, 8), (2, 3, 12, 8))),
    "axes": (Axes, ((5, 3, 4, 8),), ((3, 8, 8),)),
    "number in modules": (Grids, ((5, 3, 8, 8),), ((2, 3, 4, 4),)),
    "evaluation": (Evaluated, ((5, 3, 8, 8),), ()),
    "assignment": (Assigned, ((4, 3, 6, 8),), ()),
    "rows": (Rows, ((2, 3, 5, 6),), ((3, 3, 8, 8),)),
}


def compiled(kind: type[Body], **how: object) -> tuple[ParallelNetwork, nn.Module]:
    torch.manual_seed(0)
    model = kind().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    how = {"method": EXACT, "example_inputs": (x,), **how}
    return pararealize(model, 3, **how), model  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_what_goes_the_same_way_is_exact_and_all_else_an_error(name: str) -> None:
    kind, same, others = CASES[name]
    net, model = compiled(kind)
    assert not net._emission.decisions.partition.chain.whole
    for shape in ((2, 3, 8, 8), *same):
        x = torch.randn(*shape, dtype=torch.float64)
        assert torch.equal(net(x), model(x))
    for shape in others:
        x = torch.randn(*shape, dtype=torch.float64)
        with pytest.raises(ShapeError, match=r"test_shape_guards\.py:\d+ \(.*example_inputs"):
            net(x)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(net(x), model(x))


def test_a_way_of_eval_mode_is_looked_at_in_eval_mode() -> None:
    net, model = compiled(Evaluated)
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    assert torch.equal(net(x), model(x))
    with pytest.raises(ShapeError, match="branches on a size"):
        net.eval()(x)


class Counts(Pad):
    """Loops over the samples of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(x[i : i + 1])[0] for i in range(x.shape[0])])


class Numbers(Pad):
    """Branches on numbers, which no shape tells."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


class Mixed(Body):
    kind: type[nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(self.kind()) for _ in range(6))


@pytest.mark.parametrize("kind", [Counts, Numbers])
def test_modules_that_ask_for_the_batch_or_for_numbers_are_called_whole(
    kind: type[nn.Module],
) -> None:
    net, model = compiled(type("Mixed", (Mixed,), {"kind": kind}))
    assert set(net._emission.decisions.partition.chain.whole) == {f"layers.{i}.0" for i in range(6)}
    for shape in ((2, 3, 8, 8), (5, 3, 6, 8)):
        x = torch.randn(*shape, dtype=torch.float64)
        assert torch.equal(net(x), model(x))


class Deciding(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_a_root_that_branches_on_numbers_is_still_refused() -> None:
    with pytest.raises(TraceError, match=r"test_shape_guards\.py.*x\.sum\(\) > 0"):
        compiled(Deciding)


@pytest.mark.parametrize("kind", [Skip, Padded, Bounded])
def test_shapes_that_are_not_given_are_found(kind: type[Body]) -> None:
    torch.manual_seed(0)
    model = kind()
    net = pararealize(model, 3, method=EXACT)
    (spec,) = net.plan.specs.values()
    x = torch.randn(*spec.shape)
    assert torch.equal(net(x), model(x))
    with pytest.raises(ShapeError, match="branches on a size"):
        net(torch.randn(2, 3, spec.shape[2] + 5, 13))


def test_saved_networks_are_guarded(tmp_path: Path) -> None:
    net, model = compiled(Skip)
    net.save(tmp_path / "net")
    other = load(tmp_path / "net", Skip().double())
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(other(x), model(x))
    with pytest.raises(ShapeError, match="branches on a size"):
        other(torch.randn(2, 3, 9, 8, dtype=torch.float64))


def test_all_ranks_are_told_before_anything_runs() -> None:
    model = Skip().double()
    given = (torch.randn(2, 3, 8, 8, dtype=torch.float64),)

    def work(transport: object) -> str:
        net = pararealize(model, 3, method=EXACT, example_inputs=given, comm=transport)
        with pytest.raises(ShapeError, match="branches on a size") as found:
            net(torch.ones(2, 3, 9, 8, dtype=torch.float64))
        x = torch.ones(2, 3, 4, 8, dtype=torch.float64)
        assert torch.equal(net(x), model(x))
        return str(found.value)

    one, other = all_of(2, work)
    assert one == other
