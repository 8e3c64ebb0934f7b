"""Windows of trajectories as batches: decoded frames, orders of windows, and what is gathered."""
