"""GPU rows: what is measured of a network on one device, as cells of a table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import MGRIT, ParallelNetwork, Parareal, capture, capture_step
from pararealize.models import resnet
from studies.captured import Bench, Way, flat_gradients, measured, over
from studies.running import timed_anyway

#: How a network is made, its inputs, numbers of subnetworks, and whether torch.compile ends in
#: time.
Entry = tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...], bool]


# inference


def answering(call: Callable[..., Any], x: Tensor) -> Way:
    def answer() -> Tensor:
        with torch.no_grad():
            found: Tensor = call(x)
            return found.detach().float().clone()

    def run() -> None:
        with torch.no_grad():
            call(x)

    return run, answer


def compiled(bench: Bench, model: nn.Module, mode: str, x: Tensor) -> Way:
    """torch.compile as it is fastest; a rehearsal compiles nothing."""
    options: dict[str, Any] = {"backend": "eager"} if bench.tiny else {"mode": mode}
    way = answering(torch.compile(model, **options), x)
    for _ in range(3):
        way[0]()
    return way


def in_lanes(bench: Bench, net: nn.Module, x: Tensor, **options: Any) -> Way:
    fast = capture(net, (x,), device=bench.device, copies=False, **options)
    return answering(fast, x)


def inference(bench: Bench, entry: Entry) -> Sequence[str]:
    make, inputs, counts, compiles = entry
    torch.manual_seed(0)
    model, x = bench.put(make().eval()), bench.put(inputs())
    ways: dict[str, Callable[[], Way]] = {
        "eager": lambda: answering(model, x),
        "graph": lambda: in_lanes(bench, model, x),
    }
    if compiles:
        ways["compile"] = lambda: compiled(bench, model, "max-autotune", x)
    nets: dict[int, ParallelNetwork] = {}

    def parallel(n: int, **options: Any) -> Way:
        if n not in nets:
            nets[n] = timed_anyway(model, n, example_inputs=(x,)).eval()
        return in_lanes(bench, nets[n], x, **options)

    for n in counts:
        ways[f"n={n}"] = partial(parallel, n)
    ways["unwatched"] = partial(parallel, counts[0], watches=False)
    ways["folded"] = partial(parallel, counts[0], fold_norms=True)
    if compiles:
        ways["pieces"] = partial(parallel, counts[0], compile_pieces=True)
    found = measured(bench, ways, "eager")
    lanes = [f"n={n}" for n in counts]
    best = min(lanes, key=lambda n: float(found[n]) if found[n][0].isdigit() else float("inf"))
    return (
        *(found.get(name, "not tried") for name in ("eager", "graph", "compile")),
        " ".join(f"{name}: {found[name]}" for name in lanes),
        found["unwatched"],
        found["folded"],
        found.get("pieces", "not tried"),
        over(found, "graph", *lanes),
        over(found, "compile", *lanes, "pieces"),
        found.get(f"error {best}", "-"),
        found.get("MiB graph", "-"),
        found.get(f"MiB {best}", "-"),
    )


INFERENCE = (
    "eager",
    "graph",
    "compile",
    "in lanes",
    "unwatched",
    "folded",
    "compiled pieces",
    "over",
    "over compile",
    "error",
    "MiB graph",
    "MiB lanes",
)


# training


def training(bench: Bench, batch: int, n: int, *, tiny: bool) -> Sequence[str]:
    """ResNet-1001, or a small one: a step with SGD in the graph."""
    torch.manual_seed(0)
    model = bench.put(resnet(20, width=4) if tiny else resnet(1001))
    size = 16 if tiny else 32
    x = bench.put(torch.randn(batch, 3, size, size))
    y = bench.put(torch.randint(0, 10, (batch,)))
    loss = functional.cross_entropy
    names = [name for name, _ in model.named_parameters()]

    def eager() -> Way:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

        def step() -> None:
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(x), y))
            optimizer.step()

        return step, partial(flat_gradients, model, names)

    def captured(network: nn.Module) -> Way:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        step = capture_step(network, loss, (x, y), optimizer=optimizer, device=bench.device)
        step(x, y)
        return lambda: step(x, y), partial(flat_gradients, network, names)

    found = measured(
        bench,
        {
            "eager": eager,
            "graph": lambda: captured(copy.deepcopy(model)),
            "lanes": lambda: captured(timed_anyway(model, n, example_inputs=(x,))),
        },
        "eager",
    )
    ways = ("eager", "graph", "lanes")
    made = found.get("made lanes", "-")
    return (
        str(n),
        *(found[w] for w in ways),
        over(found, "graph", "lanes"),
        made,
        found.get("MiB graph", "-"),
        found.get("MiB lanes", "-"),
    )


# MGRIT


def multigrid(
    bench: Bench, make: Callable[[], nn.Module], depth: int, slices: int
) -> Sequence[str]:
    """A chain of so many layers with two inputs, batch 200."""

    def made() -> nn.Module:
        return bench.put(make())

    x = bench.put(torch.randn(200, 2))
    names = [name for name, _ in make().named_parameters()]

    def loss(output: Tensor) -> Tensor:
        return output.pow(2).mean()

    def eager() -> Way:
        model = made()

        def step() -> None:
            model.zero_grad()
            torch.autograd.backward(loss(model(x)))

        return step, partial(flat_gradients, model, names)

    def captured(network: nn.Module) -> Way:
        step = capture_step(network, loss, (x,), device=bench.device)
        step(x)
        return lambda: step(x), partial(flat_gradients, network, names)

    def parallel(batched: str) -> Way:
        method = MGRIT(coarsening=depth // slices, coarse="rediscretized", batched=batched)
        return captured(timed_anyway(made(), slices, method=method, example_inputs=(x,)))

    ways: dict[str, Callable[[], Way]] = {
        "eager": eager,
        "graph": lambda: captured(made()),
        "batch": lambda: parallel("always"),
        "streams": lambda: parallel("never"),
    }
    found = measured(bench, ways, "eager")
    faster = over(found, "graph", "batch", "streams")
    errors = [found.get(f"error {name}", "-") for name in ("batch", "streams")]
    return (*(found[name] for name in ways), faster, *errors, found.get("made batch", "-"))


# a trained network


def prototypes(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images of ten classes that differ by a faint pattern under noise."""
    labels = torch.arange(count) % 10
    torch.manual_seed(1)
    patterns = functional.interpolate(torch.randn(10, 3, 4, 4), size=(size, size), mode="bilinear")
    return patterns[labels] + 0.7 * torch.randn(count, 3, size, size), labels


