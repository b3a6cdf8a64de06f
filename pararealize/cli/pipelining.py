"""Pipelining: torch's own pipelines over the same subnetworks, for comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from pararealize.cli.variants import (
    RATE,
    Variant,
    objective,
    own_pieces,
    own_weights,
    state_leaves,
)
from pararealize.network import ParallelNetwork

#: Numbers m of microbatches that are tried for a pipeline.
MICROBATCHES = (2, 4, 8)


@final
class PipelineModule(nn.Module):
    """Subnetworks one after another, as a stage of torch's pipelining."""

    def __init__(self, net: ParallelNetwork) -> None:
        super().__init__()
        self.pieces = own_pieces(net)
        self.weights = nn.ParameterList(own_weights(net))

    def forward(self, *state: Tensor) -> Any:
        """The state after them."""
        value: Any = state[0] if len(state) == 1 else state
        for piece in self.pieces:
            value = piece(value)
        return value


def pipelines(net: ParallelNetwork, x: Tensor, rank: int, ranks: int) -> list[Variant]:
    """torch.distributed.pipelining over the same subnetworks, both schedules, training."""
    if len(x) < 2 or any(len(piece.state) > 1 for piece in net.plan.pieces):
        return []
    found = []
    for kind, name in ((ScheduleGPipe, "GPipe"), (Schedule1F1B, "1F1B")):
        for count in MICROBATCHES:
            if len(x) % count == 0 and (kind is ScheduleGPipe or count >= ranks):
                title = f"torch pipelining {name}, m = {count}"
                found.append(Variant(title, _pipeline(net, x, rank, ranks, kind, count), ranks))
    return found


def _pipeline(
    net: ParallelNetwork, x: Tensor, rank: int, ranks: int, kind: Any, count: int
) -> Callable[[], float | None]:
    stage_module = PipelineModule(net)
    micro = len(x) // count
    first, last = rank == 0, rank == ranks - 1
    here = {piece.index for piece in net.plan.pieces if f"fine.{piece.index}" in net.propagators}
    bounds = [piece.state for piece in net.plan.pieces if piece.index in here]
    entry = [piece.state for piece in net.plan.pieces if piece.index + 1 in here]

    def batch(state: tuple[str, ...]) -> tuple[Tensor, ...]:
        leaves = (torch.empty(micro, *shape, dtype=dtype) for shape, dtype in state_leaves(state))
        return tuple(t.to("meta").requires_grad_(t.is_floating_point()) for t in leaves)

    before = (x[:micro].to("meta"),) if first else batch(entry[0])
    output = torch.empty(micro, 1, device="meta")
    with torch.no_grad():
        if last:
            probe = copy.deepcopy(stage_module).eval()
            output = probe(*(torch.zeros(t.shape, dtype=t.dtype) for t in before)).to("meta")
    output.requires_grad_()
    after = (output,) if last else batch(bounds[-1])
    stage = PipelineStage(
        stage_module, rank, ranks, torch.device("cpu"), input_args=before, output_args=after
    )
    schedule = kind(stage, count, loss_fn=lambda output, _target: objective(output))
    optimizer = torch.optim.SGD([{"params": stage_module.parameters()}], lr=RATE)
    target = torch.zeros(len(x))

    def run() -> float | None:
        optimizer.zero_grad()
        losses: list[Tensor] = []
        if first:
            schedule.step(x)
        elif last:
            schedule.step(target=target, losses=losses)
        else:
            schedule.step()
        optimizer.step()
        return torch.stack(losses).mean().item() if losses else None

    return run
