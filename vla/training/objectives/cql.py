"""Conservative Q-learning (Kumar et al., 2020), and calibrated (Nakamoto et al., 2023)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vla.config import Choice, register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig, Temperature
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.conservative import ConservativeConfig


@register("objectives", "cql")
class CQLConfig(CriticObjectiveConfig):
    """Q that distrusts what the data does not hold; the policy climbs it (by entropy-regularised gradients, or as `extraction`
    says)."""

    type: Literal["cql"] = "cql"
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the conservative gap."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each of three kinds for the gap."""
    importance: bool = True
    """Divide by the density of what is drawn; needs head: {type: gaussian, squash: full} or mixture."""
    temperature: Temperature = "auto"
    """Weight of the policy's entropy; `auto` as in ddpg_bc."""
    bc: float = Field(default=0.0, ge=0)
    """Weight of imitation beside Q."""
    extraction: Annotated[Any, Choice("extractions")] | None = None
    """Another way to make the policy, such as weighted_bc, best_of_n or argmax_q."""

    @model_validator(mode="after")
    def _used(self) -> CQLConfig:
        if self.extraction is not None:
            refuse_unused(
                self,
                ("temperature", "bc"),
                "extraction is given; set it there (ddpg_bc), or drop extraction",
            )
        return self

    @property
    def calibrated(self) -> bool:
        return False

    def build(self, policy: Policy) -> ActorCritic:
        value = ConservativeConfig(
            **self.critics,
            alpha=self.alpha,
            sampled=self.sampled,
            importance=self.importance,
            calibrated=self.calibrated,
        )
        climbing = self.extraction or DDPGBCConfig(
            bc=self.bc, normalise=self.bc > 0, temperature=self.temperature
        )
        return self.join(policy, value, climbing)


__all__ = ["CQLConfig"]
