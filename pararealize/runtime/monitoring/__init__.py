"""Monitoring: jumps, residuals, estimates of errors, and when what ran."""
