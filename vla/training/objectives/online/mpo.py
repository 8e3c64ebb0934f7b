"""Maximum a posteriori policy optimisation (Abdolmaleki et al., 2018)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.mpo import MPOExtractionConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "mpo")
class MPOConfig(CriticObjectiveConfig):
    """Imitates, of the chunks that a slow copy of the policy draws, the better ones by Q.

    Asks for likelihoods alone: no gradient goes through samples, so that heads over tokens learn as
    well as Gaussians. Learns in `vla online` and offline. Value part `td` with the slow copy's next
    actions, extraction `mpo`, which give formulas and shapes.

    Source: Abdolmaleki et al., 2018, "Maximum a posteriori policy optimisation", algorithm 2.
    """

    type: Literal["mpo"] = "mpo"
    samples: int = Field(default=20, ge=2)
    """Chunks drawn for each step."""
    epsilon: float = Field(default=0.1, gt=0)
    """How far (nats) the weights may go from equal ones, on average over states."""
    epsilon_kl: float = Field(default=0.01, gt=0)
    """How far (nats of a chunk) the policy may go from its slow copy, on average over states."""
    next_samples: int = Field(default=1, ge=1)
    """Chunks at the next state that a target is averaged over."""

    def build(self, policy: Policy) -> ActorCritic:
        value = TDConfig(**self.critics, target_policy=True, samples=self.next_samples)
        extraction = MPOExtractionConfig(
            samples=self.samples, epsilon=self.epsilon, epsilon_kl=self.epsilon_kl
        )
        return self.join(policy, value, extraction)


__all__ = ["MPOConfig"]
