"""Layers: what users build networks with that are deep in time, and train level by level."""

from pararealize.layers.mgopt import MultilevelTraining, mgopt
from pararealize.layers.nested import nested_iteration, refine
from pararealize.layers.parallel import EulerStep, LayerParallel
from pararealize.layers.recurrent import GRUStep, ImplicitGRUStep
from pararealize.layers.time_parallel import TimeParallel
from pararealize.layers.time_parareal import TimeParareal

__all__ = [
    "EulerStep",
    "GRUStep",
    "ImplicitGRUStep",
    "LayerParallel",
    "MultilevelTraining",
    "TimeParallel",
    "TimeParareal",
    "mgopt",
    "nested_iteration",
    "refine",
]
