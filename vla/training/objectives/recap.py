"""RECAP: imitation with an advantage indicator (Physical Intelligence, 2025)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vla.config import Choice, register
from vla.models.policy import Policy
from vla.training.objective import AuxiliaryConfig
from vla.training.objectives.actor_critic import ActorCritic, Discount, build_actor_critic
from vla.training.offline_rl.extractions.advantage_conditioned import (
    AdvantageConditionedConfig,
    Share,
)


@register("objectives", "recap")
class RecapConfig(AuxiliaryConfig):
    """Imitates everything, with an indicator of whether an action was better than usual; acts with
    the indicator `positive`.

    Needs `policy.indicator: true`. Formula, with the return to go R and the quantile e of a task's
    advantages:

        L_V = mean over B, T of (V(s) - R)^2
        L_pi = mean over B, T of -log pi(a | s, I),    I = positive if R - V(s) > e, else negative

    Value part `monte_carlo` (or another), extraction `advantage_conditioned`, which give the
    shapes.

    Source: Physical Intelligence, 2025, "pi*0.6: a VLA that learns from experience",
    arXiv:2511.14759, algorithm 1. There the value is a distribution of a network of its own, which
    is trained first (here: `warmup_steps`), and corrections by people are always positive.
    """

    type: Literal["recap"] = "recap"
    value: Annotated[Any, Choice("values")] = Field(default={"type": "monte_carlo"})
    """How advantages are learned."""
    discount: Discount = 0.99
    """Per environment step."""
    positive_share: Share = 0.3
    """Share of each task's steps that are called positive."""
    per_task: bool = True
    """Find the threshold for each task; false finds one for all."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of the windows that are imitated without an indicator."""
    guidance: float = Field(default=1.0, ge=0)
    """Of control: 1 acts as the data's positive actions, more goes further from the usual ones."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn."""

    @model_validator(mode="after")
    def _consistent(self) -> RecapConfig:
        self._extraction()  # raises as it does, under the same names
        return self

    def _extraction(self) -> AdvantageConditionedConfig:
        return AdvantageConditionedConfig(
            positive_share=self.positive_share,
            per_task=self.per_task,
            dropout=self.dropout,
            guidance=self.guidance,
        )

    def build(self, policy: Policy) -> ActorCritic:
        return build_actor_critic(
            policy,
            self.value,
            self._extraction(),
            discount=self.discount,
            warmup=self.warmup_steps,
            auxiliary=self.auxiliary,
        )


__all__ = ["RecapConfig"]
