"""Deciding: what a method makes of a chain: coarse propagators, schedules and where they run."""
