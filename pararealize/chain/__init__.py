"""The chain: layers in order, the interfaces between them, and the blocks that repeat."""
