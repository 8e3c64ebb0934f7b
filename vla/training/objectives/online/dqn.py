"""Deep Q-learning of action tokens while the policy acts: DQN (Mnih et al., 2015) and Rainbow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.training.objectives.q_transformer import QTransformerObjectiveConfig
from vla.training.offline_rl.priorities import PriorityConfig


@register("objectives", "dqn")
class DQNConfig(QTransformerObjectiveConfig):
    """Values of action tokens from what the policy tries, for heads `q_values`, in `vla online`.

    Formula: that of `q_transformer` without its conservative term and without the floor of
    Monte-Carlo returns, with double estimates and priorities: each token is a decision, the chunk
    an n-step return. Rewards and returns must lie in [0, 1]. With `policy.head: {type: q_values,
    dueling: true, bins: 51}` it has the parts of Rainbow but noisy layers; it explores by
    `act.explore: {epsilon: 0.2, epsilon_end: 0.02, epsilon_rounds: 20}`, or by softmax(Q / T) with
    `act.temperature`.

    Source: Mnih et al., 2015, "Human-level control through deep reinforcement learning"; Hessel et
    al., 2018, "Rainbow: combining improvements in deep reinforcement learning".
    """

    # mypy: the name is another one than that of the base, which is what registering needs
    type: Literal["dqn"] = "dqn"  # type: ignore[assignment]
    conservative_weight: float = Field(default=0.0, ge=0)
    """Weight of what draws the values of untried ids to 0; what is tried tells itself."""
    monte_carlo_floor: bool = False
    """No target below the return that the very trajectory had from there on."""
    double: bool = True
    """Choose the best next id by the values that learn, and take its value from their slow copy."""
    priorities: PriorityConfig | None = PriorityConfig()
    """Draw windows by the error of their values; null draws all alike."""


__all__ = ["DQNConfig"]
