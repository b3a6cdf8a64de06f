"""Checks under mpiexec: training as users write it, on ranks beside one process."""

from __future__ import annotations

import copy
import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from asked_gradients import (
    affine,
    assert_asked_alike,
    backward_to_the_input,
    blocks,
    critic,
    penalty_on_weights,
    saliency,
    weighted_output,
)
from asked_gradients import batch as asked_batch
from mpi4py import MPI
from torch import Tensor, nn
from untraceable import WIDTH, Biased, Pair

from networks import Language
from pararealize import MGRIT, ParallelNetwork, Parareal, Rehearsal, load, pararealize
from pararealize.errors import (
    DivergenceWarning,
    MethodError,
    PeerError,
    RankError,
    ShapeError,
    StaleOptimizerWarning,
)
from pararealize.layers import ImplicitGRUStep, LayerParallel, TimeParallel
from pararealize.models import resnet
from pararealize.runtime.values.pytree import tensors_of

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size

#: The same sums in float64, but for the order of the adjoint's terms.
ROUNDING = 1e-12

N = 4


class Deep(nn.Module):
    """Residual layers with normalisation and dropout; a state of eight numbers a sample."""

    def __init__(self, depth: int = 9) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        layers = (
            nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1))
            for _ in range(depth)
        )
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Masked(nn.Module):
    """Layers that all read which tokens are no padding: states of numbers and truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        mask = (tokens.gt(0) & x.norm(dim=-1).gt(0.1)).unsqueeze(-1)  # of the weights as well
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * mask
        return x


def batch(size: int = 6) -> Tensor:
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(size)).double()


def build(**options: Any) -> ParallelNetwork:
    torch.manual_seed(3)
    return pararealize(Deep().double(), N, example_inputs=(batch(),), **options)


def pair(comm: Any) -> tuple[ParallelNetwork, ParallelNetwork]:
    """The network on ranks, and in this process."""
    return build(comm=comm), build()


def close(found: Tensor, wanted: Tensor, tolerance: float = ROUNDING) -> bool:
    scale = max(1.0, float(wanted.detach().double().abs().max()))
    return float((found - wanted).detach().double().abs().max()) <= tolerance * scale


def assert_alike(net: ParallelNetwork, alone: ParallelNetwork, tolerance: float = ROUNDING) -> None:
    """Equal parameters, buffers and gradients, of what this rank holds."""
    wanted = alone.state_dict()
    for name, value in net.state_dict().items():
        assert close(value, wanted[name], tolerance), name
    for name, parameter in net.named_parameters():
        other = alone.get_parameter(name).grad
        assert (parameter.grad is None) == (other is None), name
        if other is not None:
            assert close(parameter.grad, other, tolerance), name


def equalised(net: nn.Module, alone: nn.Module) -> dict[str, Tensor]:
    """Give both the same state to the last bit: processes round by how their memory is aligned."""
    state: dict[str, Tensor] = WORLD.bcast(alone.state_dict())
    net.load_state_dict(state)
    alone.load_state_dict(state)
    return state


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).square().sum()


# what users do


def accumulates_gradients(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    for module in (net, alone):
        torch.manual_seed(1)
        first, second = loss_of(module, batch(6)), loss_of(module, batch(4))
        (first + second).backward()  # two forward passes, then one backward pass through both
        loss_of(module, batch(5)).backward()
    assert_alike(net, alone)


def changes_batch_sizes(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    for module in (net, alone):
        torch.manual_seed(1)
        for size in (2, 6, 3, 64, 6):  # a larger batch after smaller ones, the last one partial
            loss_of(module, batch(size)).backward()
    assert_alike(net, alone)


def evaluates(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    for mode in (True, False, True):
        with torch.no_grad():
            torch.manual_seed(1)
            found = net.train(mode)(batch())
            torch.manual_seed(1)
            assert close(found, alone.train(mode)(batch()))
        assert not found.requires_grad
    assert_alike(net, alone)


def computes_in_bfloat16(comm: Any, _folder: str) -> None:
    nets = [net.float() for net in pair(comm)]
    for module in nets:
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(module, batch().float())
        loss.backward()
    assert_alike(*nets, tolerance=1e-6)


def clips_gradients(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    norms = []
    for module in (net, alone):
        torch.manual_seed(1)
        loss_of(module, batch()).backward()
        norms.append(module.clip_grad_norm_(0.1))
    assert close(*norms)
    assert_alike(net, alone)


def captures_pieces(comm: Any, _folder: str) -> None:
    """Steps and answers by graphs of pieces, with masks, beside one process without graphs."""
    net, alone = pair(comm)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05) for each in (net, alone)]
    device = Rehearsal()
    step = net.capture_step(Tensor.mean, device=device, optimizer=optimizers[0], max_norm=0.5)
    step.prepare(batch())
    for k in range(4):
        torch.manual_seed(k)
        found = step(batch(6 - k % 2))
        torch.manual_seed(k)
        alone.zero_grad()
        wanted = alone(batch(6 - k % 2)).mean()
        torch.autograd.backward(wanted)
        alone.clip_grad_norm_(0.5)
        optimizers[1].step()
        assert close(found, wanted)
        assert_alike(net, alone)
    assert step.cache.captures == 2
    fast = net.eval().capture((batch(),), device=device)
    assert close(fast(batch() + 1), alone.eval()(batch() + 1))


class Amplified(nn.Module):
    """A residual layer whose gradients are as large as its gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.fc, self.gain = nn.Linear(8, 8), gain

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * torch.tanh(self.fc(x))


