"""How long compiling takes, cold, beside what tracing alone takes; and how even the cuts are.

Every figure comes from fresh processes, one after another:

    python examples/compile_time.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from itertools import accumulate, pairwise

import torch
from torch import fx, nn

from pararealize import models, pararealize
from pararealize.chain.interfaces import build_chain
from pararealize.cost.inputs import infer_profile
from pararealize.cut.cut import head_start
from pararealize.cut.min_max import min_max
from pararealize.decide import parareal_passes
from pararealize.explain.table import Table
from pararealize.ir.plan import Machine
from pararealize.tracing.trace import trace
from studies.running import start

CASES = (("resnet(101)", 6), ("resnet(326)", 6), ("resnet(1001)", 18), ("vgg16()", 3))
REPEATS = 5
QUALITY = (2, 3, 6, 12, 18)


def build(name: str) -> nn.Module:
    """A network of ``models/`` by the call that makes it."""
    made: nn.Module = eval(name, vars(models))
    return made


def measure(network: str, n: int) -> dict[str, float]:
    """Seconds of the first trace and the first compile of this process, and of coarse networks."""
    spent = 0.0

    def timed(function: object) -> object:
        def call(*args: object, **options: object) -> object:
            nonlocal spent
            begin = time.perf_counter()
            result = function(*args, **options)  # type: ignore[operator]
            spent += time.perf_counter() - begin
            return result

        return call

    for name in ("build_coarse", "build_guesses"):
        setattr(parareal_passes, name, timed(getattr(parareal_passes, name)))
    model = build(network)
    begin = time.perf_counter()
    fx.symbolic_trace(model)
    traced = time.perf_counter() - begin
    begin = time.perf_counter()
    pararealize(model, n)
    return {"trace": traced, "compile": time.perf_counter() - begin, "coarse": spent}


def cold(name: str, n: int) -> dict[str, float]:
    """Medians over fresh processes."""
    command = [sys.executable, __file__, name, str(n)]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(REPEATS)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def compile_table() -> Table:
    """Trace and compile times side by side."""
    columns = ("network", "n", "fx trace s", "compile s", "coarse s", "(compile-coarse)/trace")
    rows = []
    for name, n in CASES:
        spent = cold(name, n)
        ratio = (spent["compile"] - spent["coarse"]) / spent["trace"]
        seconds = [f"{spent[key]:.2f}" for key in ("trace", "compile", "coarse")]
        rows.append((name, str(n), *seconds, f"{ratio:.2f}"))
    title = f"cold, medians of {REPEATS}, {torch.get_num_threads()} threads"
    return Table(title, columns, rows, left=("network",))


def quality_table() -> Table:
    """The heaviest subnetwork beside the best possible over the same interfaces."""
    rows = []
    for n in QUALITY:
        plan = pararealize(models.resnet(1001), n).plan
        heaviest = max(piece.seconds for piece in plan.pieces)
        mean = sum(piece.seconds for piece in plan.pieces) / n
        rows.append((str(n), f"{heaviest / best(n):.4f}", f"{heaviest / mean:.3f}"))
    title = "cuts of resnet(1001): heaviest subnetwork / best possible"
    return Table(title, ("n", "ratio", "heaviest / mean"), rows)


def best(n: int) -> float:
    """Least possible seconds of the heaviest subnetwork, coarse networks and messages left out."""
    model = models.resnet(1001)
    traced = trace(model)
    chain = build_chain(model, traced, infer_profile(traced.train, model, Machine()))
    sums = [0.0, *accumulate(layer.cost.seconds for layer in chain.layers)]
    bounds = min_max(head_start(chain, n), n, lambda a, b: sums[b] - sums[a])
    return max(sums[b] - sums[a] for a, b in pairwise(bounds))


def main() -> None:
    """Measure one case for the parent process, or everything."""
    if len(sys.argv) == 3:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    print(compile_table())
    print(quality_table())


if __name__ == "__main__":
    start(main)
