"""What evaluations found, whether they may be compared, and which policy is better."""
