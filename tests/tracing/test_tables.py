"""Tables that a module keeps, cut to sizes of the inputs: other sizes are cut anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
Use = Callable[[Tensor, int, int], Tensor]

#: A table ``[12, 4]`` cut to ``n`` rows, or to those of ``m`` samples; all give ``[…, n, 4]``.
USES: dict[str, Use] = {
    "slice": lambda table, n, _m: table[:n],
    "last rows": lambda table, n, _m: table[-n:],
    "steps": lambda table, n, _m: table[: 2 * n : 2],
    "tuple": lambda table, n, _m: table[None, :n, :],
    "one row": lambda table, n, _m: table[n].unsqueeze(0),
    "ellipsis": lambda table, n, _m: table.T[..., :n].T,
    "narrow": lambda table, n, _m: table.narrow(0, 1, n),
    "torch.narrow": lambda table, n, _m: torch.narrow(table, 0, 1, n),
    "torch.roll": lambda table, n, _m: torch.roll(table, n, 0)[:1],
    "tile": lambda table, n, m: torch.tile(table[:1], (m, n, 1)),
    "view": lambda table, n, _m: table.view(12, 4)[-1].expand((n, 4)),
    "expand": lambda table, n, _m: table[:1].expand(n, 4),
    "repeat": lambda table, n, m: table[:1].repeat(m, n, 1),
    "new_full": lambda table, n, _m: table.new_full((n, 1), 0.5),
    "select": lambda table, n, _m: table.select(0, n)[None],
    "roll": lambda table, n, _m: table.roll(n, 0)[:1],
}


class Tabled(nn.Module):
    """Adds some of a table between layers; the table is an attribute, or a buffer."""

    def __init__(self, use: Use, *, buffer: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.use, table = use, torch.randn(12, 4, dtype=torch.float64)
        if buffer:
            self.register_buffer("table", table)
        else:
            self.table = table

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        added = self.use(self.table, length, batch)
        for layer in self.layers:
            x = torch.tanh(layer(x)) + added
        return x


def rows() -> Iterator[Any]:
    """Every use of a plain tensor, and two of a buffer; the first four and those are a sample."""
    for i, name in enumerate(USES):
        yield pytest.param(name, False, marks=[pytest.mark.rest] * (i > 3))
    yield from (("slice", True), ("expand", True))


@pytest.mark.parametrize(("name", "buffer"), [*rows()])
def test_a_table_is_cut_to_the_sizes_of_every_call(name: str, *, buffer: bool) -> None:
    torch.manual_seed(0)
    model = Tabled(USES[name], buffer=buffer).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(torch.randn(2, 3, 4).double(),))
    for batch, length in ((2, 3), (3, 3), (2, 5), (1, 4)):
        x = torch.randn(batch, length, 4, dtype=torch.float64)
        assert torch.equal(net(x), model(x))


def test_methods_of_tensors_are_what_they_were() -> None:
    before = [getattr(Tensor, name) for name in ("__getitem__", "expand", "new_zeros")]
    model = Tabled(USES["slice"], buffer=False).double()
    pararealize(model, 3, method=EXACT, example_inputs=(torch.randn(2, 3, 4).double(),))
    assert [getattr(Tensor, name) for name in ("__getitem__", "expand", "new_zeros")] == before
    assert "expand" not in vars(Tensor)
