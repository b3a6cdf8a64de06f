"""Same model: ranks compile one network, and say so before they send each other its weights."""

from __future__ import annotations

from itertools import zip_longest

from torch import Tensor, nn

from pararealize.errors import RankError
from pararealize.runtime.communication.agreement import digest
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport


def agree_on_model(transport: Transport, model: nn.Module, doing: str) -> None:
    """Go on when all ranks have come to compile, or load, models of the same tensors.

    Raises:
        DisagreementError: one of them does something else.
        RankError: names the first tensor in which the models differ.

    """
    tensors = [f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in _named(model)]
    rows = agree(transport, doing, 0, digest("\n".join(tensors)))
    if len(set(rows)) == 1:
        return
    every: list[list[str]] = transport.gather(tensors)
    rank = next(rank for rank, (_, found) in enumerate(rows) if found != rows[0][1])
    pairs = zip_longest(every[rank], every[0], fillvalue="nothing more")
    here, first = next((one, other) for one, other in pairs if one != other)
    raise RankError(
        f"rank {rank} compiled another network than rank 0: it has {here} where rank 0 has {first} "
        "(build the same model on every rank; its weights may differ, rank 0's are taken)."
    )


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
