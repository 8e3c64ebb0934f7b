"""Conservative Q-learning (Kumar et al., 2020), and calibrated (Nakamoto et al., 2023)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vla.config import Choice, register
from vla.models.critics import CriticConfig
from vla.models.policy import Policy
from vla.training.extractions.ddpg_bc import DDPGBCConfig
from vla.training.objective import ObjectiveConfig
from vla.training.objectives.actor_critic import ActorCritic, Discount, build_actor_critic
from vla.training.values.conservative import ConservativeConfig


@register("objectives", "cql")
class CQLConfig(ObjectiveConfig):
    """Q that distrusts what the data does not hold; the policy climbs it (by entropy-regularised gradients, or as `extraction`
    says)."""

    type: Literal["cql"] = "cql"
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the conservative gap."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each of three kinds for the gap."""
    importance: bool = True
    """Divide by the density of what is drawn; needs head: {type: gaussian}."""
    temperature: float | Literal["auto"] = "auto"
    """Weight of the policy's entropy."""
    bc: float = Field(default=0.0, ge=0)
    """Weight of imitation beside Q."""
    discount: Discount = 0.99
    """Per environment step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far target copies move at every step."""
    critic: CriticConfig = CriticConfig()
    """Networks."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn."""
    extraction: Annotated[Any, Choice("extractions")] | None = None
    """Another way to make the policy, such as weighted_bc, best_of_n or argmax_q."""

    @property
    def calibrated(self) -> bool:
        return False

    def build(self, policy: Policy) -> ActorCritic:
        value = ConservativeConfig(
            critic=self.critic,
            target_rate=self.target_rate,
            alpha=self.alpha,
            sampled=self.sampled,
            importance=self.importance,
            calibrated=self.calibrated,
        )
        climbing = self.extraction or DDPGBCConfig(bc=self.bc, normalise=self.bc > 0, temperature=self.temperature)
        return build_actor_critic(policy, value, climbing, discount=self.discount, warmup=self.warmup_steps)


__all__ = ["CQLConfig"]
