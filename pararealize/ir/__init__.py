"""Frozen data: what the passes read and write."""