def scaled_steps(net: nn.Module, *, clips: bool, parts: int, optimizers: int) -> list[Any]:
    """Losses and scales of some steps in float16, which overflow at first, in one rank's layers."""
    torch.manual_seed(1)
    x, y = 0.1 * torch.randn(64, 8), torch.randn(64, 8)
    own = list(nn.Module.parameters(net))
    groups = [own[i::optimizers] for i in range(optimizers)]
    opts = [torch.optim.SGD(group, lr=0.05) for group in groups]
    scaler, found = torch.amp.GradScaler("cpu", init_scale=2.0**18), []
    for _ in range(5):
        net.zero_grad()
        for some, wanted in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = (net(some).float() - wanted).square().mean() * 8
            scaler.scale(loss).backward()
        for opt in opts:
            if clips:
                scaler.unscale_(opt)
        if clips:
            clip = getattr(net, "clip_grad_norm_", None)
            _ = clip(1.0) if clip else nn.utils.clip_grad_norm_(own, 1.0)
        for opt in opts:
            scaler.step(opt)
        scaler.update()
        found.append((loss.item(), scaler.get_scale()))
    return found


def scales_gradients(comm: Any, _folder: str) -> None:
    """A scaler leaves out the steps that overflow, on every rank; some of them do."""
    ways = [(False, 1, 1), (True, 1, 1), (False, 2, 1), (False, 1, 2)]
    for clips, parts, optimizers in ways:
        torch.manual_seed(0)
        model = nn.Sequential(*(Amplified(gain) for gain in (0.02, 0.02, 0.02, 1.0)))
        method = Parareal(coarse="fine", correction="difference", guess="coarse")
        options = {"method": method, "example_inputs": (torch.zeros(64, 8),)}
        options["interfaces"] = ["0", "1", "2"]
        nets = (pararealize(model, N, comm=c, **options) for c in (comm, None))
        found, wanted = (
            scaled_steps(net, clips=clips, parts=parts, optimizers=optimizers) for net in nets
        )
        scales = [scale for _, scale in wanted]
        assert scales[0] < 2.0**18, "no step overflows"
        assert scales[-1] == scales[-2], "all steps overflow"
        assert [scale for _, scale in found] == scales
        assert all(
            abs(a - b) <= 1e-3 * abs(b) for (a, _), (b, _) in zip(found, wanted, strict=True)
        )


def freezes_parts(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    for module in (net, alone):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.startswith(("layers.7", "layers.8", "head")))
        torch.manual_seed(1)
        output = module(batch())
        assert output.requires_grad  # on every rank, whoever holds what is trained
        output.sum().backward()
    assert_alike(net, alone)


