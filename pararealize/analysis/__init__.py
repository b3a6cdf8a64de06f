"""What can be said of a plan and its schedule: predictions, explanations, pictures."""
