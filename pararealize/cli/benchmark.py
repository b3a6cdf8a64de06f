"""Benchmark: a network on ranks beside its peers and its ceiling, interleaved in one run."""

from __future__ import annotations

import copy
import json
import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pararealize.cli import variants
from pararealize.cli.launch import meet
from pararealize.cli.terminal import Printer
from pararealize.cli.variants import Variant
from pararealize.compiler import pararealize
from pararealize.cost.measure import turns
from pararealize.errors import SlowerThanSerialWarning
from pararealize.explain.table import Table
from pararealize.ir.methods import Method, Parareal
from pararealize.network import ParallelNetwork
from pararealize.runtime.monitoring.timeline import Span


@dataclass(frozen=True)
class Bench:
    """What is measured: batch sizes, rounds after the warm-up, training steps or inference.

    ``cost`` is what balances the subnetworks, as for :func:`pararealize.pararealize`; pipelines
    have the same ones.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    rounds: int = 5
    training: bool = True
    n: int | None = None
    method: Method | None = None
    allocator: str = "heap"
    cost: str = "predicted"
    trace: Path | None = None


@dataclass(frozen=True)
class Result:
    """What a variant came to.

    ``seconds`` is the median of its steps, ``ratio`` the median over rounds of its time to ours in
    the same round, ``error`` how far its loss is from that of one process.
    """

    variant: Variant
    seconds: float
    ratio: float
    spread: float
    error: float | None


def run(bench: Bench, model: nn.Module, shape: tuple[int, ...], comm: Any, folder: str) -> None:
    """Measure everything on the ranks of ``comm`` and print a table for each batch size."""
    torch.set_num_threads(1)
    variants.start_gloo(folder, comm.rank, comm.size)
    say = Printer.of(comm)
    try:
        for batch in bench.batches:
            x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
            results = _measure(bench, model, x, comm)
            say(table(bench, type(model).__name__, x, results))
    finally:
        dist.destroy_process_group()


def _measure(bench: Bench, model: nn.Module, x: Tensor, comm: Any) -> list[Result]:
    if not bench.training:
        settle(model, x)
    model.train(bench.training)
    n = bench.n or comm.size
    method = bench.method or Parareal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is measured
        net = pararealize(model, n, method=method, example_inputs=(x,), comm=comm, cost=bench.cost)
        alone = pararealize(model, n, method=method, example_inputs=(x,), interfaces=net.plan.cuts)
    wanted = {"parallel": _loss(alone, x), "serial": _loss(model, x)}
    del alone
    entries = list(_variants(bench, model, net, x, comm))
    losses: dict[str, float | None] = {}
    calls = [_call(variant, losses, comm) for variant in entries]
    times = turns(*calls, runs=bench.rounds, before=lambda: meet(comm))
    if bench.trace is not None:
        _write_trace(bench.trace, net, x, comm, bench)
    return [
        _result(variant, seconds, times[0], comm.allgather(losses[variant.name]), wanted)
        for variant, seconds in zip(entries, times, strict=True)
    ]


def settle(model: nn.Module, x: Tensor) -> None:
    """Give normalisation layers the statistics of ``x``; with fresh ones deep networks overflow."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _variants(
    bench: Bench, model: nn.Module, net: ParallelNetwork, x: Tensor, comm: Any
) -> Iterator[Variant]:
    training = bench.training
    yield variants.parallel(net, x, comm.size, training=training)
    yield variants.ceiling(net, x, comm.size, training=training)
    yield variants.serial(model, x, comm.rank, 1, training=training)
    yield variants.serial(model, x, comm.rank, os.cpu_count() or 1, training=training)
    if training and comm.size > 1:
        from pararealize.cli.pipelining import pipelines  # noqa: PLC0415  torch takes two seconds for it

        yield from pipelines(net, x, comm.rank, comm.size)
        replicas = variants.data_parallel(model, x, comm.rank, comm.size, training=training)
        if replicas is not None:
            yield replicas


def _loss(net: nn.Module, x: Tensor) -> float:
    """The loss of a copy, so that no statistics move."""
    with torch.no_grad():
        return variants.objective(copy.deepcopy(net)(x)).item()


def _call(variant: Variant, losses: dict[str, float | None], comm: Any) -> Callable[[], None]:
    """One step, until all ranks are through; the loss of the first is kept."""

    def call() -> None:
        losses.setdefault(variant.name, variant.run())
        meet(comm)

    return call


def _result(
    variant: Variant,
    seconds: Sequence[float],
    ours: Sequence[float],
    losses: Sequence[float | None],
    wanted: dict[str, float],
) -> Result:
    """What a variant came to, by its losses on all ranks and the seconds of its and our steps."""
    known = [loss for loss in losses if loss is not None]
    error = None
    if known and not variant.name.startswith("ceiling"):
        right = wanted["parallel" if variant.name.startswith("pararealize") else "serial"]
        # Ranks of a data-parallel network each know the loss of their share of the batch.
        mean = known[0] if variant.name.startswith("pararealize") else statistics.mean(known)
        error = abs(mean - right) / abs(right)
    middle = statistics.median(seconds)
    ratio = statistics.median(a / b for a, b in zip(seconds, ours, strict=True))
    return Result(variant, middle, ratio, (max(seconds) - min(seconds)) / middle, error)


def table(bench: Bench, name: str, x: Tensor, results: Sequence[Result]) -> Table:
    """Medians, and how many times faster ours is than each."""
    what = "training step" if bench.training else "inference"
    return Table(
        f"{name}, {what}, input {list(x.shape)}, {bench.allocator} allocator, medians of "
        f"{bench.rounds}, cuts by {bench.cost} cost",
        ("", "ranks × threads", "ms", "spread", "ours is", "loss differs by"),
        list(map(_cells, _best_pipelines(results))),
        left=("",),
    )


def _cells(result: Result) -> tuple[str, ...]:
    v = result.variant
    return (
        v.name,
        f"{v.ranks} × {v.threads}",
        f"{result.seconds * 1e3:.1f}",
        f"{result.spread:.0%}",
        f"{result.ratio:.2f}×",
        "–" if result.error is None else f"{result.error:.0e}",
    )


def _best_pipelines(results: Sequence[Result]) -> list[Result]:
    """The results, of each schedule of a pipeline only the fastest."""
    best: dict[str, Result] = {}
    for result in results:
        kind = result.variant.name.rpartition(", ")[0] or result.variant.name
        key = kind if "pipelining" in kind else result.variant.name
        if key not in best or result.seconds < best[key].seconds:
            best[key] = result
    return list(best.values())


def _write_trace(path: Path, net: ParallelNetwork, x: Tensor, comm: Any, bench: Bench) -> None:
    """One step of every rank as a file for Perfetto (Chrome's trace format)."""
    meet(comm)
    with net.recording() as recorder:
        variants.parallel(net, x, comm.size, training=bench.training).run()
    spans: list[list[Span]] | None = comm.gather(recorder.spans)
    if spans is not None:
        begin = min(span.start for row in spans for span in row)
        events = [_event(span, rank, begin) for rank, row in enumerate(spans) for span in row]
        file = path.with_name(f"{path.stem}-batch{len(x)}{path.suffix or '.json'}")
        file.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")


def _event(span: Span, rank: int, begin: float) -> dict[str, Any]:
    times = {"ts": (span.start - begin) * 1e6, "dur": (span.stop - span.start) * 1e6}
    place = {"pid": "pararealize", "tid": f"rank {rank}"}
    return {"name": span.name, "cat": span.kind, "ph": "X", **times, **place}
