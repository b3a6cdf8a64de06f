"""Tasks: single assignments, each of which says what it is for the network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from pararealize.errors import ScheduleError
from pararealize.ir.target import Target

#: The network's inputs, among the values of a schedule.
INPUT = "x"
Op = Literal["apply", "combine", "send", "recv", "slice", "join"]


class Role(Enum):
    """What a task is for the network."""

    FINE = auto()  # v = Φ_j(u): layers of the network itself, or their adjoint
    HEAD = auto()  # the network's layers after the last slice
    FEATURES = auto()  # what a slice's layers compute of the inputs alone: the network's own too
    GUESS = auto()  # the first state at an interface: C_j(x), or a step of a coarse sweep
    COARSE = auto()  # G_j(u), F_j(jump), or the adjoint of a coarse propagator
    JUMP = auto()  # u_new - u_old
    CORRECTION = auto()  # v + F(jump), G(u_new) + v - G(u_old): a new state
    COPY = auto()  # a value under another name
    MESSAGE = auto()  # send, recv: between ranks
    BATCH = auto()  # slice, join: between a whole batch and its parts

    @property
    def is_network(self) -> bool:
        """Whether the network without pararealize does that as well."""
        return self in {Role.FINE, Role.HEAD, Role.FEATURES}


@dataclass(frozen=True)
class Task:
    """One assignment ``value = op(...)``.

    Attributes:
        value: the name it assigns. ``send`` assigns a token that nothing reads.
        reads: values it reads; for ``recv`` none, for ``send`` the one it sends.
        target: the propagator that ``apply`` applies.
        signs: one of ``+-`` per value that ``combine`` reads.
        commits: whether this application moves statistics (BatchNorm): one per propagator.
        piece: the subnetwork it belongs to, counted from 1.
        rank: where it runs, once placed.
        peer: the other end of ``send`` and ``recv``.
        part: which part of the batch ``slice`` takes, counted from 0.
        parts: into how many parts the batch is cut where the task works on one of them.
        transposed: whether the adjoint of the propagator is applied; ``commits`` then says
            whether gradients of its weights are taken.

    """

    value: str
    op: Op
    role: Role
    reads: tuple[str, ...] = ()
    target: Target | None = None
    signs: str = ""
    commits: bool = True
    piece: int = 1
    rank: int = 0
    peer: int = -1
    part: int = 0
    parts: int = 1
    transposed: bool = False

    @property
    def propagator(self) -> str:
        """The text of what ``apply`` applies, for people; empty for other tasks."""
        return "" if self.target is None else str(self.target)

    @property
    def applied(self) -> Target:
        """What ``apply`` applies.

        Raises:
            ScheduleError: it applies nothing.

        """
        if self.target is None:
            raise ScheduleError(f"{self} applies no propagator.")
        return self.target

    def __str__(self) -> str:
        match self.op:
            case "apply":
                return f"{self.value} = {self._application()}"
            case "combine":
                terms = zip(self.signs, self.reads, strict=True)
                text = " ".join(f"{sign} {name}" for sign, name in terms)
                return f"{self.value} = {text.removeprefix('+ ')}"
            case "send":
                return f"send {self.reads[0]} → {self.peer}"
            case "recv":
                return f"{self.value} ← {self.peer}"
            case "slice":
                return f"{self.value} = slice {self.part + 1}/{self.parts} of {self.reads[0]}"
            case "join":
                return f"{self.value} = join({', '.join(self.reads)})"

    def _application(self) -> str:
        reads = ", ".join(self.reads)
        if self.transposed:
            return f"{self.target}ᵀ({reads}{', weights' if self.commits else ''})"
        return f"{self.target}({reads}{'' if self.commits else ', quiet'})"
