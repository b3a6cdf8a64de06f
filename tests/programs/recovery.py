"""Checks under mpiexec: what fails on one rank ends on all, is got over, and leaves nothing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from failing import Fails
from mpi4py import MPI
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, pararealize
from pararealize.errors import DisagreementError, PararealizeError, PeerError
from pararealize.runtime.communication import endpoint
from pararealize.runtime.communication.endpoint import Call

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size
LAST = SIZE - 1

#: Seconds within which all ranks have to hear of a failure, on a busy machine.
SOON = 10.0

#: The same sums in float64, but for the order of the adjoint's terms.
ROUNDING = 1e-12


class Trouble:
    """A hook on a layer, which fails once as ``kind`` says."""

    def __init__(self) -> None:
        self.kind = ""

    def __call__(self, _layer: nn.Module, _inputs: Any, y: Tensor) -> Tensor | None:
        kind, self.kind = self.kind, ""
        match kind:
            case "forward":
                raise ValueError("no way on")
            case "backward":
                return Fails.apply(y)
            case "slow":
                time.sleep(0.3)
        return None


class Layer(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(self.dropout(x)))


def build(comm: Any, dropout: float = 0.0, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(*(Layer(dropout) for _ in range(6))).double()
    return pararealize(model, SIZE, example_inputs=(batch(),), comm=comm, **options)


def troubled(net: nn.Module) -> Trouble:
    """Trouble that the first layer of this rank's subnetwork may have."""
    trouble = Trouble()
    own = [name for name in net.state_dict() if not name.startswith(("coarse", "guess"))]
    net.get_submodule(own[0].rpartition(".")[0]).register_forward_hook(trouble)
    return trouble


def batch(size: int = 4) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(size)).double()


def step(net: nn.Module, x: Tensor | None = None) -> None:
    net.zero_grad()
    torch.manual_seed(1)
    net(batch() if x is None else x).square().sum().backward()


def assert_steps_are_those_of(net: nn.Module, alone: nn.Module) -> None:
    """Gradients of what this rank holds, of a good step."""
    for each in (net, alone):
        step(each)
    for name, parameter in net.named_parameters():
        wanted = alone.get_parameter(name).grad
        if parameter.grad is None and wanted is None:  # guesses that cancel
            continue
        scale = max(1.0, float(wanted.abs().max()))
        assert float((parameter.grad - wanted).abs().max()) <= ROUNDING * scale, name


@contextmanager
def ends(kind: type[BaseException], *words: str) -> Iterator[None]:
    """A block that raises on this rank, soon."""
    begin = time.monotonic()
    try:
        yield
    except kind as error:
        found = str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")
    seconds = time.monotonic() - begin
    assert seconds < SOON, seconds
    assert not [word for word in words if word not in found], found


# failures


