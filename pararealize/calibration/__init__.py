"""Calibration: coarse networks fitted to a trained network, and chosen by what they reach."""
