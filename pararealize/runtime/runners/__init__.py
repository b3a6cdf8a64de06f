"""Runners: what runs a network, in one process, on a rank, by sweeps or by cycles."""
