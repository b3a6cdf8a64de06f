"""Cost: what operations take, predicted or measured, and what a schedule of them would."""
