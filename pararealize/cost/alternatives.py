"""Alternatives: what pipelining and data parallelism take for the same network and batch.

Of a network that launches ``launches`` kernels of ``launch`` seconds and is busy for ``busy``
seconds more, on a batch of B samples over n devices:

    pipeline     (m + n − 1) (launches · launch / n + busy / (n m) + message / m),  best m ≤ B
    replicas     launches · launch + busy / n,  n ≤ B;  a training step also sums the gradients,
                 2 (n − 1) / n · weights / bandwidth   (ring all-reduce)

Source: Huang et al., "GPipe", arXiv 1811.06965, section 2.3; Patarasuk & Yuan, "Bandwidth optimal
all-reduce algorithms", 2009.
"""

from __future__ import annotations

from pararealize.ir.forecast import Work
from pararealize.ir.plan import Machine

#: Forward passes that one training step takes: the backward pass is twice as long.
STEP = 3


def pipelined(work: Work, n: int) -> float:
    """Seconds of an evaluation in n stages of equal cost, with the best number of micro-batches."""

    def seconds(parts: int) -> float:
        stage = work.launching / n + work.busy / (n * parts)
        message = work.machine.message(work.state / parts) if n > 1 else 0.0
        return (parts + n - 1) * (stage + message)

    return min(seconds(parts) for parts in range(1, max(1, work.batch) + 1))


def replicated(work: Work, n: int, *, training: bool = False) -> float | None:
    """Seconds of an evaluation on n replicas; ``None`` where the samples are fewer.

    In a training step, a third of the seconds of a step, whose gradients are summed.
    """
    if n > max(1, work.batch):
        return None
    seconds = work.launching + work.busy / n
    if training and n > 1:
        seconds += summed(work.weights, n, work.machine) / STEP
    return seconds


def summed(weights: float, n: int, machine: Machine) -> float:
    """Seconds of a training step in which n replicas sum gradients of so many bytes."""
    around = 2 * (n - 1) / n * weights / machine.link_bandwidth
    return around + 2 * (n - 1) * machine.link_latency
