"""Layout: whether states of three axes are ``[batch, channels, positions]``, seen at the layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn import functional

from pararealize.coarse.setting import Setting
from pararealize.ir.chain import State
from pararealize.ir.program import Operation
from pararealize.propagators.generic import SERIES

#: Layers of a series' channels, and such of a sequence's features, which are the last axis.
CHANNELS = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
)
FEATURES = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.Embedding),
    *(nn.RNNBase, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
OF_CHANNELS = (functional.conv1d, functional.conv_transpose1d, functional.batch_norm)
OF_FEATURES = (functional.linear, functional.layer_norm)
#: Names of what brings one layout to the other.
TURNS = frozenset(("transpose", "transpose_", "permute", "swapaxes", "swapdims", "t", "mT"))


def is_series(setting: Setting, state: State, layer: int) -> bool:
    """Whether a state before ``layer`` has three axes, channels before positions."""
    return any(len(s.shape) == SERIES for s in state) and has_channels_first(setting, layer)


def has_channels_first(setting: Setting, layer: int) -> bool:
    """Whether the nearest layer that tells reads the state before ``layer`` so.

    What follows is asked first, then what came before; an operation that turns axes on the way
    turns the answer.
    """

    def found() -> bool:
        after = (o for s in setting.segments[layer:] for o in s.operations)
        before = (o for s in reversed(setting.segments[:layer]) for o in reversed(s.operations))
        for operations in (after, before):
            answer = _nearest(setting.model, operations)
            if answer is not None:
                return answer
        return False

    return setting.once(("channels first", layer), found)


def _nearest(model: nn.Module, operations: Iterable[Operation]) -> bool | None:
    turned = False
    for operation in operations:
        told = _told(model, operation)
        if told is not None:
            return told ^ turned
        name = operation.target if isinstance(operation.target, str) else ""
        name = name or getattr(operation.target, "__name__", "")
        turned ^= operation.kind in {"function", "method"} and name in TURNS
    return None


def _told(model: nn.Module, operation: Operation) -> bool | None:
    """Whether an operation says that channels come first; ``None`` where it says nothing."""
    if operation.kind == "module":
        for module in model.get_submodule(operation.target).modules():
            if isinstance(module, (*CHANNELS, *FEATURES)):
                return isinstance(module, CHANNELS)
    if operation.target in OF_CHANNELS:
        return True
    return False if operation.target in OF_FEATURES else None
