"""Steps that are compared work with whatever a rank has."""

from __future__ import annotations

import torch
from torch import Tensor

from pararealize.cli.variants import step


def test_a_rank_whose_layers_have_no_weights_takes_part() -> None:
    x = torch.ones(2, 3, requires_grad=True)

    def forward() -> Tensor:
        return 2 * x

    assert step(forward, [], training=True)() == step(forward, [], training=False)() == 4.0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 8 / 6))  # the mean of 4 x² over six numbers
