"""Checks under mpiexec: mistakes in the use of ranks. All end at once, with their cause named.

The whole matrix, each mistake with and without dropout::

    for P in 2 3; do for K in mpi gloo; do
    mpiexec -n $P python -m mpi4py tests/programs/misuse.py $K
    done; done

Each mistake is refused on every rank within :data:`LIMIT` seconds, and the next step is right.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pararealize import ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import PararealizeError

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size
LAST = SIZE - 1

#: Seconds in which a mistake is refused everywhere.
LIMIT = 30.0

N = 3
EXACT = Parareal(coarse="fine", correction="difference")


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.fc, self.dropout = nn.Linear(4, 4), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.fc(x)))


def model(dropout: float, depth: int = 6) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*(Block(dropout) for _ in range(depth))).double()


def batch(size: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(seed)).double()


def loss_of(net: nn.Module, x: Tensor | None = None) -> Tensor:
    return net(batch() if x is None else x).square().sum()


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """The block raises this package's error, soon, and it has these words, on every rank."""
    begin = time.monotonic()
    try:
        yield
    except PararealizeError as error:
        found = str(error)
    else:
        raise AssertionError(f"rank {RANK}: nothing was refused")
    assert time.monotonic() - begin < LIMIT
    assert not [word for word in words if word not in found], found


# mistakes in training


