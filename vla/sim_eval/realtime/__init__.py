"""Policies whose chunks arrive late: the same episodes under latencies and methods."""
