"""Randomness: which operations may draw random numbers."""

from __future__ import annotations

from torch import nn

from pararealize.ir.program import Operation, Segment
from pararealize.propagators.paths import parts_of, submodule
from pararealize.runtime.effects.statistics import is_torchs

RANDOM_FUNCTIONS = frozenset(
    {
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "rrelu"),
        *("feature_alpha_dropout", "dropout_", "rand", "randn", "rand_like", "randn_like"),
        *("bernoulli", "bernoulli_", "normal", "normal_", "uniform_", "multinomial", "randint"),
        *("randperm", "gumbel_softmax", "stochastic_depth", "scaled_dot_product_attention"),
        *("multi_head_attention_forward", "drop_path", "randint_like", "exponential_"),
    }
)


def is_random(segment: Segment, root: nn.Module) -> bool:
    """Whether the segment may draw random numbers; unknown modules may."""
    return any(_draws(operation, root) for operation in segment.operations)


def _draws(operation: Operation, root: nn.Module) -> bool:
    if operation.draws or operation.kind == "network":
        return True
    if operation.kind == "module":
        return module_draws(submodule(root, operation.target))
    return operation.call in RANDOM_FUNCTIONS


def module_draws(module: nn.Module) -> bool:
    """Whether a module may draw random numbers: dropout-like ones, and any not from torch."""
    drawing, able = (nn.modules.dropout._DropoutNd, nn.RReLU), (nn.MultiheadAttention, nn.RNNBase)
    return any(
        isinstance(part, drawing)
        or (isinstance(part, able) and bool(part.dropout))
        or not is_torchs(part)
        for part in parts_of(module)
    )
