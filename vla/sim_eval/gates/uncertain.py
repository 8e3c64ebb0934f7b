"""The expert acts where the policy is unsure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.control.settings import Measure
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal
from vla.types import Spec


@register("gates", "uncertain")
class UncertainConfig(GateConfig):
    """The expert acts where the policy is unsure of its chunk, for as long as it is executed."""

    type: Literal["uncertain"] = "uncertain"
    measure: Measure = "entropy"
    """entropy: of its tokens, as a share of the greatest possible (0 to 1), for heads with tokens.
    spread: standard deviation of random chunks, in units of half of each dimension's range, for
    every head that samples."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Of that measure."""

    @property
    def policy_measure(self) -> Measure | None:
        return self.measure

    def build(self, spec: Spec) -> UncertainGate:
        return UncertainGate(self.threshold)


class UncertainGate(Gate):
    """See `UncertainConfig`."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def opens(self, proposal: Proposal) -> bool:
        assert proposal.uncertainty is not None  # measured since `policy_measure` asks for it
        return proposal.uncertainty > self.threshold


__all__ = ["UncertainConfig", "UncertainGate"]
