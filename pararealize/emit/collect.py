"""Collect: from the ranks that hold them, what belongs to the whole network."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.emit.adoption import is_added
from pararealize.emit.emission import Emission, Share
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport
from pararealize.tracing.copying import copy_tree


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by every name that it has."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def serial_copy(emission: Emission) -> nn.Module:
    """A copy of the serial network with today's weights; on ranks, all call it."""
    if emission.share is not None:
        return _collected(emission.share, emission.serial)
    serial = copy_tree(emission.serial)
    for prefix in emission.registries:
        serial._modules.pop(prefix, None)
    return serial


def _collected(share: Share, serial: nn.Module) -> nn.Module:
    """The whole serial network with the tensors and modes that the ranks hold; all call it."""
    agree(share.transport, "collects the whole network (to_serial)")
    tensors = {name: t for name, t in named_tensors(serial) if not is_added(name)}
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    own = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    modes = {name: module.training for name, module in serial.named_modules()}
    parts = share.transport.exchange((own, modes, dict(_extra_states(serial))))
    whole = copy.deepcopy(share.skeleton)
    twins: dict[int, tuple[Tensor, Tensor]] = {}
    for tensors, *_ in parts:
        _fill(whole, tensors, device, twins)
    for name, module in whole.named_modules():
        known = [modes[name] for _, modes, _ in parts if name in modes]
        module.training = known[0] if known else module.training
        for extra in [extra[name] for *_, extra in parts if name in extra][:1]:
            module.set_extra_state(extra)
    return whole


def _extra_states(serial: nn.Module) -> Iterator[tuple[str, Any]]:
    """What modules write into a checkpoint besides tensors, of those that do."""
    for name, module in serial.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield name, module.get_extra_state()


def _fill(
    whole: nn.Module,
    tensors: dict[str, Tensor],
    device: torch.device,
    twins: dict[int, tuple[Tensor, Tensor]],
) -> None:
    """Put a rank's tensors in place of empty ones; ``twins`` are those of one empty tensor."""
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        owner = whole.get_submodule(path)
        old = getattr(owner, key)
        if id(old) not in twins:
            new = tensor.to(device)
            is_parameter = isinstance(old, nn.Parameter)
            made = nn.Parameter(new, old.requires_grad) if is_parameter else new
            twins[id(old)] = twins[id(made)] = old, made
        setattr(owner, key, twins[id(old)][1])


def weights_digest(module: nn.Module) -> str:
    """Equal for equal weights, buffers and names."""
    found = hashlib.blake2b()
    for name, tensor in named_tensors(module):
        found.update(name.encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(numbers.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def share_weights(module: nn.Module, transport: Transport) -> None:
    """Give every rank the weights of rank 0, where they differ; all call it.

    It is here that all ranks begin to compile a network, and so where it gets its number.
    """
    digests, counts = zip(
        *transport.exchange((weights_digest(module), transport.networks)), strict=True
    )
    transport.networks = max(counts) + 1
    if len(set(digests)) == 1:
        return
    for _, tensor in named_tensors(module):
        numbers = tensor.detach().reshape(-1).contiguous()
        if transport.rank == 0:
            for peer in range(1, transport.size):
                transport.send(numbers, peer, 0)
        else:
            transport.receive(numbers, 0, 0)()
            with torch.no_grad():
                tensor.copy_(numbers.view_as(tensor))
