"""Policies whose chunks arrive late: one set of starts, latencies and methods, paired tests."""
