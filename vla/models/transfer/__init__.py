"""Weights that go from one policy into another: to a new robot, or shared by several robots."""
