"""Thin client for robots: numpy, msgpack and websockets, no torch, Python 3.8 or newer."""
