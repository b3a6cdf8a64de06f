"""Directions: tasks along a chain of levels, for states and for adjoints, written once each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

from pararealize.ir.hierarchy import Feature, Level, propagator
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Role, Task

#: Values of a level's chain: what relaxation made of a point, and G of the point before it.
Source = tuple[str, str]


@dataclass
class Direction(ABC):
    """Writes tasks along a chain; the same operation on the same values is written once.

    ``coarse`` is what steps of coarse levels are for now: the first guess, or corrections;
    ``names`` begin values of fine propagators, of coarse ones, and of corrections.
    """

    names: ClassVar[tuple[str, str, str]]
    transposed: ClassVar[bool] = False
    levels: tuple[Level, ...]
    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[Target | str, ...], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    features: Mapping[Target, tuple[Feature, ...]] = field(default_factory=dict)
    coarse: Role = Role.COARSE

    @abstractmethod
    def position(self, level: int, step: int) -> tuple[int, int, int]:
        """The step counted from the chain's start, the interface it ends at, and its subnetwork."""

    def apply(self, level: int, step: int, read: str) -> str:
        """The step of a level from a point."""
        number, end, piece = self.position(level, step)
        applied = propagator(level, number)
        if (known := self.known.get((applied, read))) is not None:
            return known
        fine, coarse, _ = self.names
        name = fine if level == 1 else coarse if level == 2 else f"{coarse}{level}_"
        role = Role.FINE if level == 1 else self.coarse
        own = self.features.get(applied, ())
        for feature in own:
            self._compute(feature)
        reads, value = (read, *(feature.value for feature in own)), self._next(f"{name}{end}")
        task = Task(value, "apply", role, reads, applied, piece=piece, transposed=self.transposed)
        return self._written((applied, read), task)

    def step(self, level: int, step: int, read: str, source: Source | None) -> str:
        """u_j = G_j(u_{j-1}) + s_j with s_j = v_j - G_j(old); v_j itself where nothing moved."""
        made = self.apply(level, step, read)
        if source is None:
            return made
        relaxed, before = source
        if made == before:
            return relaxed
        reads = (made, relaxed, before)
        if (known := self.known.get(reads)) is not None:
            return known
        _, end, piece = self.position(level, step)
        value, role = self._next(f"{self.names[-1]}{end}"), Role.CORRECTION
        return self._written(reads, Task(value, "combine", role, reads, signs="++-", piece=piece))

    def _compute(self, feature: Feature) -> None:
        """What a slice computes of the network's inputs, before its first use."""
        target, value = feature
        if (target,) not in self.known:
            self.known[target,] = value
            piece = target.number
            self.tasks.append(Task(value, "apply", Role.FEATURES, (INPUT,), target, piece=piece))

    def _next(self, name: str) -> str:
        """A value that nothing is yet: the name and how often it was given."""
        number = self.counts[name]
        self.counts[name] += 1
        return f"{name}.{number}"

    def _written(self, key: tuple[Target | str, ...], task: Task) -> str:
        self.tasks.append(task)
        self.known[key] = task.value
        return task.value


@final
class Forward(Direction):
    """States u_j = Φ_j(u_{j-1}): v of fine, g of coarse propagators, u of corrections.

    v_j = fine.j(u_{j-1}), g_j = coarse.j(u_{j-1}), u_j = g_j + v_j - g_j of the old state.
    """

    names = ("v", "g", "u")

    def position(self, level: int, step: int) -> tuple[int, int, int]:
        """The step itself, and where it ends."""
        end = self.levels[level - 1].bounds[step]
        return step, end, end


@final
class Adjoint(Direction):
    """Adjoints λ_{j-1} = Φ_jᵀ λ_j: μ of fine, γ of coarse propagators, λ of corrections.

    μ_{j-1} = fine.jᵀ λ_j, γ_{j-1} = coarse.jᵀ λ_j, λ_j = γ_j + μ_j - γ_j of the old adjoint.
    ``levels`` are mirrored.
    """

    names = ("μ", "γ", "λ")
    transposed = True

    def position(self, level: int, step: int) -> tuple[int, int, int]:
        """The step counted from the chain's start, where it ends, and its last slice."""
        mirrored = self.levels[level - 1]
        n = mirrored.bounds[-1]
        return mirrored.steps + 1 - step, n - mirrored.bounds[step], n - mirrored.bounds[step - 1]