def gives_gradients_of_inputs(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    found = []
    for module in (net, alone):
        torch.manual_seed(1)
        x = batch().requires_grad_()
        loss_of(module, 2 * x).backward()
        found.append(x.grad)
    assert close(*found)


def gives_what_autograd_is_asked_for(comm: Any, _folder: str) -> None:
    """``autograd.grad``, ``backward(inputs=)``, and derivatives of derivatives."""
    method = Parareal(coarse="fine", correction="difference")
    for work in (saliency, backward_to_the_input, critic, penalty_on_weights, weighted_output):
        for model in (blocks, affine):
            options = {"method": method, "example_inputs": (asked_batch(),)}
            net, alone = (pararealize(model(), N, comm=c, **options) for c in (comm, None))
            assert_asked_alike(work(net), work(alone), ROUNDING)


def optimises(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    losses = []
    for module in (net, alone):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(module, batch())
            loss.backward()
            optimizer.step()
        losses.append(loss)
    assert close(*losses, tolerance=1e-9)  # Adam divides by roots of small numbers
    assert_alike(net, alone, tolerance=1e-6)


def keeps_jumps_small(comm: Any, _folder: str) -> None:
    """Jumps in the loss, with dropout; also of sweeps that the output does not depend on."""
    for method in (Parareal(), Parareal(correction="difference", tolerance=0.3)):
        net, alone = build(comm=comm, method=method), build(method=method)
        penalties = []
        for module in (net, alone):
            for seed in range(2):
                torch.manual_seed(seed)
                with module.jumps() as jumps:
                    loss = loss_of(module, batch()) + 10 * jumps.penalty()
                loss.backward()
            penalties.append(jumps.penalty())
        assert close(*penalties)
        assert float(penalties[0].detach()) > 0
        assert_alike(net, alone)


def clips_to_the_bit(comm: Any, _folder: str) -> None:
    """Losses of steps that are clipped, equal to the last bit."""
    for method in (Parareal(), MGRIT(2, 2, "sampled", forward_cycles=2)):
        losses: list[list[float]] = []
        for c in (comm, None):
            net = build(comm=c, method=method)
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
            torch.manual_seed(1)
            losses.append([step(net, optimizer, clip=0.1) for _ in range(8)])
        assert losses[0] == losses[1]
        assert len(set(losses[0])) == 8


def step(net: ParallelNetwork, optimizer: torch.optim.Optimizer, clip: float = 0.0) -> float:
    optimizer.zero_grad()
    loss = loss_of(net, batch())
    loss.backward()
    if clip:
        net.clip_grad_norm_(clip)
    optimizer.step()
    return loss.item()


def optimizers(net: ParallelNetwork) -> dict[str, torch.optim.Optimizer]:
    """One with options by layer, one whose options change, one with a state of whole numbers."""
    named = list(net.named_parameters())
    groups = [
        {"params": [p for name, p in named if (".0." in name) == flag], "lr": lr}
        for flag, lr in ((True, 1e-2), (False, 1e-3))
    ]
    return {
        "AdamW": torch.optim.AdamW(groups, amsgrad=True),
        "SGD": torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, nesterov=True),
        "Adagrad": torch.optim.Adagrad(net.parameters(), lr=1e-2),
    }


def resumes_on_other_ranks(comm: Any, folder: str) -> None:
    """The recipe of docs/ranks.md: whatever a run is made of, on another number of ranks."""
    for kind in ("AdamW", "SGD", "Adagrad"):
        net = build(comm=comm)
        optimizer = optimizers(net)[kind]
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        torch.manual_seed(1)
        for _ in range(3):
            step(net, optimizer, clip=0.5)
            scheduler.step()
        path = f"{folder}/{kind}"
        state = net.gather_optimizer(optimizer)
        everyone = WORLD.allgather([repr(state["param_groups"]), list(state["state"])])
        assert everyone == [everyone[0]] * SIZE
        rest = {"optimizer": state, "scheduler": scheduler.state_dict()}
        rest["rng"] = torch.get_rng_state()
        net.save(path)
        if RANK == 0:
            torch.save(rest, f"{path}/training.pt")
        wanted = [step(net, optimizer) for _ in range(3)]
        for c in (None, comm):  # the barrier in save is behind every rank's part, not this file
            WORLD.Barrier()
            again = load(path, Deep().double(), comm=c)
            found = torch.load(f"{path}/training.pt")
            other = optimizers(again)[kind]
            again.scatter_optimizer(other, found["optimizer"])
            schedule = torch.optim.lr_scheduler.StepLR(other, 1, gamma=0.7)
            schedule.load_state_dict(found["scheduler"])
            torch.set_rng_state(found["rng"])
            if c is None:  # what one process gathers is what the ranks did
                mine = again.gather_optimizer(other)
                assert repr(mine["param_groups"]) == repr(state["param_groups"])
                assert list(mine["state"]) == list(state["state"])
            assert [step(again, other) for _ in range(3)] == wanted, kind
        bare = optimizers(build(comm=comm))[kind]
        with refused(MethodError, "net.gather_optimizer"):
            net.scatter_optimizer(optimizer, optimizer.state_dict())
        with refused(MethodError, "not this network's"):
            net.gather_optimizer(bare)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1 + RANK)
    with refused(RankError, "lr=0.1", "rank 1"):
        net.gather_optimizer(optimizer)


