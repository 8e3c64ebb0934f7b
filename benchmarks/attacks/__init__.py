"""Kinds of hostile inputs: one file each, found by their names."""
