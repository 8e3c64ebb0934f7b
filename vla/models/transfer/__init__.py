"""Weights that go from one policy into another: carried over to a new robot, or shared by several robots."""
