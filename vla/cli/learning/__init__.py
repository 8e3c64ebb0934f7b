"""Commands by which policies learn from what they do, and from experts and rewards."""
