"""Shapes of states that small networks and maps are tried on."""

import torch

from pararealize.ir.chain import State, TensorSpec

MAPS = [(2, 4, 8, 8), (2, 6, 8, 8), (2, 4, 4, 4), (2, 8, 5, 5), (2, 3, 16, 16), (2, 5, 1, 1)]
VECTORS = [(2, 8), (2, 3), (2, 16)]
INDICES: State = (TensorSpec((2, 4), torch.int64),)


def state(*shapes: tuple[int, ...]) -> State:
    return tuple(TensorSpec(shape) for shape in shapes)


def pairs(shapes: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(a, b) for a in shapes for b in shapes]
