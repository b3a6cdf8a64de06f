"""Adaptive: sweeps that are decided while the network runs, in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, fx

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import Key
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.jumps import Jumps, Watched, number_of, summed
from pararealize.runtime.monitoring.measures import Known, Measure, batch_of, measures, tables
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.rules import Certified, Rule
from pararealize.runtime.values.pytree import map_tensors


@dataclass(frozen=True)
class SweepControl:
    """What may follow the first schedule, and what decides how much of it does.

    Attributes:
        later: one more sweep each.
        rule: asked after every stage but the last.
        ledger: of the statistics that propagators move.

    """

    later: tuple[Schedule, ...]
    rule: Rule
    ledger: Rollback

    @property
    def known(self) -> Known:
        """What tells the rule how far a state is from those it knows."""
        return self.rule.known if isinstance(self.rule, Certified) else {}


@dataclass(frozen=True)
class SweepRecord:
    """How the last call went."""

    sweeps: int = 0
    measures: tuple[Measure, ...] = ()

    def report(self) -> Report:
        """The jumps of all sweeps that ran."""
        return Report(tuple(m.jump() for m in self.measures), sweeps=self.sweeps)


@dataclass(frozen=True)
class GraphStage:
    """A stage as a graph: (what it takes, network inputs) → (output, watched, what it leaves).

    ``keeps`` are what later stages take, of this one and of earlier ones.
    """

    graph: fx.GraphModule
    sweeps: int
    watches: tuple[Watch, ...]
    takes: tuple[Key, ...]
    leaves: tuple[Key, ...]
    keeps: frozenset[Key]


@final
class AdaptiveRunner:
    """A network in one process: (network inputs) → (output, no watched values).

    Args:
        stages: what runs one after another.
        dial: what decides how many.
        bind: turns the arguments of a call into the network's inputs.
        plain: the first stage alone, as a graph that decides nothing by what it sees.

    """

    def __init__(
        self,
        stages: Sequence[GraphStage],
        dial: SweepControl,
        bind: Callable[..., dict[str, Any]],
        plain: fx.GraphModule,
    ) -> None:
        self.stages, self.plain = tuple(stages), plain
        self.swept = SweepRecord()
        self._dial, self._bind = dial, bind

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
        """The network's output."""
        return self.watching(None, *args, **kwargs)

    def watching(self, jumps: Jumps | None, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The same, with the penalty of the jumps kept where that is asked for."""
        batch = batch_of(self._bind(*args, **kwargs))
        known: dict[Key, Any] = {}
        found: tuple[Measure, ...] = ()
        seen: list[Watched] = []
        with self._dial.ledger.step():
            for stage in self.stages:
                taken = [known[key] for key in stage.takes]
                output, pairs, left = stage.graph(*taken, *args, **kwargs)
                if jumps is not None:
                    seen += [(w, *pair) for w, pair in zip(stage.watches, pairs, strict=True)]
                if stage is self.stages[-1]:
                    break
                rows = tables(stage.watches, pairs, batch, self._dial.known)
                found += measures(stage.watches, rows)
                if self._dial.rule.is_enough(found, detached(output)):
                    break
                known |= zip(stage.leaves, left, strict=True)
                known = {key: known[key] for key in stage.keeps}
        self.swept = SweepRecord(stage.sweeps, found)
        if jumps is not None:
            jumps.keep(summed(seen, batch) / number_of(watch for watch, *_ in seen), output)
        return output, ()


def detached(value: Any) -> Any:
    """A nest with all tensors detached."""
    return map_tensors(Tensor.detach, value)
