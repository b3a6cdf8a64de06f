"""Variants: one training or inference step of a network, done in every way that is compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pararealize.cost.measure import threads
from pararealize.emit.adoption import is_added
from pararealize.ir.chain import TensorSpec
from pararealize.network import ParallelNetwork
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.values.pytree import leaves_of

#: Weights stay, so that all variants can share them; a step costs what it costs at any rate.
RATE = 0.0


@dataclass(frozen=True)
class Variant:
    """One way to do a step.

    ``run`` is called on every rank and returns the loss where it is known; ``ranks`` work, each
    with ``threads`` threads, the others wait.
    """

    name: str
    run: Callable[[], float | None]
    ranks: int
    threads: int = 1


def objective(output: Any) -> Tensor:
    """A loss for any network: the mean square of what it says."""
    leaves = [v for v in leaves_of(output) if isinstance(v, Tensor) and v.is_floating_point()]
    return torch.stack([leaf.float().pow(2).mean() for leaf in leaves]).sum()


def step(
    forward: Callable[[], Any], parameters: Iterable[nn.Parameter], *, training: bool
) -> Callable[[], float]:
    """A step of gradient descent, or an evaluation."""
    if not training:

        def evaluate() -> float:
            with torch.no_grad():
                return objective(forward()).item()

        return evaluate
    optimizer = torch.optim.SGD([{"params": parameters}], lr=RATE)  # a rank may have none

    def train() -> float:
        optimizer.zero_grad()
        loss = objective(forward())
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.item()

    return train


def serial(model: nn.Module, x: Tensor, rank: int, count: int, *, training: bool) -> Variant:
    """The network as it is, on rank 0."""
    run = step(lambda: model(x), model.parameters(), training=training)

    def alone() -> float | None:
        if rank != 0:
            return None
        with threads(count):
            return run()

    plural = "thread" if count == 1 else "threads"
    return Variant(f"serial, {count} {plural}", alone, 1, count)


def parallel(net: ParallelNetwork, x: Tensor, ranks: int, *, training: bool) -> Variant:
    """The network on ranks."""
    return Variant(
        f"pararealize, n = {net.plan.n}",
        step(lambda: net(x), net.parameters(), training=training),
        ranks,
    )


def own_pieces(net: ParallelNetwork) -> list[Propagator]:
    """Subnetworks of this rank in order, the head last."""
    names = [f"fine.{piece.index}" for piece in net.plan.pieces]
    return [net.propagators[name] for name in (*names, "head") if name in net.propagators]


def own_weights(net: ParallelNetwork) -> list[nn.Parameter]:
    """Weights of this rank's subnetworks, without those of coarse and guess networks."""
    return [p for name, p in net.named_parameters() if not is_added(name)]


def states(net: ParallelNetwork, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Random states before each of this rank's subnetworks; empty before the first of all."""
    found: list[tuple[Tensor, ...]] = []
    before: tuple[str, ...] = ()
    for piece in net.plan.pieces:
        if f"fine.{piece.index}" in net.propagators:
            leaves = state_leaves(before)
            found.append(tuple(torch.randn(len(x), *s, dtype=dtype) for s, dtype in leaves))
        before = piece.state
    return found


def state_leaves(state: tuple[str, ...]) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape of one sample, and kind of numbers, of every tensor of a state."""
    return [(spec.shape[1:], spec.dtype) for spec in map(TensorSpec.parse, state)]


def ceiling(net: ParallelNetwork, x: Tensor, ranks: int, *, training: bool) -> Variant:
    """Every rank runs its subnetworks alone, without guesses, corrections or messages."""
    pieces, given = own_pieces(net), states(net, x)
    owned = own_weights(net)
    for state in given:
        for leaf in state:
            leaf.requires_grad_(training and leaf.is_floating_point())

    def forward() -> Any:
        results = []
        for piece, state in zip(pieces, given, strict=False):
            given_state = (state,) if len(state) > 1 else state
            results.append(piece(*given_state, *(x for _ in piece.inputs)))
        if len(pieces) > len(given):
            results[-1] = pieces[-1](results[-1], *(x for _ in pieces[-1].inputs))
        return results

    return Variant("ceiling: independent parts", step(forward, owned, training=training), ranks)


def data_parallel(
    model: nn.Module, x: Tensor, rank: int, ranks: int, *, training: bool
) -> Variant | None:
    """DistributedDataParallel: every rank has all layers and a share of the batch."""
    if len(x) < ranks:
        return None
    share = torch.tensor_split(x, ranks)[rank]
    replica = DistributedDataParallel(copy.deepcopy(model))
    run = step(lambda: replica(share), replica.parameters(), training=training)
    return Variant("DistributedDataParallel", run, ranks)


def start_gloo(folder: str, rank: int, ranks: int) -> None:
    """A process group for the peers, among the ranks that meet in ``folder``."""
    store = dist.FileStore(f"{folder}/gloo", ranks)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
