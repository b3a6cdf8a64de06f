"""What is seen of a coarse network on zeros."""

import pytest
import torch
from torch import Tensor, nn

from pararealize.coarse.kind import is_zero_preserving
from pararealize.ir.chain import TensorSpec


class Noisy(nn.Module):
    """Without weights; of its two leaves one may hold no numbers."""

    def forward(self, _other: Tensor, x: Tensor) -> Tensor:
        return x * torch.randn_like(x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_leaves_keep_their_kinds_where_there_are_no_weights(dtype: torch.dtype) -> None:
    specs = (TensorSpec((4,), dtype), TensorSpec((4, 4), torch.float64))
    assert is_zero_preserving(Noisy(), specs)
