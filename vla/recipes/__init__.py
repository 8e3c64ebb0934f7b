"""Procedures that join training and simulation: the demo, evaluation by name, A/B comparisons."""
