"""Warped residual networks: two residual units side by side, by a first-order expansion.

Fok, An, Rashidi and Wang, "Decoupling the Layers in Residual Networks" (ICLR 2018).
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .resnet import ResNet


def warp(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
    """Both residual units at `x`, the second one expanded to first order.

    With `first(x) = x + f1(x)` and `second(x) = x + f2(x)` this is
    `x + f1(x) + f2(x) + f2'(x) f1(x)`, which differs from `second(first(x))` by `O(|f1|^2)`.
    Neither unit waits for the other's value; the derivative is forward-mode automatic
    differentiation of the one evaluation of `second`, so that its batch statistics move once, by
    those of what it would see after `first`, to first order.
    Units of convolutions, linear layers, activations and batch normalisation; other normalisations
    raise `NotImplementedError`, as attention does.
    """
    if torch.is_inference_mode_enabled():
        # Forward derivatives are lost in it without a word.
        with torch.inference_mode(False), torch.no_grad():
            return warp(first, second, x.clone())
    step = first(x) - x
    with forward_ad.dual_level(), _Differentiable():
        value, change = forward_ad.unpack_dual(second(forward_ad.make_dual(x, step)))
        # Where the second unit does not depend on its input, there is no derivative.
        warped: Tensor = value if change is None else value + change
    return warped


@final
class WarpedStage(nn.Sequential):
    """Residual blocks of one shape, the first one alone, then two at a time by `warp`.

    The first one changes the shape; where the number of the others is odd, the last is alone. The
    names of the weights are those of an `nn.Sequential` of the blocks.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map maps of a batch as the blocks one after another do, to first order."""
        first, *blocks = self
        x = first(x)
        for i in range(0, len(blocks) - 1, 2):
            x = warp(blocks[i], blocks[i + 1], x)
        last: Tensor = blocks[-1](x) if len(blocks) % 2 else x
        return last


@final
class WarpNet(ResNet):
    """A pre-activation ResNet whose blocks are warped in pairs (ICLR 2018), K = 2.

    It has the weights of the :class:`ResNet` of the same depth, under the same names.
    """

    def __init__(
        self, depth: int, *, classes: int = 10, channels: int = 3, width: int = 16
    ) -> None:
        super().__init__(depth, classes=classes, channels=channels, width=width)
        self.layer1 = WarpedStage(*self.layer1)
        self.layer2 = WarpedStage(*self.layer2)
        self.layer3 = WarpedStage(*self.layer3)


def warpnet(depth: int, *, classes: int = 10, channels: int = 3, width: int = 16) -> WarpNet:
    """Warped pre-activation ResNet (ICLR 2018) of any depth `9k + 2`: 38, 56, 110, ..., 1001."""
    return WarpNet(depth, classes=classes, channels=channels, width=width)


@final
class _Differentiable(TorchFunctionMode):
    """A block in which forward derivatives can be differentiated again.

    Torch takes the mean and the deviation of a normalisation as constants there: gradients would
    be wrong. Batch normalisation is put together of sums and products instead.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        if func in _NORMALISATIONS:
            raise NotImplementedError(
                f"a warped unit has batch normalisation or none, not {func.__name__}, whose "
                "forward derivative torch does not differentiate again"
            )
        kind = _batch_norm if func is functional.batch_norm else func
        return kind(*args, **(kwargs or {}))


#: Of these torch has forward derivatives with constants that are none.
_NORMALISATIONS = (
    functional.layer_norm,
    functional.group_norm,
    functional.instance_norm,
    functional.rms_norm,
    functional.local_response_norm,
)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm`, of operations each of which has all derivatives."""
    if not training:
        normal: Tensor = functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
        return normal
    dims = [i for i in range(x.dim()) if i != 1]
    shape = [-1 if i == 1 else 1 for i in range(x.dim())]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            value, change = forward_ad.unpack_dual(x)
            # What the unit would see after the first one; without the change answers in eval mode
            # would not be those of train mode.
            seen = value if change is None else value + change
            running_mean.lerp_(seen.mean(dims), momentum)
            running_var.lerp_(seen.var(dims), momentum)
    centred = x - x.mean(dims, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    scaled = normal if weight is None else normal * weight.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)
