"""Whether a dataset is what it says it is: checks, their report, and repairs that lose nothing."""
