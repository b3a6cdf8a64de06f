"""Cutting: where the subnetworks begin and end."""
