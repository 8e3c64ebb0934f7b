"""Episodes played by a policy or a baseline: batches, envs in workers, schedule, records, films."""
