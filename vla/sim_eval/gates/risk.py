"""The expert acts where what the policy proposes is likely to end in a failure.

Source: Hoque et al., 2021, "ThriftyDAgger: budget-aware novelty and risk gating for interactive
imitation learning".
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from vla.config import PathText, register
from vla.models.rewards.loaded_risk import load_risk
from vla.models.rewards.risk import RiskModel
from vla.models.rewards.running_episode import RunningEpisode, batch_of
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal
from vla.types import Spec


@register("gates", "risk")
class RiskGateConfig(GateConfig):
    """The expert acts where a risk network (`vla reward`, model: {type: risk}) calls the action
    that the policy proposes too likely to end in a failure."""

    type: Literal["risk"] = "risk"
    path: PathText
    """Folder of the risk network, or of its run."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Of the risk; null: the network's own, which held-out episodes have chosen."""

    @property
    def needs_images(self) -> bool:
        """A network that sees has to see every step."""
        return True

    def build(self, spec: Spec) -> RiskGate:
        """Raises CheckpointError or RewardError if there is no such risk network of this robot."""
        model = load_risk(self.path, spec, "gate.path")
        threshold = float(model.threshold) if self.threshold is None else self.threshold
        return RiskGate(model, threshold)


class RiskGate(Gate):
    """See `RiskGateConfig`.

    Attributes:
        risk: of the last proposal; NaN before the first.
    """

    def __init__(self, model: RiskModel, threshold: float) -> None:
        self.model = model
        self.threshold = threshold
        self.risk = float("nan")
        self._episode = RunningEpisode(model)

    def opens(self, proposal: Proposal) -> bool:
        images = proposal.observation.get("images", {})
        self._episode.see(images, proposal.observation["state"], proposal.instruction)
        proposed_11A = torch.from_numpy(np.asarray(proposal.action, np.float32))[None, None]
        batch = batch_of(self.model, [self._episode])
        self.risk = float(self.model.of_candidates(batch, proposed_11A)[0, 0])
        return self.risk > self.threshold

    def executed(self, action: np.ndarray) -> None:
        self._episode.did(action)


__all__ = ["RiskGate", "RiskGateConfig"]
