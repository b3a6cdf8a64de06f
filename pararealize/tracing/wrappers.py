"""Wrappers: networks that others have put something around, and what is inside."""

from __future__ import annotations

from typing import Any

from torch import nn

from pararealize.errors import TraceError
from pararealize.tracing.uncut import compiled


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers, whose names its checkpoints have.

    ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrap a network; what runs it
    in parallel, or compiles it, is to be put around the compiled one. ``peft`` puts adapters into
    the layers of a network and itself around it.

    Raises:
        TraceError: the wrapper does more than hand its arguments on, or has sharded the weights.

    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif (inner := compiled(model)) is not None:
            model = inner
        elif is_a(model, "peft", "PeftModel"):
            model = _without_adapters_around(model)
        else:
            return model


def is_a(value: object, package: str, *names: str) -> bool:
    """Whether a value's class, or one that it inherits from, is called so in a package."""
    kinds = type(value).__mro__
    return any(k.__name__ in names and k.__module__.split(".")[0] == package for k in kinds)


def check_whole(model: object) -> None:
    """Raise where each rank holds a part of every weight.

    Raises:
        TraceError: says which module, and what to write.

    """
    sharded = ("FSDPModule", "FullyShardedDataParallel")
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        parts = (p for p in module._parameters.values() if is_a(p, "torch", "DTensor"))
        if is_a(module, "torch", *sharded) or next(parts, None) is not None:
            raise TraceError(
                f"the weights of {path or type(module).__name__!r} are sharded, so that each rank "
                "holds a part of every layer: compile the network before it is sharded, net = "
                "pararealize(model, n, comm=group), whose ranks hold the weights of their own "
                "subnetworks only."
            )


def _without_adapters_around(model: Any) -> nn.Module:
    """The network whose layers hold the adapters."""
    settings = model.peft_config.values()
    if any(getattr(setting, "is_prompt_learning", False) for setting in settings):
        raise TraceError(
            f"{type(model).__name__} puts learnt prompts before its inputs, which its own forward "
            "does: compile what is inside, pararealize(model.get_base_model(), n), and give it the "
            "prompts as inputs_embeds."
        )
    inner: nn.Module = model.get_base_model()
    return inner