def notices_optimizers_of_the_model(comm: Any, _folder: str) -> None:
    """Made before it is compiled; on every rank, once."""
    for name, part in (("SGD", "layers"), ("AdamW", "head"), ("RMSprop", "")):
        torch.manual_seed(3)
        model = Deep().double()
        net = pararealize(model, N, example_inputs=(batch(),), comm=comm)
        own = [p for key, p in model.named_parameters() if key.startswith(part)]
        stale = getattr(torch.optim, name)(own, lr=0.1)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", StaleOptimizerWarning)
            for _ in range(5):
                step(net, stale)
        texts = [str(w.message) for w in found if w.category is StaleOptimizerWarning]
        assert len(texts) == 1, texts
        assert name in texts[0]
        assert "(net.parameters()" in texts[0]
        del stale


def runs_uncompiled(comm: Any, _folder: str) -> None:
    """``torch.compile`` of a network on ranks, or of a step that calls it: it runs as it is."""
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    wholes = (
        (0, lambda net: net),
        (2, lambda net: lambda x: net(x * 1.0) * 1.0),
        (1, lambda net: nn.Sequential(net, nn.Linear(2, 2).double())),
    )
    for count, whole in wholes:
        torch._dynamo.reset()
        graphs.clear()
        net, alone = pair(comm)
        for module in (torch.compile(whole(net), backend=backend), alone):
            torch.manual_seed(1)
            for _ in range(2):
                loss_of(module, batch()).backward()
            if module is not alone:
                assert len(graphs) <= count, graphs  # of what is around it
        if not count:
            assert_alike(net, alone)


def saves_as_the_umask_says(comm: Any, folder: str) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            build(comm=comm).save(f"{folder}/{mask}")
        finally:
            os.umask(before)
        files = list(Path(f"{folder}/{mask}").iterdir())
        assert len(files) == 1 + SIZE
        assert {file.stat().st_mode & 0o777 for file in files} == {mode}


def calibrates(comm: Any, folder: str) -> None:
    """Every rank fits its own coarse networks to what one process fits them to."""
    kinds = {"above": "exact"}, {"limit": 1e-9, "above": "exact"}, {"limit": 1e-9, "above": "exact"}
    guesses = (("network", 2), ("coarse", 2), ("coarse", 3))
    for i, ((guess, levels), options) in enumerate(zip(guesses, kinds, strict=True)):
        method = Parareal(correction="difference", guess=guess, levels=levels)
        net, alone = build(comm=comm, method=method), build(method=method)
        x = batch(60)
        for module in (net, alone):
            torch.manual_seed(RANK)  # ranks' own random numbers decide nothing
            module.calibrate(x, epochs=1, batch=12, agreement=0.1, progress=False, **options)
        found, wanted = net.plan.calibration, alone.plan.calibration
        assert found.iterations == wanted.iterations == 1
        # Nothing is summed over ranks while fitting, so that the numbers are the same.
        assert found.chosen.fits == wanted.chosen.fits
        for a, b in zip(found.chosen.sweeps, wanted.chosen.sweeps, strict=True):
            assert (a.count, a.agreement, a.error) == (b.count, b.agreement, b.error)
        assert found.certificate == wanted.certificate
        assert [here.interface for here in found.certificate.regions] == list(range(1, N + 1))
        state = alone.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        output = net.eval()(x)
        assert torch.equal(output, alone.eval()(x))
        assert net.report == alone.report
        assert net.report.sweeps == N or i == 0
        path = f"{folder}/calibrated{i}"
        net.save(path)
        again = load(path, Deep().double(), comm=comm).eval()
        assert again.plan.calibration == found
        assert torch.equal(again(x), output)
        assert again.report == net.report
        single = load(path, Deep().double()).eval()  # on another number of ranks
        assert single.plan.calibration == found
        assert torch.equal(single(x), output)


def holds_only_its_own(comm: Any, _folder: str) -> None:
    net = build(comm=comm)
    mine = [name for name, _ in net.named_parameters()]
    everyone = WORLD.allgather(mine)
    assert sorted(itertools.chain(*everyone)) == sorted(n for n, _ in build().named_parameters())
    norms = [name for name in mine if name.startswith("layers.") and name.endswith(".0.weight")]
    assert sum(isinstance(part, nn.BatchNorm1d) for part in net.modules()) == len(norms) < 9


def sends_each_state_once(comm: Any, _folder: str) -> None:
    net = build(comm=comm, method=Parareal(coarse="identity"))
    transport = net._emission.share.transport
    loss_of(net, batch()).backward()  # forms travel in the first step
    bytes_before, messages_before = transport.sent_bytes, transport.sent_messages
    loss_of(net, batch()).backward()
    state, output = 6 * 8 * 8, 6 * 2 * 8  # samples × width × bytes
    forward, back = RANK < SIZE - 1, RANK > 0
    results = 0 if forward else SIZE - 1  # the last rank gives everybody the output
    assert transport.sent_messages - messages_before == forward + back + results
    assert transport.sent_bytes - bytes_before == (forward + back) * state + results * output


