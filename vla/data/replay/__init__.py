"""Episodes in memory that grow while a policy acts, as windows to learn from."""
