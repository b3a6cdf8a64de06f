"""Multigrid: cycles for the states of a network, and for their adjoints."""
