"""Policies: layers, the transformer over trajectories, and what a policy is."""

from vla.models.policies.rt1 import RT1, RT1Config
from vla.models.policy import CheckpointError, Policy, PolicyConfig, load_policy

__all__ = ["RT1", "CheckpointError", "Policy", "PolicyConfig", "RT1Config", "load_policy"]
