"""Composites: torch's composite modules as calls of their parts, where a trace could not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn


def unrolled(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """A forward that calls the module's layers one after another, or ``None`` where none is known.

    ``nn.Transformer``, its encoder and its decoder look at their masks' numbers, for hints
    to fast kernels, and pad ragged batches in eval mode. Without padding masks the layers alone
    compute the same.
    """
    if type(module) not in FORWARDS:
        return None
    stack, positional = FORWARDS[type(module)]
    padding = [name for name in kwargs if "padding_mask" in name and kwargs[name] is not None]
    return None if padding or len(args) > positional else partial(stack, module)


def _transformer(
    both: Any,
    src: Any,
    tgt: Any,
    src_mask: Any = None,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
    **_padding: None,
) -> Any:
    memory = both.encoder(src, mask=src_mask, is_causal=src_is_causal)
    masks = {"tgt_mask": tgt_mask, "memory_mask": memory_mask}
    causal = {"tgt_is_causal": tgt_is_causal, "memory_is_causal": memory_is_causal}
    return both.decoder(tgt, memory, **masks, **causal)


def _encoder(
    stack: Any, src: Any, mask: Any = None, is_causal: bool | None = None, **_padding: None
) -> Any:
    for layer in stack.layers:
        src = layer(src, src_mask=mask, is_causal=bool(is_causal))
    return src if stack.norm is None else stack.norm(src)


def _decoder(
    stack: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
    **_padding: None,
) -> Any:
    masks = {"tgt_mask": tgt_mask, "memory_mask": memory_mask}
    causal = {"tgt_is_causal": bool(tgt_is_causal), "memory_is_causal": memory_is_causal}
    for layer in stack.layers:
        tgt = layer(tgt, memory, **masks, **causal)
    return tgt if stack.norm is None else stack.norm(tgt)


#: Forwards, and how many of their arguments come before the padding masks.
FORWARDS: Mapping[type[nn.Module], tuple[Callable[..., Any], int]] = {
    nn.Transformer: (_transformer, 5),
    nn.TransformerEncoder: (_encoder, 2),
    nn.TransformerDecoder: (_decoder, 4),
}