def loses_on_rank_0_only(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    loss = loss_of(net)
    with refused("rank 0 goes back through call", f"rank {LAST} calls the network"):
        if RANK == 0:
            loss.backward()
        else:
            net(batch())


def loses_on_the_last_rank_only(net: ParallelNetwork, _comm: Any, folder: str) -> None:
    loss = loss_of(net)
    with refused(f"rank {LAST} goes back through call", "rank 0 saves its weights to"):
        if RANK == LAST:
            loss.backward()
        else:
            net.save(f"{folder}/checkpoint")


def goes_back_twice(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    loss = loss_of(net)
    loss.backward(retain_graph=True)
    with refused("rank 0 goes back through call", f"rank {LAST} calls the network"):
        if RANK == 0:
            loss.backward()
        else:
            net(batch())


def goes_back_in_another_order(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    losses = [loss_of(net), loss_of(net)]
    with refused("rank 0 goes back through call", "do different things"):
        losses[RANK == 0].backward()


def takes_another_loss(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    """Targets that were shuffled by another seed on the last rank."""
    again = fresh(net, _comm)  # the first calls are compared, and then some
    target = batch(seed=9 if RANK == LAST else 8)
    with refused(f"the gradient of the output on rank {LAST}", "same loss"):
        (again(batch()) - target).square().sum().backward()


def leaves_out_a_penalty(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    x = batch().requires_grad_()
    (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with refused("rank 0 differentiates the backward pass of call"):
        if RANK == 0:
            g.square().sum().backward()
        else:
            net(batch())


def asks_for_chosen_gradients_on_rank_0(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    x = batch().requires_grad_()
    loss = loss_of(net, x)
    with refused("rank 0 goes back, to the tensors asked for, through"):
        loss.backward(inputs=[x] if RANK == 0 else None)


# mistakes in calls


def calls_with_other_values(net: ParallelNetwork, comm: Any, _folder: str) -> None:
    again = fresh(net, comm)
    with refused(f"rank {LAST} was called with other inputs than rank 0", "DistributedSampler"):
        again(batch(seed=1 if RANK == LAST else 2))


def calls_with_another_batch(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    with refused("[5, 4]", "[6, 4]"):
        net(batch(6 if RANK == LAST else 5))


def calls_in_another_mode(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    with refused("train mode", "eval mode"):
        net.train(RANK != LAST)(batch())
    net.train()
    with refused("with gradients", "without gradients"), torch.set_grad_enabled(RANK != LAST):
        net(batch())
    autocast = torch.autocast("cpu", torch.bfloat16) if RANK == LAST else nullcontext()
    with refused("autocast torch.bfloat16"), autocast:
        net(batch())
    with refused("with its jumps"), net.jumps() if RANK == LAST else nullcontext():
        net(batch())


# mistakes in what concerns the whole network


def saves_on_rank_0_only(net: ParallelNetwork, comm: Any, folder: str) -> None:
    """``if rank == 0: net.save("best")``; the checkpoint that was there is left whole."""
    path = f"{folder}/best"
    net.save(path)
    before = contents(path)
    with refused(f"rank 0 saves its weights to {path}", f"rank {LAST} calls the network"):
        if RANK == 0:
            net.save(path)
        else:
            net(batch())
    assert contents(path) == before
    load(path, model(0.0), comm=comm)


def saves_to_two_places(net: ParallelNetwork, _comm: Any, folder: str) -> None:
    """One rank thinks that this is its best epoch, and another one writes the last."""
    for name in ("best", "last"):
        net.save(f"{folder}/{name}")
    before = [contents(f"{folder}/{name}") for name in ("best", "last")]
    with torch.no_grad():
        next(nn.Module.parameters(net)).add_(1.0)
    with refused("/best", "/last"):
        net.save(f"{folder}/{'best' if RANK == 0 else 'last'}")
    assert [contents(f"{folder}/{name}") for name in ("best", "last")] == before


def contents(path: str) -> dict[str, bytes]:
    WORLD.Barrier()
    found = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    WORLD.Barrier()
    return found


def collects_on_rank_0_only(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    with refused("rank 0 collects the whole network", f"rank {LAST} calls the network"):
        if RANK == 0:
            net.to_serial()
        else:
            net(batch())


def clips_on_rank_0_only(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    loss_of(net).backward()
    with refused("rank 0 clips gradients to a 2.0-norm of 1.0", f"rank {LAST} calls the network"):
        if RANK == 0:
            net.clip_grad_norm_(1.0)
        else:
            net(batch())
    with refused("rank 0 clips gradients to a 2.0-norm of 1.0", f"rank {LAST} clips", "of 2.0"):
        net.clip_grad_norm_(2.0 if RANK == LAST else 1.0)


def clips_by_torch(net: ParallelNetwork, _comm: Any, _folder: str) -> None:
    loss_of(net).backward()
    with refused("net.clip_grad_norm_(max_norm)"):
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)


def optimises_over_all_weights(net: ParallelNetwork, comm: Any, _folder: str) -> None:
    with refused("LBFGS adds up over all parameters"):
        torch.optim.LBFGS(net.parameters())
    again = fresh(net, comm)
    WORLD.Barrier()  # the alarm of a rank that is ahead would end the compiling of another one
    optimizer = torch.optim.LBFGS(list(again.parameters()))

    def closure() -> Tensor:
        loss = loss_of(again)
        loss.backward()
        return loss

    with refused("LBFGS adds up over all parameters"):
        optimizer.step(closure)


def calibrates_with_other_data(net: ParallelNetwork, comm: Any, _folder: str) -> None:
    again = compiled(model(0.0), comm, method=Parareal())
    options = {"epochs": 1, "agreement": 0.1, "batch": 8, "progress": False}
    with refused("rank 0 calibrates with", f"rank {LAST} calls the network"):
        if RANK == LAST:
            again(batch())
        else:
            again.calibrate(batch(32), **options)
    with refused(f"rank {LAST} has another batch 1"):
        again.calibrate(batch(32, seed=int(RANK == LAST)), **options)
    with refused(f"rank {LAST} has 2 batches", "others have more"):
        again.calibrate(batch(32).split(8)[: 2 if RANK == LAST else 4], **options)
    loss_of(again).backward()


def compiles_other_networks(_net: ParallelNetwork, comm: Any, _folder: str) -> None:
    with refused("with n=3", "with n=2" if SIZE == 2 else "with n=4"):
        compiled(model(0.0), comm, n=(2 if SIZE == 2 else 4) if RANK == LAST else N)
    with refused(f"rank {LAST} compiled another network", "6.fc.weight [4, 4]"):
        compiled(model(0.0, depth=7 if RANK == LAST else 6), comm)


def asks_for_a_tied_weight(net: ParallelNetwork, comm: Any, _folder: str) -> None:
    tied = model(0.0)
    tied[5].fc.weight = tied[0].fc.weight
    again = compiled(tied, comm)
    shared = (
        again.get_parameter("0.fc.weight" if RANK == 0 else "5.fc.weight")
        if (RANK in {0, LAST})
        else next(nn.Module.parameters(again))
    )
    for ask in (
        lambda loss: torch.autograd.grad(loss, shared),
        lambda loss: loss.backward(inputs=[shared]),
    ):
        with refused("asks for the gradient of one weight that lies on several ranks"):
            ask(loss_of(again))
    x = batch().requires_grad_()
    torch.autograd.grad(loss_of(again, x), x)
    assert shared.grad is None
    loss_of(again).backward()
    assert shared.grad is not None


def lets_copies_drift(_net: ParallelNetwork, comm: Any, _folder: str) -> None:
    """The optimizer of one rank takes other steps with a weight that another one holds as well."""
    tied = model(0.0)
    tied[5].fc.weight = tied[0].fc.weight
    again = compiled(tied, comm)
    loss_of(again).backward()
    rate = 0.1 if RANK == LAST else 0.01
    torch.optim.SGD(again.parameters(), rate).step()
    loss = loss_of(again)
    with refused(f"a weight that lies on the ranks (0, {LAST})", f"another one on rank {LAST}"):
        loss.backward()


# the matrix


def compiled(module: nn.Module, comm: Any, n: int = N, method: Any = EXACT) -> ParallelNetwork:
    return pararealize(module, n, method=method, example_inputs=(batch(),), comm=comm)


NETWORKS: dict[tuple[str, float], ParallelNetwork] = {}


def shared(comm: Any, dropout: float) -> ParallelNetwork:
    """The network that all mistakes are made with, one after another."""
    key = type(comm).__name__, dropout
    if key not in NETWORKS:
        NETWORKS[key] = compiled(model(dropout), comm)
    return NETWORKS[key]


def fresh(net: ParallelNetwork, comm: Any) -> ParallelNetwork:
    """The network compiled again; its first calls are compared."""
    parts = [part.p for part in net.modules() if isinstance(part, nn.Dropout)]
    return compiled(model(parts[0]), comm)


def made(mistake: Callable[[ParallelNetwork, Any, str], None]) -> Callable[[Any, str], None]:
    """A check: the mistake with and without dropout, and a step after it."""

    def check(comm: Any, folder: str) -> None:
        for dropout in (0.0, 0.5):
            net = shared(comm, dropout)
            loss_of(net).backward()
            net.zero_grad()
            mistake(net, comm, folder)
            loss_of(net.train()).backward()
            if not dropout:
                wanted = model(0.0)
                wanted.load_state_dict(net.to_serial().state_dict())
                assert torch.allclose(net(batch()), wanted(batch()), rtol=1e-12)

    check.__name__ = mistake.__name__
    return check


CHECKS = [
    loses_on_rank_0_only,
    loses_on_the_last_rank_only,
    goes_back_twice,
    goes_back_in_another_order,
    takes_another_loss,
    leaves_out_a_penalty,
    asks_for_chosen_gradients_on_rank_0,
    calls_with_other_values,
    calls_with_another_batch,
    calls_in_another_mode,
    saves_on_rank_0_only,
    saves_to_two_places,
    collects_on_rank_0_only,
    clips_on_rank_0_only,
    clips_by_torch,
    optimises_over_all_weights,
    calibrates_with_other_data,
    compiles_other_networks,
    asks_for_a_tied_weight,
    lets_copies_drift,
]
CHECKS = list(map(made, CHECKS))


def main() -> None:
    """The matrix of one number of ranks over one engine."""
    from checks import run  # noqa: PLC0415  it imports this program

    torch.set_num_threads(1)
    folder = WORLD.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    for check in CHECKS:
        run(f"misuse.{check.__name__}@{sys.argv[1]}", Path(folder))


if __name__ == "__main__":
    main()