def lets_go_of_what_was_sent(comm: Any, _folder: str) -> None:
    net = build(comm=comm)
    transport = net._emission.share.transport
    for _ in range(20):
        loss_of(net, batch()).backward()
    # a step sends a state, its adjoint and the output to each other rank at most
    assert len(transport._leaving) <= 2 * (SIZE + 1), len(transport._leaving)


def keeps_checkpoints(comm: Any, folder: str) -> None:
    net, alone = pair(comm)
    for module in (net, alone):
        torch.manual_seed(1)
        loss_of(module, batch()).backward()
        torch.optim.SGD(module.parameters(), 0.1).step()
    wanted = equalised(net, alone)
    for consolidated in (False, True):
        path = f"{folder}/{consolidated}"
        net.save(path, consolidated=consolidated)
        shards = list(Path(path).glob("*.safetensors"))
        assert len(shards) == (1 if consolidated else SIZE)
        here = load(path, Deep().double())
        assert all(torch.equal(value, wanted[name]) for name, value in here.state_dict().items())
        again = load(path, Deep().double(), comm=comm)
        assert_same(again, net.state_dict())
        other = load(path, Deep().double(), n=3, comm=comm)
        assert_same(other.to_serial(), alone.to_serial().state_dict())
    serial = net.to_serial()
    assert type(serial) is Deep
    assert_same(serial, alone.to_serial().state_dict())
    fresh = build(comm=comm)
    fresh.load_state_dict(serial.state_dict())
    assert_same(fresh.to_serial(), serial.state_dict())
    WORLD.Barrier()


def assert_same(module: nn.Module, wanted: dict[str, Tensor]) -> None:
    state = module.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def takes_weights_of_rank_0(comm: Any, _folder: str) -> None:
    torch.manual_seed(RANK)
    model = Deep().double()
    net = pararealize(model, N, example_inputs=(batch(),), comm=comm)
    torch.manual_seed(0)
    assert_same(net.to_serial(), Deep().double().state_dict())


def works_on_part_of_the_ranks(comm: Any, _folder: str) -> None:
    if not isinstance(comm, MPI.Comm) or SIZE < 3:
        return
    part = comm.Split(color=int(RANK == 0), key=-RANK)  # the others, in reverse order
    if part.size > 1:
        net, alone = build(comm=part), build()
        for module in (net, alone):
            torch.manual_seed(1)
            loss_of(module, batch()).backward()
        assert_alike(net, alone)


def measures_costs_once_for_all(comm: Any, _folder: str) -> None:
    """Coarse networks are priced by what rank 0 measured: compiling compares the ranks' plans."""
    method = Parareal("thinned", "difference", guess="coarse")
    net = build(comm=comm, method=method, cost="measured")
    priced = [piece.coarse_seconds for piece in net.plan.pieces]
    assert min(priced) > 0
    predicted = build(method=method).plan.pieces
    assert priced != [piece.coarse_seconds for piece in predicted]


def agrees_in_single_precision(comm: Any, _folder: str) -> None:
    torch.manual_seed(0)
    model, x = resnet(20, width=4), torch.randn(4, 3, 32, 32)
    net, alone = (pararealize(model, N, example_inputs=(x,), comm=c) for c in (comm, None))
    for module in (net, alone):
        loss_of(module, x).backward()
    names = [name for name, p in net.named_parameters() if p.grad is not None]
    found = torch.cat([net.get_parameter(name).grad.ravel() for name in names])
    wanted = torch.cat([alone.get_parameter(name).grad.ravel() for name in names])
    assert torch.linalg.vector_norm(found - wanted) <= 1e-6 * torch.linalg.vector_norm(wanted)


def carries_truth_values(comm: Any, _folder: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (3, 5))
    method = Parareal(coarse="fine", correction="difference")
    nets = []
    for c in (comm, None):
        torch.manual_seed(0)
        net = pararealize(Masked().double(), N, method=method, example_inputs=(tokens,), comm=c)
        for _ in range(2):
            loss_of(net, tokens).backward()
        nets.append(net)
    assert any("bool" in text for piece in nets[1].plan.pieces for text in piece.state)
    assert_alike(*nets)


def keeps_channels_last(comm: Any, _folder: str) -> None:
    torch.manual_seed(0)
    model = resnet(20, width=4).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    net, alone = (pararealize(model, 3, example_inputs=(x,), comm=c) for c in (comm, None))
    for module in (net, alone):
        loss_of(module, x).backward()
    for name, parameter in net.named_parameters():
        assert close(parameter.grad, alone.get_parameter(name).grad, 1e-5), name