@dataclass(frozen=True)
class Trained:
    """A network to train and calibrate: its images' size, subnetworks, steps and learning rate."""

    make: Callable[[], nn.Module]
    size: int
    n: int
    steps: int = 300
    rate: float = 0.05
    minutes: float = 0.7


def calibrated(bench: Bench, trained: Trained) -> Sequence[str]:
    """A network trained here, calibrated, beside itself."""
    samples = 256 if bench.tiny else 2048
    torch.manual_seed(0)
    model = bench.put(trained.make())
    images, labels = (bench.put(t) for t in prototypes(samples, trained.size))
    optimizer = torch.optim.SGD(model.parameters(), lr=trained.rate, momentum=0.9)
    step = capture_step(model, functional.cross_entropy, optimizer=optimizer, device=bench.device)
    for k in range(trained.steps):
        chosen = slice(k * 64 % samples, k * 64 % samples + 64)
        step(images[chosen], labels[chosen])
    model.eval()
    x = images[:1].clone()
    method = Parareal(correction="difference", guess="coarse", coarse="network")
    net = timed_anyway(model, trained.n, method=method, example_inputs=(x,))
    wanted = 0.1 if bench.tiny else 0.995
    reached = net.calibrate(images, progress=False, agreement=wanted, minutes=trained.minutes)
    net.eval()
    found = measured(
        bench,
        {
            "eager": lambda: answering(model, x),
            "graph": lambda: in_lanes(bench, model, x),
            "lanes": lambda: in_lanes(bench, net, x),
        },
        "eager",
    )
    ways = [found[name] for name in ("eager", "graph", "lanes")]
    return (
        *ways,
        over(found, "graph", "lanes"),
        f"{reached.reached.agreement:.1%}",
        str(net.report.sweeps),
    )
