"""Capture: calls and training steps as graphs of a device, launched at once."""
