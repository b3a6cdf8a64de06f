"""Coarse propagators: every kind of them, its cost and its building."""
