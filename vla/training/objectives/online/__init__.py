"""Objectives that learn from what the policy just did (`vla online`), one file each."""
