"""Explanations: a plan as tables and sentences."""
