"""Schedules: sweeps and cycles as tasks, and where the tasks run."""
