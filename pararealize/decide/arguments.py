"""Arguments: what :func:`pararealize` is told, of the types that it can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pararealize.errors import CutError, MethodError, TraceError
from pararealize.ir.options import shown
from pararealize.ir.plan import Machine


def check_arguments(
    interfaces: Any, leaf_modules: Any, concrete_args: Any, blocks: Any, machine: Any
) -> None:
    """Raise where an argument is nothing of its kind.

    Raises:
        PararealizeError: names it, and shows the line to write.

    """
    if interfaces is not None and not _is_list(interfaces, str):
        raise CutError(
            f"interfaces={shown(interfaces)}: expected the names of modules to cut after, for "
            "example interfaces=['layer1', 'layer2']."
        )
    if not _is_list(leaf_modules, (str, type)):
        raise TraceError(
            f"leaf_modules={shown(leaf_modules)}: expected names or classes of modules, for "
            "example leaf_modules=['encoder', MyLayer]."
        )
    if concrete_args is not None and not isinstance(concrete_args, Mapping):
        raise TraceError(
            f"concrete_args={shown(concrete_args)}: expected values by the names of arguments, "
            "for example concrete_args={'return_dict': False}."
        )
    if blocks is not None and not isinstance(blocks, str):
        raise TraceError(
            f"blocks={shown(blocks)}: expected the name of a list of blocks, for example "
            "blocks='transformer.h'."
        )
    if machine is not None and not isinstance(machine, Machine):
        raise MethodError(
            f"machine={shown(machine)}: expected a Machine, for example "
            "machine=Machine(flops_per_second=1e12)."
        )


def _is_list(value: Any, kinds: type | tuple[type, ...]) -> bool:
    listed = isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (str, bytes))
    return listed and all(isinstance(each, kinds) for each in value)


def devices_of(devices: Sequence[str | torch.device] | None) -> tuple[torch.device, ...]:
    """The devices that names stand for.

    Raises:
        MethodError: one is the name of none.

    """
    try:
        return tuple(torch.device(device) for device in devices or ())
    except (TypeError, RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise MethodError(
            f"devices={shown(devices)}: expected names of devices ({reason}), for example "
            "devices=['cuda:0', 'cuda:1']."
        ) from error
