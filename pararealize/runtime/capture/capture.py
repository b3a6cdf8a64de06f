"""Capture: one call that makes graphs of a network's answers, or of its training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.runtime.capture.call import is_apart, runners_in
from pararealize.runtime.capture.compile_options import Asked
from pararealize.runtime.capture.cuda import CudaDevice
from pararealize.runtime.capture.device import Device
from pararealize.runtime.capture.mover import StepOptions
from pararealize.runtime.capture.network import CapturedNetwork
from pararealize.runtime.capture.piecewise import PiecewiseNetwork, PiecewiseStep
from pararealize.runtime.capture.step import CapturedStep


def capture(
    network: nn.Module,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] = MappingProxyType({}),
    *,
    device: Device | None = None,
    graphs: int = 8,
    strict: bool = False,
    copies: bool = True,
    watches: bool = True,
    compile_pieces: Asked = False,
    fold_norms: bool = False,
) -> CapturedNetwork | PiecewiseNetwork:
    """A network's answers by CUDA graphs, its subnetworks on streams side by side.

    ``fast = capture(net, (x,))``, then ``fast(x)`` as ``net(x)``, without gradients; also of a
    serial module, to compare with. On several devices or ranks every subnetwork is a graph.

    Args:
        network: on the current CUDA device.
        example_inputs: what the first graph is captured for; without them, the second call with
            the same shapes captures.
        example_kwargs: the same by name.
        device: what it is captured on; a :class:`Rehearsal` needs no CUDA.
        graphs: how many are kept, one for each set of shapes; the one used longest ago goes.
        strict: raise where there is no graph, instead of running without one.
        copies: hand out copies; otherwise the next call overwrites the answer.
        watches: look, at every call, for what graphs would miss: weights that lie elsewhere,
            modules, hooks, modes and attributes that have changed.
        compile_pieces: compile what lanes run, pieces of equal structure once: ``True``, a mode of
            ``torch.compile``, or its keywords ``backend``, ``mode``, ``options``.
        fold_norms: make BatchNorm in eval mode a part of the convolutions before it: fewer kernels,
            and answers that are equal but for rounding.

    Raises:
        MethodError: there is no CUDA device, an argument or the network lies elsewhere, a graph is
            being recorded already, or the network cannot be captured.

    """
    device = _checked(network, device)
    if fold_norms and not runners_in([network]):
        raise MethodError(
            "capture: fold_norms=True folds in the pieces of networks that pararealize has made, "
            f"and this is a {type(network).__name__}: leave it out, or fold before with "
            "torch.nn.utils.fusion.fuse_conv_bn_eval."
        )
    kind = PiecewiseNetwork if is_apart(network) else CapturedNetwork
    found = kind(
        network,
        device,
        graphs=graphs,
        strict=strict,
        copies=copies,
        watches=watches,
        compile_pieces=compile_pieces,
        fold_norms=fold_norms,
    )
    if example_inputs or example_kwargs:
        found.prepare(*example_inputs, **example_kwargs)
    return found


def capture_step(
    network: nn.Module,
    loss: Callable[..., Tensor],
    example_tensors: Sequence[Tensor] = (),
    *,
    device: Device | None = None,
    graphs: int = 8,
    strict: bool = False,
    watches: bool = True,
    compile_pieces: Asked = False,
    **options: Any,
) -> CapturedStep | PiecewiseStep:
    """A training step by CUDA graphs, its subnetworks on streams side by side.

    With ``step = capture_step(net, loss, optimizer=optimizer)``, ``value = step(x, y)`` is forward,
    ``loss(net(x), y)``, backward, clipping and the optimizer's step. Other arguments are those of
    :func:`capture`.

    Args:
        network: on the current CUDA device.
        loss: of the output and of what follows the network's inputs in a call, to one number.
        example_tensors: what the first graph is captured for: inputs, then targets.
        device: what it is captured on.
        graphs: how many are kept.
        strict: raise where there is no graph, instead of running without one.
        watches: look for what graphs would miss.
        compile_pieces: compile what lanes run, forward and backward.
        options: those of :class:`StepOptions`: ``optimizer``, ``max_norm``, ``autocast``,
            ``scaler``, ``accumulate``, ``inputs``.

    Raises:
        MethodError: as :func:`capture` says, or an option has a value that it cannot take.

    """
    device = _checked(network, device)
    kind = PiecewiseStep if is_apart(network) else CapturedStep
    found = kind(
        network,
        loss,
        device,
        StepOptions(**options),
        graphs=graphs,
        strict=strict,
        watches=watches,
        compile_pieces=compile_pieces,
    )
    if example_tensors:
        found.prepare(*example_tensors)
    return found


def _checked(network: nn.Module, device: Device | None) -> Device:
    """The device, where the network can be captured on it.

    Raises:
        MethodError: it cannot.

    """
    device = CudaDevice() if device is None else device
    if is_apart(network):
        return device
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not device.holds(tensor):
            raise MethodError(
                f"capture: {name} lies on {tensor.device}, and the network is captured on another "
                'device: write net.to("cuda") first.'
            )
    for runner in runners_in([network]):
        _ = runner.lanes  # raises where there are none
    return device
