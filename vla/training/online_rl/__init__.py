"""Policy gradients from what a policy just did: likelihoods, advantages, losses."""
