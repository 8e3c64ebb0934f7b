"""Commands whose policies learn from what they do in simulation."""
