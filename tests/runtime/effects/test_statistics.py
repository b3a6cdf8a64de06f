"""What an evaluation moves is put back, and marks that something was done once are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pararealize.runtime.effects.statistics import frozen_statistics


class Counting(nn.Module):
    """Does something once, as networks of ``transformers`` put hooks on their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.total += x.sum()
        self.latest, self.off, self.done = x, False, True
        return x


@pytest.mark.parametrize("marks", [True, False])
def test_what_moves_is_put_back_but_for_marks(marks: bool) -> None:
    module = Counting()
    with frozen_statistics([module], marks=marks):
        module(torch.ones(3))
        assert (module.count, module.total.item()) == (1, 3.0)
    assert (module.count, module.total.item()) == (0, 0.0)
    assert not hasattr(module, "latest")
    assert not hasattr(module, "off")
    assert hasattr(module, "done") is marks
