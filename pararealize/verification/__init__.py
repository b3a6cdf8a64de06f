"""Verification: whether what was traced is what was given, on real inputs, bit for bit."""
