"""Tracing: what a module's ``forward`` does, as programs of its train and eval modes."""
