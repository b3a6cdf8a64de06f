"""The networks that a schedule applies: fine, coarse and guess propagators."""
