"""Networks of one family that are made deeper."""

from pararealize.layers.nested import nested_iteration, refine

__all__ = ["nested_iteration", "refine"]
