"""A configuration says what a network takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize.cost.described import described


class Words(nn.Module):
    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
        return input_ids if decoder_input_ids is None else decoder_input_ids


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values * self.weight


@pytest.mark.parametrize(
    ("model", "config", "wanted"),
    [
        (Words(), {"vocab_size": 9}, {"input_ids": "[2, 16] int64"}),
        (Words(), {"vocab_size": 9, "max_position_embeddings": 5}, {"input_ids": "[2, 5] int64"}),
        (
            Words(),
            {"vocab_size": 9, "is_encoder_decoder": True},
            dict.fromkeys(("input_ids", "decoder_input_ids"), "[2, 16] int64"),
        ),
        (
            Pictures(),
            {"image_size": 8, "num_channels": 3},
            {"pixel_values": "[2, 3, 8, 8] float64"},
        ),
        (
            Pictures(),
            {"image_size": (8, 4), "num_channels": 1},
            {"pixel_values": "[2, 1, 8, 4] float64"},
        ),
        (Pictures(), {"num_channels": 3}, None),
        (Words(), {"image_size": 8, "num_channels": 3}, None),
    ],
)
def test_inputs_are_read_off(model: Any, config: dict[str, Any], wanted: Any) -> None:
    model.config = SimpleNamespace(**config)
    found = described(model)
    assert (found and {name: str(spec) for name, spec in found.items()}) == wanted


def test_a_network_without_a_configuration_says_nothing() -> None:
    assert described(nn.Linear(3, 3)) is None
