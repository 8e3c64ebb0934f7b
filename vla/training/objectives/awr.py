"""Advantage-weighted regression (Peng et al., 2019)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.values.monte_carlo import Q_OPTIONS, MonteCarloConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "awr")
class AWRConfig(CriticObjectiveConfig):
    """Imitation weighted by exp(beta * advantage over V), V being the expected return of the data's
    own behaviour.

    Formula, with the return to go R and the running standard deviation c of the advantages:

        L_V = mean over B, T of (V(s) - R)^2
        L_pi = mean over B, T of min(exp(beta * (R - V(s)) / c), max_weight) * -log pi(a | s)

    With `advantage: td` a Q of the data's behaviour takes the place of R (value part `td`). Value
    part `monte_carlo`, extraction `weighted_bc`, which give the shapes.

    Source: Peng, Kumar, Zhang and Levine, 2019, "Advantage-weighted regression: simple and scalable
    off-policy reinforcement learning", algorithm 1, with beta = 1 / temperature.
    """

    type: Literal["awr"] = "awr"
    advantage: Literal["monte_carlo", "td"] = "monte_carlo"
    """From the episodes' returns, or from a Q of the data's behaviour (SARSA), which is blind to
    luck."""
    advantage_steps: int | None = Field(default=None, ge=1)
    """With `advantage: monte_carlo`: after how many control steps V takes over from the return;
    null for the whole return."""
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature, of advantages in units of their standard deviation."""
    max_weight: float = Field(default=20.0, ge=1)
    """Greatest weight."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> AWRConfig:
        if self.advantage == "monte_carlo":
            # the preset has the options of all value parts; V alone uses few of them
            why = "advantage: monte_carlo learns no Q; drop it, or set advantage: td"
            refuse_ignored_options(self, Q_OPTIONS, why)
        elif self.advantage_steps is not None:
            raise ValueError(
                "advantage_steps: advantage: td looks ahead by the chunk; drop it, or set "
                "advantage: monte_carlo"
            )
        return self

    def build(self, policy: Policy) -> ActorCritic:
        value: Any = MonteCarloConfig(**self.critics, advantage_steps=self.advantage_steps)
        if self.advantage == "td":
            value = TDConfig(**self.critics, next_actions="data")
        # standardised, so that one `beta` fits returns of any size
        extraction = WeightedBCConfig(
            beta=self.beta,
            max_weight=self.max_weight,
            standardise=True,
        )
        return self.join(policy, value, extraction)


__all__ = ["AWRConfig"]
