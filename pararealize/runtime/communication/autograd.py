"""Autograd: messages as nodes of the autograd graph.

Autograd runs the nodes that are ready in the reverse order of their making. A state is received
after the subnetwork behind it has run, so that in the backward pass its adjoint is sent before the
backward pass of that subnetwork begins::

    forward   entry  guess  fine  receive  jump  coarse  send  shared output
    backward  shared output  receive λ  coarse'  jump'  send λ  fine'  guess'  entry

Autograd leaves out nodes that lead to nothing that is asked for, and a rank without them would
leave others waiting. So every node here leads to the entry by its *anchor*, the entry to all that
may be asked for, and every *token* to what is differentiated: all run whenever one runs. A backward
pass that is to be differentiated again (``create_graph``) is made of the same nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pararealize.runtime.communication.endpoint import Call
from pararealize.runtime.communication.passage import Passage


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor can have a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


class Entry(torch.autograd.Function):
    """What a call starts from; every rank gets the sum of the gradients that all ranks found.

    The first ``count`` of the tensors are inputs that want a gradient, the others this rank's
    weights. Returns the anchor, then the inputs.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, count: int, leaf: Tensor, *tensors: Tensor) -> Any:
        """The anchor, and the inputs."""
        ctx.call, ctx.weights = call, tensors[count:]
        return leaf.new_zeros(()), *(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, _anchor: Tensor, *gradients: Tensor) -> tuple[Any, ...]:
        """The summed gradients of inputs; to be differentiated, all are tied to what was sent."""
        call, tokens = ctx.call, ctx.call.collected()
        if not torch.is_grad_enabled():
            sums = [call.transport.sum(gradient) for gradient in gradients]
            return None, None, None, *sums, *map(_nothing_for, ctx.weights)
        zero, *sums = SummedGradient.apply(call, len(gradients), *gradients, *tokens)  # type: ignore[no-untyped-call]
        tied = (zero.to(weight).expand_as(weight) for weight in ctx.weights)
        return None, None, None, *sums, *tied


def _nothing_for(weight: Tensor) -> Tensor | None:
    """No gradient; a hook of a weight that nothing used would not expect to be called with none."""
    return torch.zeros_like(weight) if weight._backward_hooks else None


class SummedGradient(torch.autograd.Function):
    """Sums over the ranks, which all of them differentiate alike."""

    @staticmethod
    def forward(ctx: Any, call: Call, count: int, *tensors: Tensor) -> Any:
        """Zero, then the sums of the first ``count``; the others are tokens."""
        ctx.call, ctx.count, ctx.tokens = call, count, len(tensors) - count
        return torch.zeros(()), *(call.transport.sum(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, _zero: Tensor, *gradients: Tensor) -> tuple[Any, ...]:
        """The gradient, of each rank's share alike."""
        ctx.call.begin_derivative()
        return None, None, *gradients, *(None,) * ctx.tokens


class SentState(torch.autograd.Function):
    """A state has left; its adjoint comes back. Returns a token that ties it to the output."""

    @staticmethod
    def forward(ctx: Any, passage: Passage, anchor: Tensor, *_tensors: Tensor) -> Tensor:
        """Note the state that was sent."""
        ctx.passage = passage
        ctx.save_for_backward(anchor)
        return anchor.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _token: Tensor) -> tuple[Any, ...]:
        """Wait for the adjoint."""
        (anchor,) = ctx.saved_tensors
        found: Any = ReceivedState.apply(ctx.passage.next, anchor)  # type: ignore[no-untyped-call]
        return None, None, *found


class ReceivedState(torch.autograd.Function):
    """A state arrives; its adjoint is sent back."""

    @staticmethod
    def forward(ctx: Any, passage: Passage, anchor: Tensor) -> tuple[Tensor | None, ...]:
        """Wait for the state."""
        ctx.passage = passage
        ctx.save_for_backward(anchor)
        tensors = passage.take()
        leaves = zip(tensors, passage.form.tensors, strict=True)
        exact = [t for t, leaf in leaves if t is not None and not leaf.differentiable]
        ctx.mark_non_differentiable(*exact)
        return tensors

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[None, ...]:
        """Send the adjoint."""
        (anchor,) = ctx.saved_tensors
        passage = ctx.passage.next
        passage.send(adjoints)
        if torch.is_grad_enabled():
            token = SentState.apply(passage, anchor, *adjoints)  # type: ignore[no-untyped-call]
            passage.call.keep_token(token)
        return None, None


class SharedOutput(torch.autograd.Function):
    """The output on every rank: its gradient counts where it was ``made``, and wakes all ranks.

    So does that of a sum over the ranks, which counts everywhere. ``counts`` are how many of the
    tensors are the output's, and how many after them are shares, of which each rank has its own
    and all get the sum; the others are tokens of what has to run backward with the output.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, made: bool, counts: tuple[int, int], *tensors: Tensor) -> Any:
        """The output's tensors, the sums of those that are shares, and a token of itself."""
        count, shares = counts
        ctx.call, ctx.made, ctx.count = call, made, count
        ctx.tokens = len(tensors) - count - shares
        sums = (call.transport.sum(share) for share in tensors[count : count + shares])
        token = torch.zeros(())
        results = (*(tensor.clone() for tensor in tensors[:count]), *sums, token)
        ctx.mark_non_differentiable(*(r for r in results if not is_real(r)))
        ctx.save_for_backward(token)  # asked for before anything is sent: was the graph freed?
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """The gradient, where the output was made."""
        (token,) = ctx.saved_tensors
        output, shares = gradients[: ctx.count], gradients[ctx.count : -1]
        ctx.call.begin_backward(output)
        mine = _counted(ctx.call, ctx.made, token, output)
        return (None, None, None, *mine, *shares, *(None,) * ctx.tokens)


class CountedWhereMade(torch.autograd.Function):
    """Gradients that count on one rank, though all have them; so have all their derivatives."""

    @staticmethod
    def forward(ctx: Any, call: Call, made: bool, root: Tensor, *gradients: Tensor) -> Any:
        """A token, then the gradients; ``root`` is what has to run backward after this."""
        ctx.call, ctx.made = call, made
        return root.new_zeros(()), *(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _token: Tensor, *cotangents: Tensor) -> tuple[Any, ...]:
        """What the rank that counts has found, on all ranks."""
        own = (each if ctx.made else torch.zeros_like(each) for each in cotangents)
        return (None, None, None, *(ctx.call.transport.sum(each) for each in own))


def _counted(
    call: Call, made: bool, root: Tensor, gradients: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    if torch.is_grad_enabled():
        real = [gradient for gradient in gradients if is_real(gradient)]
        token, *results = CountedWhereMade.apply(call, made, root, *real)  # type: ignore[no-untyped-call]
        call.keep_token(token)
        found = iter(results)
        gradients = [next(found) if is_real(gradient) else gradient for gradient in gradients]
    return gradients if made else (None,) * len(gradients)
