"""Checks under mpiexec on four ranks: depth × data, two by two."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pararealize import pararealize

DEPTH = 2


def build() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6))
    return nn.Sequential(*layers).double()


def batch(size: int) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(0)).double()


def depth_and_data_compose(_comm: Any, _folder: str) -> None:
    world = MPI.COMM_WORLD
    shard, depth = divmod(world.rank, DEPTH)
    groups = [dist.new_group([j, j + DEPTH]) for j in range(DEPTH)]  # one layer, all shards
    x = batch(8)
    mine = x.chunk(2)[shard]
    net = pararealize(build(), DEPTH, example_inputs=(mine,), comm=world.Split(color=shard))
    replica = DistributedDataParallel(net, process_group=groups[depth])
    alone = pararealize(build(), DEPTH, example_inputs=(x,))
    for module, inputs in ((replica, mine), (alone, x)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            module(inputs).square().mean().backward()
            optimizer.step()
    for name, value in net.state_dict().items():
        # The mean over two halves is the mean over the whole, up to the order of sums.
        assert torch.allclose(value, alone.state_dict()[name], rtol=0, atol=1e-12), name


CHECKS = (depth_and_data_compose,)
