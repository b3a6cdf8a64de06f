"""Values: states as nests of tensors, their sums, and what they look like."""