def reports(comm: Any, _folder: str) -> None:
    net, alone = pair(comm)
    for module in (net, alone):
        torch.manual_seed(1)
        module(batch())
    everyone = WORLD.allgather(net.report)
    assert everyone == [net.report] * SIZE  # the second time nobody is asked
    jumps, wanted = net.report.jumps, alone.report.jumps
    assert len(wanted) == N - 1
    assert [j.interface for j in jumps] == [j.interface for j in wanted]
    assert all(
        abs(a.norm - b.norm) <= ROUNDING * b.norm for a, b in zip(jumps, wanted, strict=True)
    )
    assert f"on {SIZE} devices" in net.explain()
    assert "fine." in net.code
    assert net.schedule.ranks == SIZE


class Tied(nn.Module):
    """Tokens in and tokens out with one table, and a layer that is called at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(9))
        self.out = nn.Linear(8, 9, bias=False)
        self.out.weight = self.tokens.weight
        self.layers[4].weight = self.layers[1].weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        for layer in (*self.layers, self.layers[0]):
            x = x + torch.tanh(layer(x))
        return self.out(x)


def ties_weights(comm: Any, folder: str) -> None:
    tokens = torch.arange(8).view(2, 4)
    torch.manual_seed(4)
    model = Tied().double()
    options: dict[str, Any] = {"example_inputs": (tokens,), "method": Parareal(iterations=2)}
    net, alone = (pararealize(model, N, **options, **at) for at in ({"comm": comm}, {}))
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.01) for each in (net, alone)]
    for repeat in range(3):
        for each, optimizer in zip((net, alone), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=repeat != 1)
            loss_of(each, tokens).backward()
            loss_of(each, tokens.flip(0)[:1]).backward()  # accumulates
        assert_alike(net, alone)
        norms = [each.clip_grad_norm_(0.5) for each in (net, alone)]
        assert close(*norms)
        for optimizer in optimizers:
            optimizer.step()
    assert_alike(net, alone)
    whole = net.to_serial()
    assert whole.out.weight is whole.tokens.weight
    net.save(f"{folder}/tied")
    again = load(f"{folder}/tied", Tied().double(), comm=comm)
    for found in (again, load(f"{folder}/tied", Tied().double())):
        assert_same(found.to_serial(), whole.state_dict())


def runs_blocks(comm: Any, _folder: str) -> None:
    """A forward that cannot be traced runs around the blocks on every rank that needs it."""
    torch.manual_seed(5)
    model, tokens = Language(5).double(), torch.arange(8).view(2, 4)
    options: dict[str, Any] = {"example_inputs": (tokens,), "blocks": "trunk.blocks"}
    net, alone = (pararealize(model, N, **options, **at) for at in ({"comm": comm}, {}))
    for training in (True, False):
        for given in (tokens, tokens[:1, :3]):
            outputs = []
            for each in (net.train(training), alone.train(training)):
                torch.manual_seed(6)
                each.zero_grad()
                outputs.append(each(given))
                torch.stack([v.square().sum() for v in outputs[-1].values()]).sum().backward()
            assert all(close(*(output[key] for output in outputs)) for key in outputs[0])
            assert_alike(net, alone)


def runs_lists_of_blocks(comm: Any, _folder: str) -> None:
    """Lists that are found, of which some ranks hold no block; what is drawn between them."""
    for kind, count in ((Pair, 2), (Biased, 1)):
        torch.manual_seed(5)
        model = kind().double()
        given = tuple(torch.randn(2, 4 + i, WIDTH).double() for i in range(count))
        options: dict[str, Any] = {
            "example_inputs": given,
            "method": Parareal(coarse="fine", correction="difference"),
        }
        net, alone = (pararealize(model, N, **options, **at) for at in ({"comm": comm}, {}))
        for training in (True, False):
            outputs = []
            for each in (net.train(training), alone.train(training)):
                torch.manual_seed(6)
                each.zero_grad()
                outputs.append(tensors_of(each(*given)))
                torch.stack([v.square().sum() for v in outputs[-1]]).sum().backward()
            assert all(map(close, *outputs))
            assert_alike(net, alone)


def trains_layer_parallel(comm: Any, _folder: str) -> None:
    """Layers as TorchBraid's users write them, between others that all ranks hold."""
    nets = [surrounded(at, steps) for at, steps in ((comm, 4), (None, 4 * SIZE))]
    optimizers = [torch.optim.Adam(each.parameters(), 1e-2) for each in nets]
    x = batch().requires_grad_()
    outputs, inputs = [], []
    for each, optimizer in zip(nets, optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            output = each(x)
            output.square().sum().backward()
            optimizer.step()
        outputs.append(output)
        inputs.append(x.grad)
        x.grad = None
    assert close(*outputs, tolerance=1e-9)  # Adam divides by roots of small numbers
    assert close(*inputs, tolerance=1e-9)
    net, alone = nets
    other = alone.state_dict()
    assert all(close(value, other[name], 1e-9) for name, value in net.state_dict().items())
    held = {int(name.split(".")[2]) for name in net.state_dict() if name.startswith("1.")}
    assert held == set(range(4 * RANK, 4 * RANK + 4))
    equalised(net, alone)
    assert_same(net[1].to_serial(), alone[1].to_serial().state_dict())
    assert close(net(x), alone(x))
    assert close(copy.deepcopy(net)(x), alone(x))


def shares_slices_of_time(comm: Any, _folder: str) -> None:
    """A recurrence whose slices of time ranks advance: states, gradients, and steps of training."""
    steps = [copy.deepcopy(step) for step in [ImplicitGRUStep(3, 5).double()] * 2]
    solvers = [
        TimeParallel(step, 2 * SIZE, 1e-8, sweeps=2, comm=at)
        for at, step in zip((comm, None), steps, strict=True)
    ]
    x = torch.randn(4, 12 * SIZE - 1, 3, dtype=torch.float64).requires_grad_()
    found = []
    for solver in solvers:
        optimizer = torch.optim.SGD(solver.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            x.grad = None
            states = solver(x)
            states.square().sum().backward()
            optimizer.step()
        found.append(
            (states.detach(), x.grad, torch.cat([p.view(-1) for p in solver.parameters()]))
        )
    assert all(close(*pair) for pair in zip(*found, strict=True))


def surrounded(comm: Any, steps: int) -> nn.Sequential:
    """Between layers that are alike on all ranks; its own ones are those of rank 0."""
    torch.manual_seed(7)
    opening, closing = nn.Linear(3, 8), nn.Linear(8, 2)
    torch.manual_seed(RANK if comm is not None else 0)

    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    options = {"slices": SIZE, "cfactor": 2, "num_relax": 1}
    middle = LayerParallel(comm, block, steps, 2.0, **options)
    return nn.Sequential(opening, middle, closing).double()


def adjoints_leave_first(comm: Any, _folder: str) -> None:
    """The last rank's only subnetwork runs backward after its adjoint has left."""
    net = build(comm=comm)
    with net.recording() as recorder:
        loss_of(net, batch()).backward()
    order = [s.name for s in recorder.spans if s.kind in {"backward", "send", "recv"}]
    fine = [i for i, name in enumerate(order) if name.startswith("subnetwork")]
    sends = [i for i, name in enumerate(order) if name.startswith("adjoint") and "→" in name]
    assert not sends or all(max(sends) < i for i in fine), order


# what goes wrong on all ranks alike


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        found = str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert not [word for word in words if word not in found], found


def refuses_too_many_ranks(comm: Any, _folder: str) -> None:
    with refused(RankError, f"{SIZE} ranks", f"n={SIZE}"):
        pararealize(Deep().double(), SIZE - 1, example_inputs=(batch(),), comm=comm)


def refuses_other_inputs(comm: Any, _folder: str) -> None:
    net = build(comm=comm)
    last = RANK == SIZE - 1
    with refused(ShapeError, "rank 0: ", "[4, 3]", "[5, 3]"):
        net(batch(5 if last else 4))
    with refused(ShapeError, "rank 0: ", "float64", f"rank {SIZE - 1}: ", "float32"):
        net(batch().float() if last else batch())
    with refused(ShapeError, "train mode", "eval mode"):
        net.train(not last)(batch())
    with refused(ShapeError, "with gradients", "without gradients"), torch.set_grad_enabled(last):
        net.train()(batch())
    loss_of(net.train(), batch()).backward()  # and it still works


def refuses_other_models(comm: Any, _folder: str) -> None:
    last = RANK == SIZE - 1
    with refused(RankError, "compiles Deep with n=4", "compiles Deep with n=5"):
        pararealize(Deep().double(), N + last, example_inputs=(batch(),), comm=comm)
    with refused(RankError, f"rank {SIZE - 1}", "layers.9.0.weight", "head.weight"):
        pararealize(Deep(9 + last).double(), N, example_inputs=(batch(),), comm=comm)
    with refused(RankError, "compiled another network"):
        method = Parareal(iterations=2 if last else 1)
        pararealize(Deep().double(), N, method=method, example_inputs=(batch(),), comm=comm)
    kind = ShapeError if last else PeerError
    with refused(kind, "[6, 4]"):
        x = torch.ones(6, 3 + last, dtype=torch.float64)
        pararealize(Deep().double(), N, example_inputs=(x,), comm=comm)


def refuses_other_checkpoints(comm: Any, folder: str) -> None:
    build(comm=comm).save(f"{folder}/other")
    with refused(OSError, "another network"):
        load(f"{folder}/other", Deep(12).double(), comm=comm)
    with refused(OSError, "no saved network"):
        load(f"{folder}/nothing", Deep().double(), comm=comm)


def refuses_shared_buffers(comm: Any, _folder: str) -> None:
    model = Deep().double()
    model.layers[8][0] = model.layers[0][0]  # a BatchNorm, whose statistics both would move
    with refused(RankError, "the buffers", "layers.0.0.running_mean"):
        pararealize(model, SIZE, example_inputs=(batch(),), comm=comm)


def refuses_freed_communicators(comm: Any, _folder: str) -> None:
    if isinstance(comm, MPI.Comm):
        gone = comm.Dup()
        gone.Free()
    else:
        gone = dist.new_group(list(range(SIZE)))
        dist.barrier(comm)  # a rank that still connects would find the other gone
        dist.destroy_process_group(gone)
    with refused(RankError, "comm="):
        build(comm=gone)
    with refused(RankError, "comm="):
        build(comm="world")


def solves_by_multigrid(comm: Any, folder: str) -> None:
    method = MGRIT(2, 2, "sampled", forward_cycles=2, tolerance=1e-1, max_cycles=2)
    net, alone = build(comm=comm, method=method), build(method=method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        for module in (net, alone):
            torch.manual_seed(1)
            first, second = loss_of(module, batch(6)), loss_of(module, batch(4))
            (first + second).backward()  # two forward passes, then one backward pass through both
            loss_of(module, batch(5)).backward()
        assert_alike(net, alone)
        assert net.report.calls == alone.report.calls == 3
        assert net.report.serial_steps == alone.report.serial_steps
        net.save(f"{folder}/multigrid")
        again = load(f"{folder}/multigrid", Deep().double(), comm=comm)
        with torch.no_grad():
            assert close(again.eval()(batch()), alone.eval()(batch()))


def chooses_again(comm: Any, _folder: str) -> None:
    method = MGRIT(2, 2, "auto", forward_cycles=2)
    net, alone = build(comm=comm, method=method), build(method=method)
    for module in (net, alone):
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.startswith("layers"):
                    p.mul_(1e-6)
        module.recoarsen(*([batch(6)] if RANK == 0 or module is alone else [batch(5)]))
    found = WORLD.allgather([piece.coarse for piece in net.plan.pieces])
    assert found == [[piece.coarse for piece in alone.plan.pieces]] * SIZE
    assert "identity" in found[0], found
    for module in (net, alone):
        torch.manual_seed(1)
        loss_of(module, batch(5)).backward()
    assert_alike(net, alone)


def refuses_steps_across_ranks(comm: Any, _folder: str) -> None:
    if SIZE == N:
        with refused(RankError, "are one step"):
            build(comm=comm, method=MGRIT(3, 9, "sampled"))


CHECKS = (
    solves_by_multigrid,
    chooses_again,
    refuses_steps_across_ranks,
    accumulates_gradients,
    captures_pieces,
    changes_batch_sizes,
    measures_costs_once_for_all,
    evaluates,
    computes_in_bfloat16,
    clips_gradients,
    scales_gradients,
    freezes_parts,
    gives_gradients_of_inputs,
    gives_what_autograd_is_asked_for,
    optimises,
    clips_to_the_bit,
    resumes_on_other_ranks,
    notices_optimizers_of_the_model,
    runs_uncompiled,
    saves_as_the_umask_says,
    keeps_jumps_small,
    calibrates,
    holds_only_its_own,
    sends_each_state_once,
    lets_go_of_what_was_sent,
    keeps_checkpoints,
    takes_weights_of_rank_0,
    works_on_part_of_the_ranks,
    agrees_in_single_precision,
    carries_truth_values,
    keeps_channels_last,
    reports,
    ties_weights,
    runs_blocks,
    runs_lists_of_blocks,
    trains_layer_parallel,
    shares_slices_of_time,
    adjoints_leave_first,
    refuses_too_many_ranks,
    refuses_other_inputs,
    refuses_other_models,
    refuses_other_checkpoints,
    refuses_shared_buffers,
    refuses_freed_communicators,
)
