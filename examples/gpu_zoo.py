"""One CUDA device: depth in parallel, captured, beside a captured serial network.

    python examples/gpu_zoo.py --seconds 360 > zoo.txt
    python examples/gpu_zoo.py --device cpu --tiny      # a rehearsal of the same code
    python examples/gpu_zoo.py --foretell               # predictions for an H200; needs no GPU

Milliseconds, medians of rounds in which all ways take turns: the eager serial network, the serial
network in a CUDA graph, torch.compile (with CUDA graphs of its own), and the parallel network
captured with its subnetworks on streams, n at a time; for the first n "folded" has BatchNorm in
convolutions, and "compiled pieces" has them compiled. "over" is the graph's time over the fastest
of the plain ones. Errors are relative 2-norms against the eager serial network: those of networks
that were not calibrated say nothing of trained ones. What fails, or does not fit into the time,
says so in its row. On a CPU the times mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from depth import network
from torch import Tensor, nn

from pararealize.cli.zoos import import_torchvision
from pararealize.models import causal_lm, resnet, vit
from studies.captured import Bench, section
from studies.gpu_foretold import foretold
from studies.gpu_rows import INFERENCE, Entry, Trained, calibrated, inference, multigrid, training
from studies.running import needs_device, start


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


def trained(tiny: bool) -> dict[str, Trained]:
    """Networks to train and calibrate."""
    if tiny:
        return {"ResNet-20": Trained(lambda: resnet(20, width=4), 16, 2, steps=4)}
    vision = deepest(tiny)["ViT 24x256"][0]
    return {
        "ResNet-110": Trained(lambda: resnet(110), 32, 4),
        "ViT 24x256": Trained(vision, 32, 6, rate=0.01),
        "ResNet-1001": Trained(lambda: resnet(1001), 32, 18, steps=150),
    }


# all


def sections(bench: Bench) -> None:
    """Print all tables, what matters most first."""
    tiny = bench.tiny
    rows = [(name, partial(inference, bench, entry)) for name, entry in deepest(tiny).items()]
    section(bench, "inference, batch 1, ms", INFERENCE, rows)
    cases = [(2, 2)] if tiny else [(1, 18), (4, 6), (32, 6), (4, 18)]
    columns = ("n", "eager", "graph", "lanes", "over", "made s", "MiB graph", "MiB lanes")
    steps = [(f"batch {b}", partial(training, bench, b, n, tiny=tiny)) for b, n in cases]
    section(bench, "a training step of ResNet-1001, ms", columns, steps)
    sizes = (
        [(8, 8, 4)]
        if tiny
        else [(16, 512, 32), (128, 512, 32), (16, 128, 32), (256, 512, 32), (16, 4096, 64)]
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
    chains = [
        (f"{w} x {d}", partial(multigrid, bench, partial(network, w, d), d, s)) for w, d, s in sizes
    ]
    section(bench, "a step of MGRIT, batch 200, ms", columns, chains)
    columns = ("eager", "graph", "lanes", "over", "agreement", "sweeps")
    rows = [(name, partial(calibrated, bench, each)) for name, each in trained(tiny).items()]
    section(bench, "trained and calibrated, ms", columns, rows)
    rows = [(name, partial(inference, bench, entry)) for name, entry in zoo(tiny).items()]
    section(bench, "a dozen networks, inference, batch 1, ms", INFERENCE, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to see that it runs")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=360.0)
    parser.add_argument("--foretell", action="store_true", help="predict only; on any computer")
    options = parser.parse_args(arguments)
    if options.foretell:
        print(foretold({**deepest(options.tiny), **zoo(options.tiny)}))
        return
    needs_device(options.device)
    bench = Bench(options.device, options.tiny, options.rounds, options.seconds)
    print(f"torch {torch.__version__}, {bench.name}\n", flush=True)
    sections(bench)


if __name__ == "__main__":
    start(main)
