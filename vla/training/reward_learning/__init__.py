"""Reward models are learned here, measured on held-out episodes, and put to work on datasets."""
