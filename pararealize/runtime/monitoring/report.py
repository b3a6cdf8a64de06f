"""Report: how far the interfaces moved in the last call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.values.pytree import tensors_of


@dataclass(frozen=True)
class Jump:
    """The jump at one interface in one sweep: its 2-norm, and relative to the new state's.

    For MGRIT the residual of a level's equation for the state there. ``samples`` are the relative
    jumps of the samples of the batch, where sweeps are decided by them.
    """

    sweep: int
    interface: int
    norm: float
    relative: float
    level: int = 1
    samples: tuple[float, ...] = ()

    @property
    def largest(self) -> float:
        """The largest relative jump of any sample, or that of all where they are not told apart."""
        return max(self.samples, default=self.relative)


@dataclass(frozen=True)
class Report:
    """Jump norms of the last call, by sweep and interface.

    ``sweeps`` are those of parareal that a call takes, or that the last one took where a tolerance
    decides. For MGRIT also those of the adjoints in the last backward pass, relative to the largest
    adjoint at any interface, and of all calls so far how many there were, how many cycles they
    needed beyond those asked for, how many were run serially in the end, and how many backward
    cycles the next one takes; ``unwatched`` where the last one took a fixed number of cycles. For a
    calibrated network the estimated relative error of every answer of the batch, and whether its
    certificate doubts it.
    """

    jumps: tuple[Jump, ...]
    adjoints: tuple[Jump, ...] = ()
    calls: int = 0
    extra_cycles: int = 0
    serial_steps: int = 0
    backward_cycles: int = 0
    unwatched: bool = False
    sweeps: int = 0
    errors: tuple[float, ...] = ()
    doubtful: tuple[bool, ...] = ()

    @property
    def largest(self) -> float:
        """The largest relative jump of the last sweep that has any; zero where none has."""
        return _largest(self.jumps)

    @property
    def bias(self) -> float:
        """An estimate of the gradient's relative error: the largest adjoint residual."""
        return _largest(self.adjoints)

    def __str__(self) -> str:
        if not self.jumps and not self.calls:
            return "no jumps: the last call corrected nothing (exact, or not called yet)"
        none = [] if self.unwatched else ["no residuals: the last call was exact"]
        lines = _table("jump", self.jumps) if self.jumps else none
        if self.adjoints:
            lines += ["adjoints", *_table("residual", self.adjoints)]
        if self.errors:
            lines.append(
                f"estimated errors of {len(self.errors)} answers up to {max(self.errors):.1e}; "
                f"{sum(self.doubtful)} doubtful"
            )
        if self.calls:
            lines.append(
                f"{self.calls} calls: {self.extra_cycles} cycles more than asked for, "
                f"{self.serial_steps} solves run serially in the end; estimated bias of the "
                f"gradient {self.bias:.1e}"
            )
        if self.unwatched:
            lines.append(
                "the last call took the cycles asked for and looked at no residual, as steps do "
                "that are captured in a CUDA graph"
            )
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(str(self))  # IPython's, which shows a repr otherwise

    def _repr_html_(self) -> str:
        from pararealize.explain.notebook import report_html  # noqa: PLC0415  only where it is shown

        return report_html(self)

    def plot(self, axes: Any = None) -> Any:
        """Relative jumps against interfaces, a line a sweep, on matplotlib's ``axes`` or new ones.

        Raises:
            MissingPackageError: matplotlib is not installed.

        """
        from pararealize.explain.curves import plot_report  # noqa: PLC0415  only where it is shown

        return plot_report(self, axes)


def _largest(jumps: tuple[Jump, ...]) -> float:
    last = max((jump.sweep for jump in jumps), default=0)
    return max((j.largest for j in jumps if j.sweep == last and j.level == 1), default=0.0)


def _table(what: str, jumps: tuple[Jump, ...]) -> list[str]:
    deep = any(jump.level > 1 for jump in jumps)
    rows = [
        f"{jump.sweep:>5}  {jump.interface:>9}  {jump.norm:>10.3e}  {jump.relative:>10.3e}"
        + (f"  {jump.level:>5}" if deep else "")
        for jump in jumps
    ]
    title = f"sweep  interface  {what:>10}  {'relative':>10}"
    return [title + ("  level" if deep else ""), *rows]


def norms(values: Sequence[Any]) -> list[float]:
    """2-norms of several states, with one wait for the device where they are plain tensors."""
    plain = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    if len(plain) < len(values) or len({(v.device, v.dtype) for v in plain}) > 1 or not plain:
        return [norm(value) for value in values]
    wide = torch.float64 if plain[0].dtype == torch.float64 else torch.float32
    found = torch._foreach_norm([v.detach() for v in plain], 2, dtype=wide)
    return [float(size) for size in torch.stack(list(found)).tolist()]


def norm(value: Any) -> float:
    """2-norm over all floating-point leaves of a state."""
    leaves = (leaf.detach() for leaf in tensors_of(value) if leaf.is_floating_point())
    squares = [torch.linalg.vector_norm(leaf.to(torch.float64)) ** 2 for leaf in leaves]
    return float(sum(s.item() for s in squares) ** 0.5)
