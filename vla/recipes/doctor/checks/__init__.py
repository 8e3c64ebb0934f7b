"""The checks of `vla doctor`, found by their files."""
