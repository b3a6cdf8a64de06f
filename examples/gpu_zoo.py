"""One CUDA device: depth in parallel, captured, beside a captured serial network.

    python examples/gpu_zoo.py --seconds 360 > zoo.txt
    python examples/gpu_zoo.py --device cpu --tiny      # a rehearsal of the same code

Milliseconds, medians of rounds in which all ways take turns: the eager serial network, the serial
network in a CUDA graph, torch.compile (with CUDA graphs of its own), and the parallel network
captured with its subnetworks on streams, n at a time. "over" is the graph's time over the fastest
of these. Errors are relative 2-norms against the eager serial network: those of networks that were
not calibrated say nothing of trained ones. What fails, or does not fit into the time, says so in
its row. On a CPU the times mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import MGRIT, ParallelNetwork, Parareal, capture, capture_step
from pararealize.cli.zoos import import_torchvision
from pararealize.models import causal_lm, resnet, vit
from studies.captured import Bench, Way, flat_gradients, measured, over, section
from studies.running import start, timed_anyway

#: A network of the zoo: how it is made, its inputs, numbers of subnetworks, and whether
#: torch.compile ends in time.
Entry = tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...], bool]


def image(batch: int, size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(batch, 3, size, size)


def tokens(batch: int, length: int, vocabulary: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, vocabulary, (batch, length))


def known(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(import_torchvision(), name)(weights=None)


def deepest(tiny: bool) -> dict[str, Entry]:
    """Where depth in parallel is meant to pay."""
    if tiny:
        return {"ResNet-20": (lambda: resnet(20, width=4), image(1, 16), (2, 3), True)}
    return {
        "ResNet-1001": (lambda: resnet(1001), image(1, 32), (18, 6, 12, 24), False),
        "ResNet-164": (lambda: resnet(164), image(1, 32), (8, 12), True),
        "ViT 24x256": (
            lambda: vit(24, width=256, heads=8, patch=4, size=32, channels=3),
            image(1, 32),
            (8, 12),
            True,
        ),
    }


def zoo(tiny: bool) -> dict[str, Entry]:
    """A dozen well-known networks."""
    if tiny:
        return {"ResNet-20": (lambda: resnet(20, width=4), image(1, 16), (2,), False)}
    size = image(1, 224)
    names = ("resnet50", "resnet152", "vgg16", "mobilenet_v3_large", "efficientnet_b0")
    names += ("efficientnet_b4", "convnext_tiny", "regnet_y_8gf", "swin_t", "vit_b_16")
    found: dict[str, Entry] = {name: (known(name), size, (4,), False) for name in names}
    text = tokens(1, 128, 1000)
    found["GPT-2 shape, 12x768"] = (
        partial(causal_lm, 1000, depth=12, width=768, heads=12, context=128),
        text,
        (4,),
        False,
    )
    found["GPT-2 shape, 48x256"] = (
        partial(causal_lm, 1000, depth=48, width=256, context=128),
        text,
        (8,),
        False,
    )
    return found


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


def in_lanes(bench: Bench, net: nn.Module, x: Tensor, *, watches: bool = True) -> Way:
    fast = capture(net, (x,), device=bench.device, copies=False, watches=watches)
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

    def parallel(n: int, *, watches: bool = True) -> Way:
        if n not in nets:
            nets[n] = timed_anyway(model, n, example_inputs=(x,)).eval()
        return in_lanes(bench, nets[n], x, watches=watches)

    for n in counts:
        ways[f"n={n}"] = partial(parallel, n)
    ways["unwatched"] = partial(parallel, counts[0], watches=False)
    found = measured(bench, ways, "eager")
    lanes = [f"n={n}" for n in counts]
    best = min(lanes, key=lambda n: float(found[n]) if found[n][0].isdigit() else float("inf"))
    return (
        *(found.get(name, "not tried") for name in ("eager", "graph", "compile")),
        " ".join(f"{name}: {found[name]}" for name in lanes),
        found["unwatched"],
        over(found, "graph", *lanes),
        over(found, "compile", *lanes),
        found.get(f"error {best}", "-"),
        f"{bench.memory():.0f}",
    )


INFERENCE = (
    "eager",
    "graph",
    "compile",
    "in lanes",
    "unwatched",
    "over",
    "over compile",
    "error",
    "MiB",
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
        f"{bench.memory():.0f}",
    )


# MGRIT


def multigrid(bench: Bench, width: int, depth: int, slices: int) -> Sequence[str]:
    """A chain with weights that are smooth in depth, as in examples/depth.py."""
    from depth import network  # noqa: PLC0415  a script beside this one

    def made() -> nn.Module:
        return bench.put(network(width, depth))  # type: ignore[no-any-return]

    x = bench.put(torch.randn(200, 2))
    names = [name for name, _ in network(width, depth).named_parameters()]

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
        method = MGRIT(coarsening=depth // slices, coarse="rediscretized", batched=batched)  # type: ignore[arg-type]
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


def calibrated(bench: Bench, *, tiny: bool) -> Sequence[str]:
    """A ResNet-110 trained here, calibrated, beside itself."""
    size, depth = (16, 20) if tiny else (32, 110)
    steps, samples = (4, 256) if tiny else (300, 2048)
    torch.manual_seed(0)
    model = bench.put(resnet(depth, width=4 if tiny else 16))
    images, labels = (bench.put(t) for t in prototypes(samples, size))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    step = capture_step(model, functional.cross_entropy, optimizer=optimizer, device=bench.device)
    for k in range(steps):
        chosen = slice(k * 64 % samples, k * 64 % samples + 64)
        step(images[chosen], labels[chosen])
    model.eval()
    x = images[:1].clone()
    method = Parareal(correction="difference", guess="coarse", coarse="network")
    net = timed_anyway(model, 2 if tiny else 4, method=method, example_inputs=(x,))
    budget: dict[str, Any] = (
        {"agreement": 0.1, "progress": False} if tiny else {"agreement": 0.995, "progress": False}
    )
    reached = net.calibrate(images.cpu() if tiny else images, **budget)
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


# all


def sections(bench: Bench) -> Iterator[str]:
    tiny = bench.tiny
    rows = [(name, partial(inference, bench, entry)) for name, entry in deepest(tiny).items()]
    section(bench, "inference, batch 1, ms", INFERENCE, rows)
    yield "inference"
    cases = [(2, 2)] if tiny else [(1, 18), (4, 6), (32, 6), (4, 18)]
    columns = ("n", "eager", "graph", "lanes", "over", "made s", "MiB")
    steps = [(f"batch {b}", partial(training, bench, b, n, tiny=tiny)) for b, n in cases]
    section(bench, "a training step of ResNet-1001, ms", columns, steps)
    yield "training"
    sizes = (
        [(8, 8, 4)]
        if tiny
        else [(16, 512, 32), (128, 512, 32), (16, 128, 32), (16, 4096, 64), (256, 512, 32)]
    )
    columns = (
        "eager",
        "graph",
        "batch",
        "streams",
        "over",
        "error batch",
        "error streams",
        "made s",
    )
    chains = [(f"{w} x {d}", partial(multigrid, bench, w, d, s)) for w, d, s in sizes]
    section(bench, "a step of MGRIT, batch 200, ms", columns, chains)
    yield "multigrid"
    columns = ("eager", "graph", "lanes", "over", "agreement", "sweeps")
    section(
        bench,
        "trained and calibrated, ms",
        columns,
        [("ResNet-110", partial(calibrated, bench, tiny=tiny))],
    )
    yield "calibrated"
    rows = [(name, partial(inference, bench, entry)) for name, entry in zoo(tiny).items()]
    section(bench, "a dozen networks, inference, batch 1, ms", INFERENCE, rows)
    yield "zoo"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to see that it runs")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=360.0)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("This study needs a CUDA device, and this PyTorch sees none.\n")
        raise SystemExit(2)
    bench = Bench(options.device, options.tiny, options.rounds, options.seconds)
    print(f"torch {torch.__version__}, {bench.name}\n", flush=True)
    for _ in sections(bench):
        pass


if __name__ == "__main__":
    start(main)
