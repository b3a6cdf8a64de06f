"""What the examples share: data, training, and comparisons."""
