"""Autograd: messages as nodes of the autograd graph.

Autograd runs the nodes that are ready in the reverse order of their making. A state is received
after the subnetwork behind it has run, so that in the backward pass its adjoint is sent before the
backward pass of that subnetwork begins::

    forward   guess  fine  receive  jump  coarse  send
    backward  receive λ  coarse'  jump'  send λ  fine'  guess'
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pararealize.runtime.communication.endpoint import Call, Message
from pararealize.runtime.values.form import Form


class SentState(torch.autograd.Function):
    """A state leaves; its adjoint comes back. Returns a token that ties it to the output."""

    @staticmethod
    def forward(ctx: Any, call: Call, message: Message, form: Form, *tensors: Tensor) -> Tensor:
        """Note the state that was sent; the anchor is the last of the tensors."""
        ctx.call, ctx.message, ctx.form = call, message, form
        return tensors[-1].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _token: Tensor) -> tuple[Any, ...]:
        """Wait for the adjoint."""
        adjoints = ctx.call.take_adjoint(ctx.message, ctx.form)
        return (None, None, None, *adjoints, None)


class ReceivedState(torch.autograd.Function):
    """A state arrives; its adjoint is sent back."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, message: Message, form: Form, _anchor: Tensor
    ) -> tuple[Tensor, ...]:
        """Wait for the state."""
        ctx.call, ctx.message, ctx.form = call, message, form
        tensors = call.take(message)
        leaves = zip(tensors, form.tensors, strict=True)
        ctx.mark_non_differentiable(*(t for t, leaf in leaves if not leaf.differentiable))
        return tensors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[None, ...]:
        """Send the adjoint."""
        ctx.call.send_adjoint(ctx.message, ctx.form, adjoints)
        return (None, None, None, None)


class SharedInput(torch.autograd.Function):
    """An input that wants a gradient: every rank gets the sum of what all ranks found."""

    @staticmethod
    def forward(ctx: Any, call: Call, tensor: Tensor) -> Tensor:
        """The input."""
        ctx.call = call
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """The summed gradient."""
        return None, ctx.call.transport.sum(gradient)


class SharedOutput(torch.autograd.Function):
    """The output on every rank: its gradient counts where it was ``made``, and wakes all ranks.

    So does that of a sum over the ranks, which counts everywhere. ``counts`` are how many of the
    tensors are the output's, and how many after them are shares, of which each rank has its own
    and all get the sum; the others are tokens of what has to run backward with the output.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, made: bool, counts: tuple[int, int], *tensors: Tensor) -> Any:
        """The output's tensors, then the sums of those that are shares; others are tied to them."""
        count, shares = counts
        ctx.call, ctx.made, ctx.count = call, made, count
        ctx.tokens = len(tensors) - count - shares
        sums = (call.transport.sum(share) for share in tensors[count : count + shares])
        results = (*(tensor.clone() for tensor in tensors[:count]), *sums)
        exact = [r for r in results if not (r.is_floating_point() or r.is_complex())]
        ctx.mark_non_differentiable(*exact)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """The gradient, where the output was made."""
        ctx.call.begin_backward()
        output, shares = gradients[: ctx.count], gradients[ctx.count :]
        mine = output if ctx.made else (None,) * ctx.count
        return (None, None, None, *mine, *shares, *(None,) * ctx.tokens)
