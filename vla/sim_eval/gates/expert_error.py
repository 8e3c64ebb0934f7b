"""The expert acts where the policy is far from it.

A: action dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from vla.config import register
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal
from vla.types import Spec


@register("gates", "expert_error")
class ExpertErrorConfig(GateConfig):
    """The expert acts where the policy is far from it: the mean over the dimensions of |policy -
    expert|, in units of half of each dimension's range."""

    type: Literal["expert_error"] = "expert_error"
    threshold: float = Field(default=0.5, gt=0, le=2)
    """Of that mean, 0 (equal) to 2 (opposite ends of every range)."""

    def build(self, spec: Spec) -> ExpertErrorGate:
        return ExpertErrorGate(self.threshold, spec)


class ExpertErrorGate(Gate):
    """See `ExpertErrorConfig`."""

    def __init__(self, threshold: float, spec: Spec) -> None:
        self.threshold = threshold
        self.half_A = (np.asarray(spec.action_high) - np.asarray(spec.action_low)) / 2

    def opens(self, proposal: Proposal) -> bool:
        error_A = np.abs(proposal.action - proposal.expert) / self.half_A
        return bool(error_A.mean() > self.threshold)


__all__ = ["ExpertErrorConfig", "ExpertErrorGate"]