def recovers(comm: Any, _folder: str) -> None:
    """From failures forward and backward, on any rank, one after another, and two in a row."""
    net, alone = build(comm, 0.1), build(None, 0.1)
    trouble = troubled(net)
    for where in ("forward", "backward"):
        for place in sorted({0, SIZE // 2, LAST}):
            for _ in range(2):
                _one_failure(net, trouble, where, place)
            assert_steps_are_those_of(net, alone)
    WORLD.Barrier()
    time.sleep(2.2)  # an alarm that is over stays so
    assert_steps_are_those_of(net, alone)


def _one_failure(net: nn.Module, trouble: Trouble, where: str, place: int) -> None:
    """As a training loop that catches errors: all ranks go on with the same batch again."""
    if place == RANK:
        trouble.kind = where
    came, said = [], []
    for _ in range(3):
        begin = time.monotonic()
        try:
            step(net)
        except (ValueError, PeerError) as error:
            came.append(type(error).__name__)
            said.append(str(error))
        else:
            came.append("")
        assert time.monotonic() - begin < SOON
    assert all(place == RANK or f"rank {place} of {SIZE} stopped" in text for text in said), said
    rows = WORLD.allgather(came)
    assert rows[place][0] == "ValueError", rows
    others = [row for rank, row in enumerate(rows) if rank != place]
    assert all("PeerError" in row for row in others), rows
    # Where a rank has run backward before, it hears of it in the next call, which all leave out.
    last = max(i for row in others for i, kind in enumerate(row) if kind)
    assert last == 0 or (last == 1 and where == "backward"), rows
    assert all(row[last] and not any(row[last + 1 :]) for row in rows), rows


def recovers_in_multigrid(comm: Any, _folder: str) -> None:
    """A solve that starts from the one before knows on all ranks whether there was one."""
    method = MGRIT(2, 2, "rediscretized", guess="previous")
    net, alone = (build(c, method=method) for c in (comm, None))
    trouble = troubled(net)
    step(net)
    step(alone)
    for place in {0, LAST}:
        if place == RANK:
            trouble.kind = "forward"
        with ends(ValueError if place == RANK else PeerError):
            step(net)
    alone.solver.forget()
    assert_steps_are_those_of(net, alone)


def overwrites_nothing(comm: Any, _folder: str) -> None:
    """Memory that a call which failed received into is not written on once others have it.

    The last rank fails before the one before it has sent its state.
    """
    net = build(comm)
    trouble, transport = troubled(net), net._emission.transport
    step(net)
    made, empty = [], endpoint.empty

    def noted(*form: Any) -> Tensor:
        made.append(empty(*form))
        return made[-1]

    endpoint.empty = noted
    try:
        trouble.kind = {LAST: "forward", LAST - 1: "slow"}.get(RANK, "")
        with ends(ValueError if RANK == LAST else PeerError):
            step(net)
    finally:
        endpoint.empty = empty
    assert RANK != LAST or made
    sizes = {tensor.numel() for tensor in made}
    made.clear()
    gc.collect()
    guards = [torch.full((n,), 7.0, dtype=torch.float64) for n in sizes for _ in range(500)]
    WORLD.Barrier()
    time.sleep(0.5)
    WORLD.Barrier()  # MPI delivers while it waits
    for _ in range(2):
        step(net)
        assert all(bool((guard == 7.0).all()) for guard in guards)
    assert not transport._posted


# ranks that do different things


class Keyworded(nn.Module):
    """With dropout, an argument that may be left out, and layers that do not ask for float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(0.1) for _ in range(6))

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x if scale is None else x * scale


def ends_where_ranks_differ(comm: Any, _folder: str) -> None:
    """Each in a first call of its kind, where random streams are still to be learnt."""
    torch.manual_seed(0)
    net = pararealize(Keyworded(), SIZE, example_inputs=(torch.ones(2, 4),), comm=comm)
    x, odd = torch.ones(2, 4), RANK == LAST
    modes: dict[str, tuple[Callable[[], AbstractContextManager[Any]], str]] = {
        "no_grad": (torch.no_grad, "without gradients"),
        "inference_mode": (torch.inference_mode, "without gradients"),
        "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), "autocast torch.bfloat16"),
        "jumps": (net.jumps, "with its jumps"),
    }
    for mode, words in modes.values():
        with ends(DisagreementError, f"rank {LAST}: ", words), mode() if odd else nullcontext():
            net(x)
    inputs = {
        "[1, 4]": x[:1],
        "float64": x.double(),
        "requiring a gradient": x.clone().requires_grad_(),
    }
    for words, given in inputs.items():
        with ends(DisagreementError, "rank 0: x [2, 4] float32", f"rank {LAST}: ", words):
            net(given if odd else x)
    with ends(DisagreementError, "train mode", "eval mode"):
        net.train(not odd)(x)
    net.train()
    wrong: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "too many": ((x, None, 3), {}),
        "none": ((), {}),
        "another shape": ((torch.ones(2, 5),), {}),
        "a keyword": ((x,), {"scale": 2.0}),
        "an unknown keyword": ((x,), {"shift": 2.0}),
    }
    for args, kwargs in wrong.values():
        with ends(Exception, *([] if odd else [f"rank {LAST}"])):
            net(*args, **kwargs) if odd else net(x)
    loss = net(x).sum()
    loss.backward()


def tells_networks_apart(comm: Any, _folder: str) -> None:
    """Two networks of one shape, called in another order on one rank, or one kept for oneself."""
    one, two = build(comm), build(comm)
    nets = (two, one) if RANK == LAST else (one, two)
    for net in nets:
        with ends(DisagreementError, "network", "one order"):
            net(batch())
    said = ("rank 0 calls the network", f"rank {LAST} collects the whole network")
    with ends(DisagreementError, "ranks do different things", *said):
        one.to_serial() if RANK == LAST else one(batch())
    for net in (one, two):
        assert_steps_are_those_of(net, build(None))
    outputs = one(batch()), two(batch())
    sum(output.sum() for output in outputs).backward()


# weights that are shared, and memory


def sums_gradients_of_any_ties(comm: Any, _folder: str) -> None:
    """Weights that different sets of ranks share; three of them, one by all."""

    def tied() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8))).double()
        model[2].weight, model[5].weight = model[0].weight, model[4].weight
        model[3].bias = model[7].bias = model[1].bias
        return model

    method = Parareal(coarse="fine", correction="difference")
    options: dict[str, Any] = {"example_inputs": (batch(),), "method": method}
    net, alone = (pararealize(tied(), SIZE, comm=c, **options) for c in (comm, None))
    for _ in range(3):
        assert_steps_are_those_of(net, alone)


def forgets_calls(comm: Any, _folder: str) -> None:
    """Of inputs that want gradients, losses never run backward, and calls without gradients."""
    net = build(comm)

    def calls() -> int:
        gc.collect()
        return sum(type(each) is Call for each in gc.get_objects())

    before = calls()
    for _ in range(3):
        (net(batch().requires_grad_()) * 2).sum().backward()
        output = net(batch().requires_grad_())
        del output
        with torch.no_grad():
            net(batch().requires_grad_())
        with net.jumps() as jumps:
            (net(batch().requires_grad_()).sum() + jumps.penalty()).backward()
        del jumps
    assert calls() <= before, calls()


def waits_no_longer_than_its_patience(comm: Any, _folder: str) -> None:
    """A rank that comes late is given up, and come back to."""
    net = build(comm)
    transport = net._emission.transport
    before, transport.patience = transport.patience, 0.5
    if RANK == LAST:
        time.sleep(2.0)
    with ends(PararealizeError, "waited", "patience"):
        step(net)
    transport.patience = before
    step(net)


CHECKS = (
    recovers,
    recovers_in_multigrid,
    overwrites_nothing,
    ends_where_ranks_differ,
    tells_networks_apart,
    sums_gradients_of_any_ties,
    forgets_calls,
    waits_no_longer_than_its_patience,
)
