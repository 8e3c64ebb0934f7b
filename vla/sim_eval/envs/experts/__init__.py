"""Who acts as the expert of envs: scripts for Fetch, and snapshots of policies
that others have trained."""
