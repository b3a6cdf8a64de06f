"""Directions: tasks along a chain of levels, for states and for adjoints, written once each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from pararealize.ir.hierarchy import Feature, Level, propagator
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Role, Task

#: Values of a level's chain: what relaxation made of a point, and G of the point before it.
Source = tuple[str, str]


@dataclass
class Direction(ABC):
    """Writes tasks along a chain; the same operation on the same values is written once.

    ``coarse`` is what steps of coarse levels are for now: the first guess, or corrections.
    """

    levels: tuple[Level, ...]
    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[Target | str, ...], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    features: Mapping[Target, tuple[Feature, ...]] = field(default_factory=dict)
    coarse: Role = Role.COARSE

    @abstractmethod
    def task(self, level: int, step: int, read: str) -> Task:
        """The application of a level's step, its value not numbered yet."""

    @abstractmethod
    def corrected(self, level: int, step: int, reads: tuple[str, ...]) -> Task:
        """The combination that makes the point after a level's step, its value not numbered yet."""

    def apply(self, level: int, step: int, read: str) -> str:
        """The step of a level from a point."""
        task = self.task(level, step, read)
        seen = () if task.transposed else self.features.get(task.applied, ())
        for feature in seen:
            self._see(feature)
        reads = (read, *(feature.value for feature in seen))
        return self._once((task.applied, read), replace(task, reads=reads))

    def role(self, level: int) -> Role:
        """What the steps of a level are for."""
        return Role.FINE if level == 1 else self.coarse

    def step(self, level: int, step: int, read: str, source: Source | None) -> str:
        """u_j = G_j(u_{j-1}) + s_j with s_j = v_j - G_j(old); v_j itself where nothing moved."""
        made = self.apply(level, step, read)
        if source is None:
            return made
        relaxed, before = source
        if made == before:
            return relaxed
        reads = (made, relaxed, before)
        return self._once(reads, self.corrected(level, step, reads))

    def _see(self, feature: Feature) -> None:
        """What a slice computes of the network's inputs, before its first use."""
        target, value = feature
        if (target,) not in self.known:
            self.known[target,] = value
            piece = target.number
            self.tasks.append(Task(value, "apply", Role.FEATURES, (INPUT,), target, piece=piece))

    def _once(self, key: tuple[Target | str, ...], task: Task) -> str:
        if key not in self.known:
            number = self.counts[task.value]
            self.counts[task.value] += 1
            self.known[key] = f"{task.value}.{number}"
            self.tasks.append(replace(task, value=self.known[key]))
        return self.known[key]


@final
class Forward(Direction):
    """States u_j = Φ_j(u_{j-1}): v of fine, g of coarse propagators, u of corrections."""

    def task(self, level: int, step: int, read: str) -> Task:
        """v_j = fine.j(u_{j-1}), g_j = coarse.j(u_{j-1})."""
        end = self.levels[level - 1].bounds[step]
        name = "v" if level == 1 else "g" if level == 2 else f"g{level}_"
        applied = propagator(level, step)
        return Task(f"{name}{end}", "apply", self.role(level), (read,), applied, piece=end)

    def corrected(self, level: int, step: int, reads: tuple[str, ...]) -> Task:
        """u_j = g_j + v_j - g_j of the old state."""
        end = self.levels[level - 1].bounds[step]
        return Task(f"u{end}", "combine", Role.CORRECTION, reads, signs="++-", piece=end)


@final
class Adjoint(Direction):
    """Adjoints λ_{j-1} = Φ_jᵀ λ_j: μ of fine, γ of coarse propagators, λ of corrections.

    ``levels`` are mirrored.
    """

    def _place(self, level: int, step: int) -> tuple[int, int, int]:
        """The step counted from the chain's start, where it ends, and its last slice."""
        mirrored = self.levels[level - 1]
        n = mirrored.bounds[-1]
        return mirrored.steps + 1 - step, n - mirrored.bounds[step], n - mirrored.bounds[step - 1]

    def task(self, level: int, step: int, read: str) -> Task:
        """μ_{j-1} = fine.jᵀ λ_j, γ_{j-1} = coarse.jᵀ λ_j."""
        number, end, piece = self._place(level, step)
        name = "μ" if level == 1 else "γ" if level == 2 else f"γ{level}_"
        role, applied = self.role(level), propagator(level, number)
        return Task(f"{name}{end}", "apply", role, (read,), applied, piece=piece, transposed=True)

    def corrected(self, level: int, step: int, reads: tuple[str, ...]) -> Task:
        """λ_j = γ_j + μ_j - γ_j of the old adjoint."""
        _, end, piece = self._place(level, step)
        return Task(f"λ{end}", "combine", Role.CORRECTION, reads, signs="++-", piece=piece)
