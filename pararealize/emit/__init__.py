"""Emission: a schedule and its propagators as something that runs."""
