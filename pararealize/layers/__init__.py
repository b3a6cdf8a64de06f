"""Layers that take several of their time steps at once when a coarse propagator asks for it."""

from pararealize.layers.recurrent import GRUStep, ImplicitGRUStep

__all__ = ["GRUStep", "ImplicitGRUStep"]
