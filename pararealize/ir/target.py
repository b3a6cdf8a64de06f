"""Targets: the propagators of a network, named by what they are."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """Kinds of propagators."""

    FINE = "fine"  # Φ_j: the layers of slice j
    COARSE = "coarse"  # G_j or F_j: a cheaper network for slice j, or for a step of a coarse level
    GUESS = "guess"  # C_j, or a coarse sweep's network: the first state at interface j
    HEAD = "head"  # the layers after the last slice
    INPUTS = "inputs"  # what the layers of slice j compute of the network's inputs alone


class Target(NamedTuple):
    """A propagator: its kind, its number, and the level of a hierarchy it belongs to.

    Its text (``fine.2``, ``coarse.2``, on level 3 ``coarse3.2``, ``guess.1``, ``inputs.2``,
    ``head``) is for people, graphs and files; nothing reads its meaning from there.
    """

    kind: Kind
    number: int = 0
    level: int = 1

    @classmethod
    def fine(cls, j: int) -> Target:
        """Φ_j, of subnetwork j."""
        return cls(Kind.FINE, j)

    @classmethod
    def coarse(cls, j: int, level: int = 2) -> Target:
        """G_j or F_j, of subnetwork j; on higher levels, of a level's step j."""
        return cls(Kind.COARSE, j, level)

    @classmethod
    def guess(cls, j: int, level: int = 1) -> Target:
        """C_j, of interface j; in a coarse sweep, what guesses behind a level's step j."""
        return cls(Kind.GUESS, j, level)

    @classmethod
    def inputs(cls, j: int) -> Target:
        """What subnetwork j computes of the network's inputs alone."""
        return cls(Kind.INPUTS, j)

    def __str__(self) -> str:
        if self.kind is Kind.HEAD:
            return str(self.kind)
        return f"{self.kind}{self.level if self.level > 2 else ''}.{self.number}"

    @property
    def is_slice(self) -> bool:
        """Whether it is made of a slice's own layers."""
        return self.kind is Kind.FINE or self.kind is Kind.INPUTS

    @property
    def is_network(self) -> bool:
        """Whether it is made of the network's own layers: those of a slice, or the head."""
        return self.is_slice or self.kind is Kind.HEAD


#: The layers after the last subnetwork.
HEAD = Target(Kind.HEAD)

#: Kinds that a network has besides its own layers, and the names under which it holds them.
ADDED = (Kind.COARSE, Kind.GUESS)
