"""Implicit Q-learning (Kostrikov, Nair and Levine, 2022)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vla.config import Choice, register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.expectile import ExpectileConfig


@register("objectives", "iql")
class IQLConfig(CriticObjectiveConfig):
    """V as an upper expectile of Q, imitation weighted by exp(beta * (Q - V)). Works with every head and tokenizer, and never
    asks for the value of an action that the data does not hold."""

    type: Literal["iql"] = "iql"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """0.5 values the data's behaviour, towards 1 the best of it. Sparse rewards over long ways: 0.9."""
    advantage: Literal["q", "outcome"] = "q"
    """By the learned Q, or by what its target is in the very episode: for short runs, in worlds that are nearly deterministic."""
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature of the weights. Sparse rewards: 10."""
    max_weight: float = Field(default=100.0, ge=1)
    """Greatest weight."""
    standardise: bool = False
    """Take advantages in units of their running standard deviation."""
    mean_weight: bool = False
    """Divide the weights by their running mean."""
    extraction: Annotated[Any, Choice("extractions")] | None = None
    """Another way to make the policy than weighted imitation, such as best_of_n (IDQL)."""

    @model_validator(mode="after")
    def _used(self) -> IQLConfig:
        if self.extraction is not None:
            names = ("beta", "max_weight", "standardise", "mean_weight")
            refuse_unused(
                self,
                names,
                "extraction is given, and weighs by its own; set it there (best_of_n: in weights)",
            )
        return self

    def build(self, policy: Policy) -> ActorCritic:
        value = ExpectileConfig(**self.critics, expectile=self.expectile, advantage=self.advantage)
        weighing = self.extraction or WeightedBCConfig(
            beta=self.beta,
            max_weight=self.max_weight,
            standardise=self.standardise,
            mean_weight=self.mean_weight,
        )
        return self.join(policy, value, weighing)


__all__ = ["IQLConfig"]
