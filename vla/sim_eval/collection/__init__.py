"""Datasets made in simulation: what acts, what disturbs it, what is recorded."""
