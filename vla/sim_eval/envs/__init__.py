"""Suites of simulated tasks, one file each: a config class, and the env that it builds."""
