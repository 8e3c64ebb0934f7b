"""Windows of trajectories as batches: decoded frames, the orders in which they are drawn, and what is gathered."""
