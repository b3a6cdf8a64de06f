"""Emit: a schedule and its propagators as a ``torch.nn.Module``."""
