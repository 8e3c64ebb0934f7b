"""Implicit Q-learning (Kostrikov, Nair and Levine, 2022)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vla.config import Choice, register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.values.expectile import ExpectileConfig


@register("objectives", "iql")
class IQLConfig(CriticObjectiveConfig):
    """V as an upper expectile of Q, imitation weighted by exp(beta * (Q - V)).

    Works with every head and tokenizer, and never asks for the value of an action that the data
    does not hold. Formula, with tau = `expectile`, the least target critic Q', discount g, and
    chunks of n steps:

        L_V = mean over B, T of |tau - 1(u < 0)| u^2,    u = Q'(s, a) - V(s)
        L_Q = mean over B, T of (Q(s, a) - (r_0 + ... + g^n V(s_n)))^2
        L_pi = mean over B, T of min(exp(beta * u), max_weight) * -log pi(a | s)

    Value part `expectile`, extraction `weighted_bc`, which give the shapes.

    Source: Kostrikov, Nair and Levine, 2022, "Offline reinforcement learning with implicit
    Q-learning", eq. 5 to 7.
    """

    type: Literal["iql"] = "iql"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """0.5 values the data's behaviour, towards 1 the best of it. Sparse, late rewards: 0.9."""
    advantage: Literal["q", "outcome"] = "q"
    """By the learned Q, or by what its target is in the very episode: for short runs, in worlds
    that are nearly deterministic."""
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
    def _no_option_is_ignored(self) -> IQLConfig:
        if self.extraction is not None:
            # options of weighted imitation, which another extraction would ignore in silence
            names = ("beta", "max_weight", "standardise", "mean_weight")
            why = (
                "extraction is given, and has its own weights; set it there (best_of_n: in weights)"
            )
            refuse_ignored_options(self, names, why)
        return self

    def build(self, policy: Policy) -> ActorCritic:
        # values and policy share nothing but the features: V and Q are fitted to the data alone, so
        # any extraction may follow
        value = ExpectileConfig(
            **self.critics,
            expectile=self.expectile,
            advantage=self.advantage,
        )
        extraction = self.extraction or WeightedBCConfig(
            beta=self.beta,
            max_weight=self.max_weight,
            standardise=self.standardise,
            mean_weight=self.mean_weight,
        )
        return self.join(policy, value, extraction)


__all__ = ["IQLConfig"]
