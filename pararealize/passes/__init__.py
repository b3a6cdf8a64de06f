"""Compiler passes: pure functions from frozen data to frozen data."""
