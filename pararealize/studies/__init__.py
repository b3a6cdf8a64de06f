"""Training on real digits: what the demo and the studies in ``examples/`` share."""
