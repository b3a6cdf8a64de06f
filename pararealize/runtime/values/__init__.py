"""Values: states as pytrees of tensors, their sums, and what they look like."""
