"""Described: the inputs of a network whose configuration says what they are."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from pararealize.cost.inputs import BATCH
from pararealize.ir.chain import TensorSpec

#: Tokens in a sequence, where as many have positions.
TOKENS = 16


def described(model: nn.Module) -> dict[str, Any] | None:
    """Specs of the arguments of one call, by the network's ``config``, or ``None``.

    ``input_ids [2, tokens]`` where it has a ``vocab_size``, with ``decoder_input_ids`` where it is
    an encoder with a decoder; ``pixel_values [2, channels, height, width]`` where it has an
    ``image_size``. Networks of ``transformers`` have such a configuration.
    """
    config: Any = getattr(model, "config", None)
    takes = inspect.signature(model.forward).parameters
    first = next(iter(takes), "")
    if first == "input_ids" and _is_count(getattr(config, "vocab_size", None)):
        positions: Any = getattr(config, "max_position_embeddings", None)
        length = min(TOKENS, positions) if _is_count(positions) else TOKENS
        pair = getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes
        names = ("input_ids", "decoder_input_ids") if pair else ("input_ids",)
        return dict.fromkeys(names, TensorSpec((BATCH, length), torch.int64))
    size: Any = getattr(config, "image_size", None)
    channels: Any = getattr(config, "num_channels", None)
    if first == "pixel_values" and size and _is_count(channels):
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return {first: TensorSpec((BATCH, channels, height, width), _dtype(model))}
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)
